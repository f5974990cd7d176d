"""Commands that act through the server API as a backend does: publish, broadcast, unsubscribe, disconnect, revoke."""

import json
import sys
from enum import StrEnum
from typing import Annotated, Any

import typer

from starling.cli.output import Output, OutputOption
from starling.cli.service import EXIT_REFUSED, EXIT_USAGE, KeyOption, ServiceAddress, UrlOption, fail

ChannelArgument = Annotated[str, typer.Argument(help="Name of the channel.")]
DataArgument = Annotated[
    str, typer.Argument(help="JSON to publish, or - to read it from standard input.", metavar="JSON")
]
TagOption = Annotated[list[str] | None, typer.Option("--tag", help="A text sent with the data, as NAME=VALUE.")]
IdempotencyOption = Annotated[
    str, typer.Option("--idempotency-key", help="Publish once, however often this is called with it.")
]
SkipHistoryOption = Annotated[bool, typer.Option("--skip-history", help="Send to current subscribers only.")]
ClientOption = Annotated[str, typer.Option("--client", help="Only the connection with this id.")]
SessionOption = Annotated[str, typer.Option("--session", help="Only connections of this session.")]


class Revoked(StrEnum):
    """What a revocation names."""

    token = "token"  # noqa: S105 - a word, no secret
    session = "session"
    user = "user"


def publish(
    channel: ChannelArgument,
    data: DataArgument,
    tag: TagOption = None,
    key_of_publication: IdempotencyOption = "",
    skip_history: SkipHistoryOption = False,
    url: UrlOption = None,
    key: KeyOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Publish to a channel."""
    body = {"channel": channel, **_publication(data, tag, key_of_publication, skip_history=skip_history)}
    result = ServiceAddress(url, key).call("publish", body)
    if output is Output.json:
        print(json.dumps(result))
    else:
        print(_published(channel, result))


def broadcast(
    channels: Annotated[list[str], typer.Argument(help="Names of the channels.", metavar="CHANNEL...")],
    data: DataArgument,
    tag: TagOption = None,
    key_of_publication: IdempotencyOption = "",
    skip_history: SkipHistoryOption = False,
    url: UrlOption = None,
    key: KeyOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Publish the same data to several channels."""
    body = {"channels": channels, **_publication(data, tag, key_of_publication, skip_history=skip_history)}
    answers = ServiceAddress(url, key).call("broadcast", body)["responses"]
    refused = False
    for channel, answer in zip(channels, answers, strict=True):
        error = answer.get("error")
        refused = refused or error is not None
        if output is Output.json:
            print(json.dumps({"channel": channel, **answer}))
        elif error is not None:
            print(f"{channel}: {error['message']} (code {error['code']})", file=sys.stderr)
        else:
            print(_published(channel, answer["result"]))
    if refused:
        raise typer.Exit(EXIT_REFUSED)


def _publication(data: str, tag: list[str] | None, key: str, *, skip_history: bool) -> dict[str, Any]:
    text = sys.stdin.read() if data == "-" else data
    try:
        content = json.loads(text)
    except ValueError as error:
        fail(f"JSON: {error}; a text needs quotes of its own, as in '\"hello\"'", EXIT_USAGE)
    body: dict[str, Any] = {"data": content, "skip_history": skip_history}
    if key:
        body["idempotency_key"] = key
    tags = [one.partition("=") for one in tag or ()]
    if any(not name or not separator for name, separator, _ in tags):
        fail("--tag: write it as NAME=VALUE", EXIT_USAGE)
    if tags:
        body["tags"] = {name: value for name, _, value in tags}
    return body


def _published(channel: str, result: dict[str, Any]) -> str:
    if result.get("epoch"):
        return f"Published to {channel} at offset {result['offset']} of epoch {result['epoch']}."
    return f"Published to {channel}, which keeps no history."


def unsubscribe(
    user: Annotated[str, typer.Argument(help="Id of the user.")],
    channel: ChannelArgument,
    client: ClientOption = "",
    session: SessionOption = "",
    url: UrlOption = None,
    key: KeyOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Remove a user's connections from a channel, on every node."""
    body = {"user": user, "channel": channel, "client": client, "session": session}
    result = ServiceAddress(url, key).call("unsubscribe", body)
    done = f"Sent to every node: unsubscribe {_selection(user, client, session)} from {channel}."
    print(json.dumps(result) if output is Output.json else done)


def disconnect(
    user: Annotated[str, typer.Argument(help="Id of the user.")],
    client: ClientOption = "",
    session: SessionOption = "",
    code: Annotated[
        int, typer.Option(min=3000, max=4999, help="After 3000-3499 and 4000-4499 the client reconnects, else not.")
    ] = 3503,
    reason: Annotated[str, typer.Option(help="Sent to the client.")] = "force disconnect",
    url: UrlOption = None,
    key: KeyOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Close a user's connections, on every node."""
    body = {"user": user, "client": client, "session": session, "disconnect": {"code": code, "reason": reason}}
    result = ServiceAddress(url, key).call("disconnect", body)
    done = f"Sent to every node: disconnect {_selection(user, client, session)} with {code} ({reason})."
    print(json.dumps(result) if output is Output.json else done)


def revoke(
    kind: Annotated[Revoked, typer.Argument(help="Whether one token, a session or all tokens of a user.")],
    name: Annotated[str, typer.Argument(help="The token's id (jti), the session's id (sid), or the user's id.")],
    before: Annotated[
        float | None,
        typer.Option(help="Of a user: only tokens issued before, in seconds since 1970. Default: before now."),
    ] = None,
    channel: Annotated[str, typer.Option(help="Of a user: only subscription tokens of this channel.")] = "",
    expire_at: Annotated[
        float | None, typer.Option(help="When the revocation ends, in seconds since 1970: after the token's own end.")
    ] = None,
    url: UrlOption = None,
    key: KeyOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Refuse tokens from now on, and close the connections that use them with 3500."""
    if kind is not Revoked.user and (before is not None or channel):
        fail(f"--before and --channel: they are for `starling revoke user`, not for a {kind.value}", EXIT_USAGE)
    body: dict[str, Any] = {"uid" if kind is Revoked.token else kind.value: name}
    optional = {"issued_before": before, "channel": channel or None, "expire_at": expire_at}
    body |= {field: value for field, value in optional.items() if value is not None}
    method = {"token": "revoke_token", "session": "revoke_session", "user": "invalidate_user_tokens"}[kind.value]
    result = ServiceAddress(url, key).call(method, body)
    if output is Output.json:
        print(json.dumps(result))
    elif kind is Revoked.user:
        print(f"Revoked: tokens of user {name} issued before {result['issued_before']:.0f}.")
    else:
        print(f"Revoked: {kind.value} {name}.")


def _selection(user: str, client: str, session: str) -> str:
    parts = [
        f"user {user}" if user else "",
        f"client {client}" if client else "",
        f"session {session}" if session else "",
    ]
    return ", ".join(filter(None, parts)) or "anonymous users"
