"""`starling can`: whether a user may do something in a channel, and which rule decides."""

import asyncio
import json
import os
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from starling.cli.output import Output, OutputOption
from starling.cli.service import EXIT_REFUSED, EXIT_USAGE, KeyOption, ServiceAddress, UrlOption, fail

if TYPE_CHECKING:
    from starling.auth.jwks import Jwks
    from starling.web.permission_check import Permission, PermissionCheck


class VerbArgument(StrEnum):
    """The verbs of starling.engine.rights, which takes longer to load than this command does; a test compares them."""

    subscribe = "subscribe"
    publish = "publish"
    presence = "presence"
    history = "history"
    append = "append"
    cancel = "cancel"


def can(
    user: Annotated[str, typer.Argument(help="Id of the user; an empty one is an anonymous client.")],
    verb: Annotated[VerbArgument, typer.Argument(help="What the client would do.")],
    channel: Annotated[str, typer.Argument(help="Name of the channel.")],
    token: Annotated[str, typer.Option(help="A token that the client presents, for the channel or to connect.")] = "",
    subscribed: Annotated[bool, typer.Option("--subscribed", help="The client is in the channel already.")] = False,
    url: UrlOption = None,
    key: KeyOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Say whether a user may do something in a channel, and which rule decides.

    Exit code 0 is yes, 1 is no. The settings of this environment decide; with --url or --key a running service does,
    which also knows of revoked tokens.
    """
    asked = {"user": user, "verb": verb.value, "channel": channel, "token": token, "subscribed": subscribed}
    answer = ServiceAddress(url, key).call("can", asked) if url or key else _decide(asked)
    if output is Output.json:
        print(json.dumps(answer))
    else:
        rule, sentence = answer["rule"], answer["sentence"]
        reason = sentence if sentence.startswith(rule) else f"{rule}: {sentence}"
        print(f"{'yes' if answer['allowed'] else 'no'}: {reason}")
    if not answer["allowed"]:
        raise typer.Exit(EXIT_REFUSED)


def _decide(asked: dict[str, Any]) -> dict[str, Any]:
    """Decide by the settings of the environment."""
    import msgspec

    from starling.auth.build import build_verifier
    from starling.channels_file import build_channels
    from starling.cli.configuration import refuse
    from starling.protocol.codes import CommandRefused
    from starling.settings import SettingsError, load_settings
    from starling.web.api_request import why_no_channel
    from starling.web.permission_check import PermissionCheck

    try:
        settings = load_settings(os.environ)
        verifier, jwks = build_verifier(settings)
        check = PermissionCheck(verifier, build_channels(settings))
    except SettingsError as error:
        refuse(error)
    try:
        permission = asyncio.run(_ask(check, jwks if asked["token"] else None, asked))
    except CommandRefused as refusal:
        reason = why_no_channel(asked["channel"], refusal)
        fail(f"{reason.message} (code {reason.code})", EXIT_USAGE)
    answer: dict[str, Any] = msgspec.structs.asdict(permission)
    return answer


async def _ask(check: "PermissionCheck", jwks: "Jwks | None", asked: dict[str, Any]) -> "Permission":
    from starling.engine.rights import Verb

    question = {**asked, "verb": Verb(asked["verb"])}
    if jwks is None:
        return await check.decide(**question)
    jwks.start()
    try:
        return await check.decide(**question)
    finally:
        await jwks.stop()
