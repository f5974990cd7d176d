"""The map of slots to nodes of a Redis cluster, refreshed from any node that answers."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence

from redis.crc import key_slot
from redis.exceptions import ResponseError

from starling.engine.broker import BrokerUnavailable

SLOTS = 16384

Node = tuple[str, int]
Ask = Callable[[Node], Awaitable[object]]


class ClusterMap:
    """The slots and their masters.

    `known` is set once they were read first, `outdated` when something said that they are others by now.
    """

    def __init__(self, seeds: Sequence[Node]) -> None:
        self.outdated = asyncio.Event()
        self.known = asyncio.Event()
        self.masters: frozenset[Node] = frozenset()
        self._seeds = seeds
        self._others: frozenset[Node] = frozenset()
        self._slots: list[Node | None] = [None] * SLOTS

    def node_of(self, slot: int) -> Node | None:
        """The master of `slot`, if it is known."""
        return self._slots[slot]

    @property
    def is_whole(self) -> bool:
        """Whether every slot has a master."""
        return None not in self._slots

    @property
    def nodes(self) -> frozenset[Node]:
        """All nodes that may be asked, masters or not."""
        return self.masters | self._others | frozenset(self._seeds)

    def moved(self, slot: int, node: Node) -> None:
        """Note what a node answered: `slot` is at `node`."""
        if self._slots[slot] != node:
            self._slots[slot] = node
            self.outdated.set()

    async def refresh(self, ask: Ask) -> None:
        """Read the slots from the first node that answers `ask`, any of them. Raises BrokerUnavailable."""
        self.outdated.clear()
        known = [*self.masters, *self._others]
        random.shuffle(known)
        problem = ""
        for node in dict.fromkeys([*known, *self._seeds]):
            try:
                self._take(node, await ask(node))
            except BrokerUnavailable as error:
                problem = str(error)
            except ResponseError as error:
                problem = f"{node[0]}:{node[1]} refused: {error}"
            else:
                return
        raise BrokerUnavailable(problem)

    def _take(self, asked: Node, ranges: object) -> None:
        slots: list[Node | None] = [None] * SLOTS
        masters: set[Node] = set()
        others: set[Node] = set()
        for entry in ranges if isinstance(ranges, list) else ():
            match entry:
                case [int(first), int(last), list(master), *replicas] if 0 <= first <= last < SLOTS:
                    node = _node(asked, master)
                    slots[first : last + 1] = [node] * (last + 1 - first)
                    masters.add(node)
                    others.update(_nodes(asked, replicas))
        if not masters:
            raise BrokerUnavailable(f"{asked[0]}:{asked[1]} knows no node that serves a slot")
        self._slots = slots
        self.known.set()
        self.masters, self._others = frozenset(masters), frozenset(others)


def slot_of(command: Sequence[bytes | str | int | float]) -> int | None:
    """The slot of a command's first key or channel; None where it has none, so that any node may run it."""
    verb = command[0]
    if verb in (b"EVALSHA", b"EVAL"):
        return _slot(command[3]) if command[2] else None
    return None if verb in ("INFO", "CLUSTER") or len(command) < 2 else _slot(command[1])


def _slot(key: bytes | str | int | float) -> int:
    return key_slot(key if isinstance(key, bytes) else str(key).encode())


def _nodes(asked: Node, addresses: Iterable[object]) -> Iterable[Node]:
    return (_node(asked, address) for address in addresses if isinstance(address, list))


def _node(asked: Node, address: Sequence[object]) -> Node:
    host, port = address[0], address[1]
    # A node that does not know its own address yet names none.
    return host.decode() if isinstance(host, bytes) and host else asked[0], port if isinstance(port, int) else 0
