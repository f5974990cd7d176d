#!/usr/bin/env bash
# Make what deploy/compose.yaml needs and nobody commits: a private CA, a certificate for localhost, and secrets.
set -euo pipefail
cd "$(dirname "$0")/../../deploy"
mkdir -p secrets
cd secrets
if [ ! -f tls.crt ]; then
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 365 -subj "/CN=Starling try-out CA" \
        -keyout ca.key -out ca.crt -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=localhost" -keyout tls.key -out tls.csr
    openssl x509 -req -in tls.csr -CA ca.crt -CAkey ca.key -days 365 -out tls.crt \
        -extfile <(printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth\n')
    rm tls.csr
fi
[ -f token_hmac_secret ] || openssl rand -base64 48 | tr -d '\n' >token_hmac_secret
[ -f api_keys ] || openssl rand -hex 24 | tr -d '\n' >api_keys
# The containers read them as another user.
chmod 644 -- *
printf "made in deploy/secrets:"; printf " %s" *; echo
