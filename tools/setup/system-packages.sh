#!/bin/sh
# Installs what the tests run next to Starling: databases, proxies, a browser, Prometheus, containers, a C compiler.
# With the argument "bench" also the servers that it is compared with.
# If it cannot install something, it prints what is missing, and the tests that need it are skipped.
set -eu

PATH=$PATH:/usr/sbin:/sbin
missing=

need() { # need COMMAND PACKAGE...
    command=$1
    shift
    command -v "$command" >/dev/null 2>&1 || missing="$missing $*"
}

need redis-server redis-server
need chromium chromium
need nginx nginx-light
need haproxy haproxy
need prometheus prometheus
need prometheus-alertmanager prometheus-alertmanager
need openssl openssl
need ip iproute2
need node nodejs
need npm npm
need podman podman runc netavark aardvark-dns nftables
# Debian 12's netavark writes its rules with it.
need iptables iptables
need mmdebstrap mmdebstrap
need gcc gcc libc6-dev
[ -e /usr/include/zlib.h ] || missing="$missing zlib1g-dev"
if [ "${1:-}" = bench ] && [ ! -e /usr/lib/nginx/modules/ngx_nchan_module.so ]; then
    missing="$missing libnginx-mod-nchan"
fi
# Debian keeps PostgreSQL's server off the PATH.
if ! command -v postgres >/dev/null 2>&1 && ! ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1; then
    missing="$missing postgresql"
fi

if [ -z "$missing" ]; then
    exit 0
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "Tests that need one of these are skipped, because they are not installed:$missing"
    echo "On Debian or Ubuntu: sudo apt-get install --no-install-recommends$missing"
    exit 0
fi

echo "Installing for the tests:$missing"
# The tests start their own servers; none may start as a service of this machine.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi
install_missing() {
    apt-get update -qq
    # shellcheck disable=SC2086 # a list of names
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
}
if ! install_missing; then
    echo "Not all of these could be installed:$missing" >&2
    # Continuous integration must not pass by skipping.
    [ -z "${CI:-}" ]
fi
