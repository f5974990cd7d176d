"""Commands that connect as a client: subscribe to channels, and measure a round trip."""

import asyncio
import contextlib
import json
import signal
import time
from collections.abc import Coroutine
from datetime import datetime
from typing import Annotated, Any

import typer

from starling.cli.output import Output, OutputOption, console, shown_json, shown_text
from starling.cli.reading import position_of
from starling.cli.service import (
    EXIT_REFUSED,
    EXIT_UNREACHABLE,
    EXIT_USAGE,
    ServiceAddress,
    TokenOption,
    UrlOption,
    fail,
    until_interrupted,
)
from starling.problems import describe_failure

USER = "starling-cli"
# What `ping` prints before the milliseconds; tests in a cluster wait for it.
ANSWERED = "answered in"
# Beyond the second within which the SDK gives up a server that does not answer its close.
CLOSE_SECONDS = 2.0
# At most between two attempts: a person watches one client, so the SDK's 10 and 20 s are too long.
RETRY_SECONDS = 2.0
# From here on, codes of a subscription that begins anew come from the service.
SERVER_CODES = 2000
# The error of a channel that the service has subscribed the client to, such as the user's personal channel.
ALREADY_SUBSCRIBED = 105


def subscribe(
    channels: Annotated[list[str], typer.Argument(help="Names of the channels.", metavar="CHANNEL...")],
    user: Annotated[str, typer.Option(help="The user of the token, where one is made.")] = USER,
    as_user: Annotated[
        str | None,
        typer.Option(
            "--as", help="Subscribe with the rights of this user alone, as the service's clients do.", metavar="USER"
        ),
    ] = None,
    count: Annotated[int, typer.Option(min=0, help="Stop after N publications. 0: never.", metavar="N")] = 0,
    since: Annotated[
        str, typer.Option(help="Begin after this position in the history, as OFFSET:EPOCH; for one channel.")
    ] = "",
    url: UrlOption = None,
    token: TokenOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Show what is published in channels, live, until Ctrl-C.

    Where STARLING_TOKEN_HMAC_SECRET is set it makes tokens that open the channels; with --as the user's rights decide.
    After a lost connection it reconnects by itself, and where the channel keeps history it shows what it missed.
    """
    position: tuple[int, str] | None = None
    if since:
        if len(channels) != 1:
            fail("--since: name one channel, because each has positions of its own", EXIT_USAGE)
        position = position_of(since)
    service = ServiceAddress(url)
    if as_user is not None:
        if token:
            fail("--as and --token (or STARLING_TOKEN): the first makes a token, the second is one", EXIT_USAGE)
        if not service.connection_token(as_user):
            fail("--as: STARLING_TOKEN_HMAC_SECRET is not set, so no token can be made for the user", EXIT_USAGE)
    printer = _Printer(as_json=output is Output.json)
    listening = _Listening(service, user if as_user is None else as_user, token, printer, count)
    listening.opens_channels = as_user is None
    with until_interrupted(), contextlib.suppress(asyncio.CancelledError):
        asyncio.run(_cancelled_by_sigterm(listening.run(channels, position)))


async def _cancelled_by_sigterm(work: Coroutine[Any, Any, None]) -> None:
    """Await `work`; SIGTERM cancels it as asyncio lets SIGINT do."""
    task = asyncio.ensure_future(work)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await task


class _Printer:
    """Prints publications on standard output and everything else on standard error."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._out = console(soft_wrap=True)
        self._err = console(stderr=True, soft_wrap=True)

    def publication(self, channel: str, publication: Any) -> None:
        """One publication."""
        from rich.highlighter import JSONHighlighter
        from rich.text import Text

        publisher = publication.info.user if publication.info is not None else None
        if self._as_json:
            shown = {
                "channel": channel,
                "offset": publication.offset,
                "data": publication.data,
                "user": publisher,
                "tags": publication.tags,
            }
            print(json.dumps({name: value for name, value in shown.items() if value is not None}), flush=True)
            return
        line = Text()
        line.append(datetime.now().astimezone().strftime("%H:%M:%S "), style="dim")
        line.append(channel, style="bold cyan")
        if publication.offset:
            line.append(f" #{publication.offset}", style="dim")
        if publisher:
            line.append(f" {shown_text(publisher)}", style="green")
        line.append(" ")
        line.append(JSONHighlighter()(Text(shown_json(publication.data))))
        self._out.print(line)

    def notice(self, text: str, style: str = "dim") -> None:
        """Something about the connection."""
        from rich.text import Text

        self._err.print(Text(shown_text(text), style=style))


class _Listening:
    """One client of the real-time protocol, from its connect to its end."""

    def __init__(self, service: ServiceAddress, user: str, token: str | None, printer: _Printer, count: int) -> None:
        self._service = service
        self._user = user
        self._token = token
        self._printer = printer
        self._left = count
        self._since: tuple[int, str] | None = None
        self._channels: frozenset[str] = frozenset()
        self._was_connected = False
        self._reported: set[str] = set()
        self.opens_channels = True
        """Whether tokens are made for the channels too; else the user's own rights decide."""
        self._ended: asyncio.Future[tuple[str, int]]

    async def run(self, channels: list[str], since: tuple[int, str] | None) -> None:
        """Listen until the server ends it for good, or all that was asked for has come."""
        import centrifuge

        self._ended = asyncio.get_running_loop().create_future()
        self._since = since
        self._channels = frozenset(channels)
        own_token = not self._token and bool(self._service.connection_token(self._user))
        client = centrifuge.Client(
            f"{self._service.websocket}/connection/websocket",
            events=self._client_events(),
            token=self._token or "",
            get_token=self._get_token if own_token else None,
            name=USER,
            max_reconnect_delay=RETRY_SECONDS,
        )
        for channel in channels:
            subscription = client.new_subscription(
                channel,
                events=self._subscription_events(channel, since_given=since is not None),
                get_token=self._get_subscription_token if own_token and self.opens_channels else None,
                get_state=self._get_position if since else None,
                recoverable=True,
                max_resubscribe_delay=RETRY_SECONDS,
            )
            await subscription.subscribe()
        try:
            await client.connect()
            problem, code = await self._ended
        finally:
            await client.disconnect()
            await _until_closed()
        if problem:
            fail(problem, code)

    async def _get_token(self) -> str:
        return self._service.connection_token(self._user)

    async def _get_subscription_token(self, channel: str) -> str:
        return self._service.subscription_token(self._user, channel)

    async def _get_position(self, channel: str) -> Any:
        """The position to begin after. Asked for it again, the service cannot recover from there."""
        import centrifuge

        if self._since is None:
            self._end(f"{channel}: what was published since then is not kept any more: leave --since out")
            raise LookupError
        (offset, epoch), self._since = self._since, None
        return centrifuge.StreamPosition(offset, epoch)

    def _end(self, problem: str = "", code: int = EXIT_REFUSED) -> None:
        if not self._ended.done():
            self._ended.set_result((problem, code))

    def _show(self, channel: str, publication: Any) -> None:
        """Print a publication, and end after the last that was asked for."""
        self._printer.publication(channel, publication)
        self._left -= 1
        if self._left == 0:
            self._end()

    def _note_subscribed(self, channel: str, *, recovered: bool, lost: bool) -> None:
        self._reported.clear()
        notice = f"subscribed to {channel}{', and nothing was missed' if recovered else ''}"
        if lost:
            self._printer.notice(f"{notice}; what was published meanwhile is not kept any more", "yellow")
        else:
            self._printer.notice(notice)

    def _report_problem(self, what: str, error: Exception) -> None:
        """Print what keeps `what` from working at the moment, once until a subscription works."""
        problem = f"{what}: {_in_words(error)}; trying again"
        if problem not in self._reported:
            self._reported.add(problem)
            self._printer.notice(problem, "yellow")

    def _server_side_events(self) -> Any:
        """The class of what happens in channels that the service subscribes the client to."""
        import centrifuge

        listening = self

        class Events(centrifuge.ClientEventHandler):  # type: ignore[misc]  # has no types
            async def on_subscribed(self, ctx: centrifuge.ServerSubscribedContext) -> None:
                if ctx.channel in listening._channels:
                    lost = ctx.was_recovering and not ctx.recovered
                    listening._note_subscribed(ctx.channel, recovered=ctx.recovered, lost=lost)

            async def on_publication(self, ctx: centrifuge.ServerPublicationContext) -> None:
                if ctx.channel in listening._channels:
                    listening._show(ctx.channel, ctx.pub)

            async def on_unsubscribed(self, ctx: centrifuge.ServerUnsubscribedContext) -> None:
                if ctx.channel in listening._channels:
                    listening._end(f"{ctx.channel}: the service ended the subscription")

        return Events

    def _client_events(self) -> Any:
        import centrifuge

        listening = self

        class Events(self._server_side_events()):  # type: ignore[misc]  # has no types
            async def on_connecting(self, ctx: centrifuge.ConnectingContext) -> None:
                if ctx.code:
                    listening._printer.notice(f"connection lost ({ctx.code} {ctx.reason}), trying again", "yellow")

            async def on_connected(self, ctx: centrifuge.ConnectedContext) -> None:
                listening._was_connected = True
                listening._printer.notice(f"connected to {listening._service.websocket}")

            async def on_disconnected(self, ctx: centrifuge.DisconnectedContext) -> None:
                listening._end(f"the service ended the connection: {ctx.reason} (code {ctx.code})")

            async def on_error(self, ctx: centrifuge.ErrorContext) -> None:
                if isinstance(ctx.error, centrifuge.ReplyError):
                    # The service answers: only temporary errors arrive here, after which the SDK connects again.
                    listening._report_problem(listening._service.websocket, ctx.error)
                elif not listening._was_connected:
                    listening._end(f"{listening._service.websocket}: {ctx.error}: see --url", EXIT_UNREACHABLE)

        return Events()

    def _subscription_events(self, channel: str, *, since_given: bool) -> Any:
        import centrifuge

        listening = self

        class Events(centrifuge.SubscriptionEventHandler):  # type: ignore[misc]  # has no types
            async def on_subscribing(self, ctx: centrifuge.SubscribingContext) -> None:
                # Lower codes are the SDK's own: the first attempt, and a lost connection, which is reported as such.
                if ctx.code >= SERVER_CODES:
                    listening._printer.notice(
                        f"{channel}: the service ended the subscription ({ctx.code} {ctx.reason}), subscribing again",
                        "yellow",
                    )

            async def on_subscribed(self, ctx: centrifuge.SubscribedContext) -> None:
                lost = ctx.was_recovering and not ctx.recovered
                listening._note_subscribed(channel, recovered=ctx.recovered, lost=lost)

            async def on_unsubscribed(self, ctx: centrifuge.UnsubscribedContext) -> None:
                if ctx.code != ALREADY_SUBSCRIBED:
                    listening._end(f"{channel}: {ctx.reason} (code {ctx.code})")
                elif since_given:
                    listening._end(f"--since: the service subscribes the user to {channel}: leave --since out")

            async def on_publication(self, ctx: centrifuge.PublicationContext) -> None:
                listening._show(channel, ctx.pub)

            async def on_error(self, ctx: centrifuge.SubscriptionErrorContext) -> None:
                listening._report_problem(channel, ctx.error)

        return Events()


def _in_words(error: Exception) -> str:
    """What a temporary error says, or where the service sent it what it means."""
    import centrifuge

    from starling.cli.explanations import CODES

    if isinstance(error, centrifuge.ReplyError):
        meaning = CODES[error.code].meaning.removesuffix("; temporary.") if error.code in CODES else error.message
        return f"{meaning} (error {error.code})"
    return str(error) or type(error).__name__


async def _until_closed() -> None:
    """Let the SDK close its socket, which it leaves to a task that would end with the loop; CLOSE_SECONDS at most."""
    left = asyncio.all_tasks() - {asyncio.current_task()}
    if left:
        await asyncio.wait(left, timeout=CLOSE_SECONDS)


def ping(
    url: UrlOption = None,
    token: TokenOption = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds until it counts as failed.")] = 10.0,
    output: OutputOption = Output.table,
) -> None:
    """Send a message to the echo endpoint, and report the time of the round trip."""
    service = ServiceAddress(url)
    address = f"{service.websocket}/ws"
    seconds = asyncio.run(_round_trip(address, token or service.connection_token(USER), timeout))
    if output is Output.json:
        print(json.dumps({"url": address, "seconds": seconds}))
    elif seconds is None:
        print(f"{address} answers, and wants a token: give --token or STARLING_TOKEN_HMAC_SECRET.")
    else:
        print(f"{address} {ANSWERED} {seconds * 1000:.1f} ms.")


async def _round_trip(address: str, token: str, within: float) -> float | None:
    """Seconds of a round trip; None where a client without a token is refused."""
    from websockets.asyncio.client import connect
    from websockets.exceptions import InvalidStatus, WebSocketException

    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        async with asyncio.timeout(within), connect(address, additional_headers=headers) as websocket:
            began = time.perf_counter()
            await websocket.send("ping")
            answer = await websocket.recv()
            seconds = time.perf_counter() - began
    except InvalidStatus as refused:
        status = refused.response.status_code
        if status == 403 and not token:
            return None
        fail(f"{address} refused: HTTP {status} {refused.response.reason_phrase}", EXIT_REFUSED)
    except TimeoutError:
        fail(f"{address} did not answer within {within:g} s", EXIT_UNREACHABLE)
    except (OSError, WebSocketException) as error:
        fail(f"{address}: {describe_failure(error)}", EXIT_UNREACHABLE)
    if answer != "Message text was: ping":
        fail(f"{address} is no echo endpoint of Starling: it answered {str(answer)[:80]!r}", EXIT_REFUSED)
    return seconds
