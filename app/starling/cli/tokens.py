"""Commands about tokens: make one, and explain one."""

import asyncio
import json
import os
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from starling.cli.output import Output, OutputOption
from starling.cli.service import EXIT_REFUSED, EXIT_USAGE, fail, read_variable

if TYPE_CHECKING:
    from starling.auth.explain import Explanation
    from starling.auth.jwks import Jwks
    from starling.auth.jwt import JwtVerifier
    from starling.settings import Settings

_HOW_TO_SIGN = (
    "STARLING_TOKEN_HMAC_SECRET is not set: set the service's own to sign tokens with it (`starling init` makes one); "
    "a service in developer mode asks for no token"
)


def token(
    user: Annotated[str, typer.Argument(help="The user that the token is for; an empty one is anonymous.")],
    ttl: Annotated[int, typer.Option(min=1, help="Seconds until the token expires.")] = 3600,
    channel: Annotated[list[str] | None, typer.Option(help="A channel that the client is subscribed to.")] = None,
    subscription: Annotated[
        str, typer.Option(help="Make a subscription token for this channel instead.", metavar="CHANNEL")
    ] = "",
    token_id: Annotated[str, typer.Option("--id", help="The token's id (jti), to revoke it by.")] = "",
    session: Annotated[str, typer.Option(help="The login session (sid) that it belongs to.")] = "",
    info: Annotated[str, typer.Option(help="JSON that others may see of the client.", metavar="JSON")] = "",
    output: OutputOption = Output.table,
) -> None:
    """Print a token signed with STARLING_TOKEN_HMAC_SECRET."""
    if channel and subscription:
        fail("--channel and --subscription: the first is for a connection token, the second makes another", EXIT_USAGE)
    claims: dict[str, Any] = {"jti": token_id, "sid": session, "channels": channel}
    if info:
        try:
            claims["info"] = json.loads(info)
        except ValueError as error:
            fail(f"--info: {error}", EXIT_USAGE)
    given = {name: value for name, value in claims.items() if value}
    if not read_variable(os.environ, "token_hmac_secret"):
        fail(_HOW_TO_SIGN, EXIT_USAGE)
    made = issue(_settings(), user, ttl, subscription, **given)
    print(json.dumps({"token": made}) if output is Output.json else made)


def issue(settings: "Settings", user: str, ttl: int, channel: str = "", **claims: Any) -> str:
    """A connection token, or with `channel` a subscription token, that ends in `ttl` seconds; may end the command."""
    from starling.auth.issue import issue_connection_token, issue_subscription_token

    secret = settings.token_hmac_secret
    if secret is None:
        fail(_HOW_TO_SIGN, EXIT_USAGE)
    registered = {"aud": settings.token_audience, "iss": settings.token_issuer}
    claims |= {name: value for name, value in registered.items() if value is not None}
    value, weak = secret.get_secret_value(), settings.dev
    try:
        if channel:
            return issue_subscription_token(value, user, channel, ttl, allow_weak_secret=weak, **claims)
        return issue_connection_token(value, user, ttl, allow_weak_secret=weak, **claims)
    except ValueError as error:
        fail(f"STARLING_TOKEN_HMAC_SECRET: {error}", EXIT_USAGE)


def verify(
    token: Annotated[str, typer.Argument(help="The token, or - to read it from standard input.")],
    output: OutputOption = Output.table,
) -> None:
    """Decode a token, and say what it grants or why it is refused. Only the running service knows of revocations."""
    from starling.auth.build import build_verifier
    from starling.cli.configuration import refuse
    from starling.settings import SettingsError

    text = sys.stdin.read().strip() if token == "-" else token  # noqa: S105 - the usual name of standard input
    try:
        verifier, jwks = build_verifier(_settings())
    except SettingsError as error:
        refuse(error)
    explanation = asyncio.run(_explain(text, verifier, jwks))
    if output is Output.json:
        reason = explanation.reason and explanation.reason.value
        content = {"accepted": explanation.accepted, "reason": reason, "sentence": explanation.sentence}
        print(json.dumps({**content, "details": explanation.details}))
    else:
        print(explanation)
    if not explanation.accepted:
        raise typer.Exit(EXIT_REFUSED)


async def _explain(token: str, verifier: "JwtVerifier", jwks: "Jwks | None") -> "Explanation":
    from starling.auth.explain import explain

    if jwks is None:
        return await explain(token, verifier)
    jwks.start()
    try:
        return await explain(token, verifier)
    finally:
        await jwks.stop()


def _settings() -> "Settings":
    from starling.cli.configuration import read_settings

    return read_settings()
