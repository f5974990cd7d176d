"""Messages between nodes: who is there, what every node is asked to do, and answers gathered with a deadline."""

import asyncio
import secrets
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any

import msgspec
import structlog
from msgspec import Raw, Struct

from app.core.broker import Broker, BrokerUnavailable, PublishOptions
from app.protocol.messages import Publication

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.control")

CHANNEL = ":control"
ANNOUNCE_SECONDS = 3.0
# A node that has not announced itself this long is gone.
GONE_SECONDS = 10.0
ANSWER_SECONDS = 2.0

Params = dict[str, Any]


class NodeInfo(Struct):
    """What a node tells of itself. `uptime` in seconds."""

    uid: str
    name: str = ""
    version: str = ""
    num_clients: int = 0
    num_users: int = 0
    num_subs: int = 0
    num_channels: int = 0
    uptime: int = 0


class ControlMessage(Struct, omit_defaults=True):
    """One message: an announcement, an order to all nodes, or an answer to `to`."""

    sender: str
    order: str = ""
    params: Params = {}
    question: str = ""
    to: str = ""
    node: NodeInfo | None = None


class Control:
    """This node's voice and ear among the nodes. Orders run on every node, this one included."""

    def __init__(
        self,
        broker: Broker,
        *,
        start_task: Callable[[Coroutine[Any, Any, None]], None],
        describe: Callable[[], NodeInfo],
    ) -> None:
        self._broker = broker
        self._start_task = start_task
        self._describe = describe
        self._orders: dict[str, Callable[[Params], Params | None]] = {}
        self._nodes: dict[str, tuple[float, NodeInfo]] = {}
        self._answers: dict[str, tuple[dict[str, Params], asyncio.Event]] = {}
        self._decoder = msgspec.json.Decoder(ControlMessage)

    def on_order(self, order: str, carry_out: Callable[[Params], Params | None]) -> None:
        """Let `carry_out` do what `order` asks; what it returns is the answer where one is wanted."""
        self._orders[order] = carry_out

    async def run(self) -> None:
        """Listen, and announce this node until cancelled."""
        # While the link is down the wish stands, and is made good when it returns.
        with suppress(BrokerUnavailable):
            await self._broker.subscribe(CHANNEL)
        while True:
            await self._send(ControlMessage(self._describe().uid, node=self._describe()))
            await asyncio.sleep(ANNOUNCE_SECONDS)

    def nodes(self) -> list[NodeInfo]:
        """Every node that announced itself lately, this one always."""
        own, now = self._describe(), time.monotonic()
        self._nodes = {uid: seen for uid, seen in self._nodes.items() if now - seen[0] < GONE_SECONDS}
        return [own, *(info for uid, (_, info) in sorted(self._nodes.items()) if uid != own.uid)]

    async def tell(self, order: str, params: Params) -> None:
        """Have every node carry out an order. Raises BrokerUnavailable."""
        await self._publish(ControlMessage(self._describe().uid, order=order, params=params))

    async def ask(self, order: str, params: Params, *, within: float = ANSWER_SECONDS) -> Mapping[str, Params]:
        """Have every node carry out an order and gather the answers by node, until all or `within` seconds are over.

        A node that is gone is not waited for beyond that. Raises BrokerUnavailable.
        """
        question = secrets.token_hex(8)
        answers: dict[str, Params] = {}
        arrived = asyncio.Event()
        self._answers[question] = (answers, arrived)
        try:
            await self._publish(ControlMessage(self._describe().uid, order=order, params=params, question=question))
            wanted = {info.uid for info in self.nodes()}
            async with asyncio.timeout(within):
                while not wanted <= answers.keys():
                    arrived.clear()
                    await arrived.wait()
        except TimeoutError:
            log.warning("nodes_did_not_answer", order=order, nodes=sorted(wanted - answers.keys()))
        finally:
            del self._answers[question]
        return answers

    def on_publication(self, publication: Publication) -> None:
        """Take what a node said on the control channel."""
        try:
            message = self._decoder.decode(publication.data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            log.warning("control_message_malformed")
            return
        if message.node is not None:
            self._nodes[message.node.uid] = (time.monotonic(), message.node)
        elif message.to:
            if message.to == self._describe().uid and message.question in self._answers:
                answers, arrived = self._answers[message.question]
                answers[message.sender] = message.params
                arrived.set()
        elif carry_out := self._orders.get(message.order):
            answer = carry_out(message.params)
            if message.question:
                own = self._describe().uid
                self._start_task(
                    self._send(ControlMessage(own, to=message.sender, question=message.question, params=answer or {}))
                )

    async def _send(self, message: ControlMessage) -> None:
        try:
            await self._publish(message)
        except BrokerUnavailable:
            log.debug("control_message_not_sent", order=message.order)

    async def _publish(self, message: ControlMessage) -> None:
        publication = Publication(data=Raw(msgspec.json.encode(message)))
        await self._broker.publish(CHANNEL, publication, PublishOptions())
