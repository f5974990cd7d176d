"""`starling serve --trial`, which the image runs: keys for a first try where the environment brings none."""

import secrets
from collections.abc import MutableMapping
from typing import Any

from starling import __version__
from starling.auth.issue import issue_connection_token

CHANNEL = "demo"
USER = "trial"
TOKEN_SECONDS = 24 * 3600

# One of these marks a deployment, where a missing setting is an error and the trial defaults do not apply.
_CHOICES = ("TOKEN_HMAC_SECRET", "TOKEN_PUBLIC_KEY", "TOKEN_JWKS_URL", "BROKER_URL", "DEV")
_DEFAULTS = {"BROKER_URL": "memory", "DEV": "false"}


def prepare_trial(environment: MutableMapping[str, str]) -> None:
    """Generate a secret for tokens and an API key into `environment`, and print them once with a token.

    Nothing happens where the environment names a key, a broker beyond this process, or developer mode.
    """
    if any(_is_chosen(environment, name) for name in _CHOICES):
        return
    secret = environment["STARLING_TOKEN_HMAC_SECRET"] = secrets.token_urlsafe(48)
    if not {"STARLING_API_KEYS", "STARLING_API_KEYS_FILE"} & environment.keys():
        environment["STARLING_API_KEYS"] = secrets.token_hex(24)
    claims = {"aud": environment.get("STARLING_TOKEN_AUDIENCE"), "iss": environment.get("STARLING_TOKEN_ISSUER")}
    given: dict[str, Any] = {name: value for name, value in claims.items() if value}
    token = issue_connection_token(secret, USER, TOKEN_SECONDS, channels=[CHANNEL], **given)
    _print(environment, secret, token)


def _is_chosen(environment: MutableMapping[str, str], name: str) -> bool:
    if f"STARLING_{name}_FILE" in environment:
        return True
    value = environment.get(f"STARLING_{name}", "")
    return bool(value) and value.lower().partition(":")[0] != _DEFAULTS.get(name)


def _print(environment: MutableMapping[str, str], secret: str, token: str) -> None:
    address = f"localhost:{environment.get('STARLING_PORT', 8000)}"
    key = environment.get("STARLING_API_KEYS", "").partition(",")[0] or "KEY"
    body = f'{{"channel": "{CHANNEL}", "data": "hello"}}'
    print(f"Starling {__version__}: a trial. One process, messages in its memory; these keys end with it.\n")
    print(f"  Token         {token}")
    print(f"                (user {USER}, subscribed to the channel {CHANNEL}, for a day)")
    print(f"  Token secret  {secret}")
    print(f"  API key       {key}\n")
    print(f"  Listen        starling subscribe {CHANNEL} --url http://{address} --token TOKEN")
    print(f"  Publish       curl http://{address}/api/publish -H 'X-API-Key: {key}' -d '{body}'\n")
    print(
        "  For more than a trial set STARLING_TOKEN_HMAC_SECRET, STARLING_API_KEYS and STARLING_BROKER_URL.", flush=True
    )
