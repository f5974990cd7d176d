"""Messages between nodes: announcements, commands to every node, and answers gathered with a deadline."""

import asyncio
import random
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

import msgspec
import structlog
from msgspec import Raw, Struct

from starling.engine.broker import Broker, BrokerUnavailable, PublicationTooLarge, PublishOptions
from starling.protocol.codes import Refused
from starling.protocol.messages import NO_PAYLOAD, Publication

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.control")

# In the empty namespace, which no client of the real-time protocol can name.
CHANNEL = ":control"
ANNOUNCE_SECONDS = 3.0
# A node that has not announced itself this long is gone.
GONE_SECONDS = 10.0
ANSWER_SECONDS = 2.0
_GOODBYE_SECONDS = 0.5
_GREETING_SECONDS = 0.1

_NAME = re.compile(r"(?<!^)(?=[A-Z])")

NodeCommandType = TypeVar("NodeCommandType", bound="NodeCommand")


class NodeCommand(Struct, omit_defaults=True):
    """A command to every node, with its arguments; each subclass is one kind of command."""

    @classmethod
    def name(cls) -> str:
        """Its name on the wire: `refresh_command` for RefreshCommand."""
        return _NAME.sub("_", cls.__name__).lower()


class NodeCommandRefused(Refused):
    """A node could not execute a command; the message says why."""


class NodeInfo(Struct):
    """What a node announces of itself. `uptime` in seconds."""

    uid: str
    name: str = ""
    version: str = ""
    num_clients: int = 0
    num_users: int = 0
    num_subs: int = 0
    num_channels: int = 0
    uptime: int = 0


class ControlMessage(Struct, omit_defaults=True):
    """One message: an announcement, a goodbye, a command to all nodes, or an answer to the node `to`.

    `content` is the command, or its answer. A `problem` is why there is no answer.
    """

    sender: str
    command: str = ""
    content: Raw = NO_PAYLOAD
    question: str = ""
    to: str = ""
    problem: str = ""
    node: NodeInfo | None = None
    goodbye: bool = False
    alone: bool = False


class _Question:
    """A command that waits for the answers of the nodes; `refused` is the problem of the first that refused."""

    def __init__(self) -> None:
        self.answers: dict[str, Raw] = {}
        self.refused = ""
        self.arrived = asyncio.Event()


class Control:
    """Sends commands to all nodes, this one included, and executes those it receives.

    Commands run on the event loop and return at once. They are delivered like publications, at most once: what must
    not be lost is kept in a store too, and read again when the link reconnects.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        start_task: Callable[[Coroutine[object, None, None]], object],
        describe: Callable[[], NodeInfo],
    ) -> None:
        """`describe` returns the announcement of this node; `start_task` runs work in a task that the caller owns."""
        self.listeners: dict[str, Callable[[Publication], None]] = {CHANNEL: self.on_publication}
        """What receives the publications of internal channels, by channel."""
        self._broker = broker
        self._start_task = start_task
        self._describe = describe
        self._uid = ""
        self._handlers: dict[str, Callable[[Raw], Struct | None]] = {}
        self._nodes: dict[str, tuple[float, NodeInfo]] = {}
        self._questions: dict[str, _Question] = {}
        self._met = asyncio.Event()
        self._decoder = msgspec.json.Decoder(ControlMessage)

    def on_command(self, kind: type[NodeCommandType], carry_out: Callable[[NodeCommandType], Struct | None]) -> None:
        """Have `carry_out` execute commands of `kind`; it returns the answer where one is requested.

        Where it raises NodeCommandRefused, the asking node receives the reason.
        """
        decode = msgspec.json.Decoder(kind).decode
        self._handlers[kind.name()] = lambda content: carry_out(decode(content))

    # Life

    async def run(self, uid: str) -> None:
        """Listen as node `uid`, and announce it until cancelled."""
        self._uid = uid
        # While the link is down the subscription is kept, and takes effect when the link reconnects.
        self.listeners[own_channel(uid)] = self.on_publication
        for channel in (CHANNEL, own_channel(uid)):
            with suppress(BrokerUnavailable):
                await self._broker.subscribe(channel)
        while True:
            self._met.clear()
            self._forget_the_gone()
            await self._send(ControlMessage(uid, node=self._describe()))
            with suppress(TimeoutError):
                async with asyncio.timeout(ANNOUNCE_SECONDS):
                    await self._met.wait()
                    # A new node is announced by many: one greeting, a moment later, answers all that arrived together.
                    await asyncio.sleep(random.uniform(0, _GREETING_SECONDS))  # noqa: S311 - spreads load

    def _forget_the_gone(self) -> None:
        since = time.monotonic() - GONE_SECONDS
        self._nodes = {uid: seen for uid, seen in self._nodes.items() if seen[0] > since}

    async def stop(self) -> None:
        """Announce that this node leaves, so that no other node waits for its answers."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_GOODBYE_SECONDS):
                await self._send(ControlMessage(self._uid, goodbye=True))

    @asynccontextmanager
    async def listening(self, channel: str, listener: Callable[[Publication], None]) -> AsyncIterator[None]:
        """Have `listener` receive the publications of an internal `channel` while the context lasts.

        Raises BrokerUnavailable.
        """
        self.listeners[channel] = listener
        try:
            await self._broker.subscribe(channel)
            yield
        finally:
            self.listeners.pop(channel, None)
            await self._broker.unsubscribe(channel)

    async def publish(self, channel: str, publication: Publication) -> None:
        """Publish in an internal `channel`. Raises BrokerUnavailable and PublicationTooLarge."""
        await self._broker.publish(channel, publication, PublishOptions())

    def nodes(self) -> list[NodeInfo]:
        """Every node that announced itself within GONE_SECONDS, and always this one, sorted by name."""
        since = time.monotonic() - GONE_SECONDS
        others = (info for uid, (seen_at, info) in self._nodes.items() if seen_at > since and uid != self._uid)
        return sorted([self._describe(), *others], key=lambda info: (info.name, info.uid))

    # Sending

    async def send(self, command: NodeCommand) -> None:
        """Have every node carry out `command`. Raises BrokerUnavailable and PublicationTooLarge."""
        await self._publish(ControlMessage(self._uid, command=command.name(), content=_encoded(command)))

    async def ask(self, command: NodeCommand, *, within: float = ANSWER_SECONDS) -> dict[str, Raw]:
        """Have every node carry out `command`, and gather the answers by node, until all or `within` seconds are over.

        A node that is gone holds this up once, and not longer than that. Raises BrokerUnavailable, PublicationTooLarge,
        and NodeCommandRefused when some node could not do it.
        """
        question = await self._ask(command, {info.uid for info in self.nodes()}, within)
        return question.answers

    async def ask_node(self, uid: str, command: NodeCommand, *, within: float = ANSWER_SECONDS) -> Raw | None:
        """Have the node `uid` alone carry out `command`; returns its answer, None if there is none in `within` seconds.

        Raises BrokerUnavailable, PublicationTooLarge, and NodeCommandRefused when the node could not do it.
        """
        question = await self._ask(command, {uid}, within, own_channel(uid))
        return question.answers.get(uid)

    def is_known(self, uid: str) -> bool:
        """Whether a node has announced itself within GONE_SECONDS."""
        seen = self._nodes.get(uid)
        return uid == self._uid or (seen is not None and time.monotonic() - seen[0] < GONE_SECONDS)

    async def _ask(self, command: NodeCommand, wanted: set[str], within: float, channel: str = CHANNEL) -> "_Question":
        number = secrets.token_hex(8)
        question = self._questions[number] = _Question()
        message = ControlMessage(
            self._uid,
            command=command.name(),
            content=_encoded(command),
            question=number,
            alone=channel != CHANNEL,
        )
        try:
            await self._publish(message, channel)
            async with asyncio.timeout(within):
                while not wanted <= question.answers.keys() and not question.refused:
                    question.arrived.clear()
                    await question.arrived.wait()
        except TimeoutError:
            silent = wanted - question.answers.keys()
            log.warning("nodes_did_not_answer", command=command.name(), nodes=sorted(silent))
            for uid in silent:
                self._nodes.pop(uid, None)
        finally:
            del self._questions[number]
        if question.refused:
            raise NodeCommandRefused(question.refused)
        return question

    # Receiving

    def on_publication(self, publication: Publication) -> None:
        """Take a message of a node from the control channel."""
        try:
            message = self._decoder.decode(publication.data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            log.warning("control_message_malformed")
            return
        if message.goodbye:
            self._nodes.pop(message.sender, None)
        elif message.node is not None:
            if message.node.uid not in self._nodes and message.node.uid != self._uid:
                # It does not know this node either.
                self._met.set()
            self._nodes[message.node.uid] = (time.monotonic(), message.node)
        elif message.to:
            self._take_answer(message)
        else:
            self._execute(message)

    def _take_answer(self, message: ControlMessage) -> None:
        question = self._questions.get(message.question) if message.to == self._uid else None
        if question is not None:
            question.answers[message.sender] = message.content.copy()
            question.refused = question.refused or message.problem
            question.arrived.set()

    def _execute(self, message: ControlMessage) -> None:
        answer = ControlMessage(self._uid, to=message.sender, question=message.question)
        carry_out = self._handlers.get(message.command)
        if carry_out is None:
            # Some node runs another version; it must not wait for us.
            log.warning("node_command_unknown", command=message.command)
            answer.problem = f"a node of another version does not know {message.command}"
        else:
            try:
                result = carry_out(message.content)
            except NodeCommandRefused as refused:
                answer.problem = str(refused)
            except Exception:
                log.exception("node_command_failed", command=message.command)
                answer.problem = "a node failed to do it: see its log"
            else:
                answer.content = NO_PAYLOAD if result is None else _encoded(result)
        if message.question:
            self._start_task(self._answer(answer, own_channel(message.sender) if message.alone else CHANNEL))

    async def _answer(self, answer: ControlMessage, channel: str) -> None:
        try:
            await self._send(answer, channel)
        except PublicationTooLarge as too_large:
            answer.content, answer.problem = NO_PAYLOAD, f"the answer is too large for this broker: {too_large}"
            await self._send(answer, channel)

    async def _send(self, message: ControlMessage, channel: str = CHANNEL) -> None:
        try:
            await self._publish(message, channel)
        except BrokerUnavailable:
            log.debug("control_message_not_sent", command=message.command)

    async def _publish(self, message: ControlMessage, channel: str = CHANNEL) -> None:
        await self.publish(channel, Publication(data=_encoded(message)))


def own_channel(uid: str) -> str:
    """The internal channel of the commands to one node."""
    return f"{CHANNEL}:{uid}"


def _encoded(message: Struct) -> Raw:
    return Raw(msgspec.json.encode(message))
