"""Calls to a Redis cluster: each goes to the node that has its slot, in the order of the calls to that node."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from redis.exceptions import AskError, ClusterDownError, MasterDownError, MovedError, ResponseError, TryAgainError

from starling.brokers.redis.calls import Command, RedisCalls, Reply
from starling.brokers.redis.cluster_map import ClusterMap, Node, slot_of
from starling.engine.broker import BrokerUnavailable

Answer = Reply | ResponseError | BrokerUnavailable
Done = Callable[[Sequence[Answer] | Exception], None]

# What a node says of a command that it did not run. A MovedError is an AskError to redis-py.
_NOT_RUN = (AskError, TryAgainError, ClusterDownError, MasterDownError)

_FIRST_WAIT = 0.01
_LONGEST_WAIT = 0.2


class ClusterCalls:
    """One connection for commands to each node, opened by the first command for it."""

    def __init__(self, slots: ClusterMap, make_calls: Callable[[Node], RedisCalls], *, timeout: float) -> None:
        """`timeout` in seconds bounds each call, redirections included."""
        self._map = slots
        self._make_calls = make_calls
        self._timeout = timeout
        self._calls: dict[Node, RedisCalls] = {}
        self._redirecting: set[asyncio.Task[None]] = set()
        self._started = False

    def start(self) -> None:
        """Begin to send."""
        self._started = True

    async def stop(self) -> None:
        """End sending, and close the connections."""
        self._started = False
        for task in self._redirecting:
            task.cancel()
        calls, self._calls = self._calls, {}
        await asyncio.gather(*(call.stop() for call in calls.values()))

    async def keep(self, nodes: frozenset[Node]) -> None:
        """Close the connections to all other nodes."""
        gone = [self._calls.pop(node) for node in self._calls.keys() - nodes]
        await asyncio.gather(*(calls.stop() for calls in gone))

    def at(self, node: Node) -> RedisCalls:
        """The calls to one node. Raises BrokerUnavailable when stopped."""
        if not self._started:
            raise BrokerUnavailable("the broker is not started")
        calls = self._calls.get(node)
        if calls is None:
            calls = self._calls[node] = self._make_calls(node)
            calls.start()
        return calls

    async def execute(self, *command: bytes | str | int | float, size: int = 0) -> Reply:
        """Run a command after all that wait for its node; `size` is about its bytes.

        Raises BrokerUnavailable when the outcome is unknown, and redis.exceptions.ResponseError when Redis refused. A
        command is sent again only where a node said that it did not run it.
        """
        (reply,) = await self.execute_all((command,), size)
        if isinstance(reply, ResponseError | BrokerUnavailable):
            raise reply
        return reply

    async def execute_all(self, commands: Sequence[Command], size: int = 0) -> list[Answer]:
        """Run commands with one round trip to each node, each with a reply of its own; otherwise as `execute`."""
        if self._started and not self._map.known.is_set():
            await self._wait_for_map()
        portions: dict[Node, list[int]] = {}
        answers: list[Answer] = [None] * len(commands)
        for number, command in enumerate(commands):
            try:
                portions.setdefault(self._node_of(command), []).append(number)
            except BrokerUnavailable as unavailable:
                answers[number] = unavailable
        share = size // max(1, len(commands))
        sent = [self._send(node, [commands[number] for number in numbers], share) for node, numbers in portions.items()]
        # A single node, as nearly always, needs no task.
        replies = [await sent[0]] if len(sent) == 1 else await asyncio.gather(*sent)
        for numbers, portion in zip(portions.values(), replies, strict=True):
            for number, answer in zip(numbers, portion, strict=True):
                answers[number] = answer
        return answers

    async def _wait_for_map(self) -> None:
        """Let a call at the start wait as it would for a connection."""
        try:
            async with asyncio.timeout(self._timeout):
                await self._map.known.wait()
        except TimeoutError:
            raise BrokerUnavailable(f"no node of the cluster answered within {self._timeout:g} s") from None

    def post(self, command: Command, size: int, done: Done) -> None:
        """Run a command as `execute` does; `done` gets its one reply, or why there is none, later.

        Raises BrokerUnavailable.
        """
        self.at(self._node_of(command)).post(command, size, partial(self._answer, done, command, size))

    def _answer(
        self, done: Done, command: Command, size: int, outcome: list[Reply | ResponseError] | Exception
    ) -> None:
        if isinstance(outcome, Exception):
            self._map.outdated.set()
            done(outcome)
        elif isinstance(reply := outcome[0], _NOT_RUN):
            task = asyncio.get_running_loop().create_task(self._redirect_for(done, command, reply, size))
            self._redirecting.add(task)
            task.add_done_callback(self._redirecting.discard)
        else:
            done([reply])

    async def _redirect_for(self, done: Done, command: Command, refusal: ResponseError, size: int) -> None:
        found: Answer = BrokerUnavailable("this process closes its broker connections")
        try:
            found = await self._redirect(command, refusal, size)
        finally:
            done([found])

    def _node_of(self, command: Command) -> Node:
        if not self._started:
            raise BrokerUnavailable("the broker is not started")
        slot = slot_of(command)
        node = next(iter(self._map.masters), None) if slot is None else self._map.node_of(slot)
        if node is None:
            raise BrokerUnavailable("no node of the cluster is known to serve this channel")
        return node

    async def _send(self, node: Node, commands: list[Command], size: int) -> list[Answer]:
        try:
            replies: list[Answer] = [*await self.at(node).execute_all(commands, size * len(commands))]
        except BrokerUnavailable as unavailable:
            self._map.outdated.set()
            return [unavailable] * len(commands)
        for number, reply in enumerate(replies):
            if isinstance(reply, _NOT_RUN):
                replies[number] = await self._redirect(commands[number], reply, size)
        return replies

    async def _redirect(self, command: Command, refusal: ResponseError, size: int) -> Answer:
        """Send a command that was not run where it belongs, until it is run or the time is over."""
        wait, answer = _FIRST_WAIT, refusal
        try:
            async with asyncio.timeout(self._timeout):
                while True:
                    before: list[Command] = []
                    if isinstance(answer, MovedError):
                        node: Node = (answer.host, int(answer.port))
                        self._map.moved(int(answer.slot_id), node)
                    elif isinstance(answer, AskError):
                        node, before = (answer.host, int(answer.port)), [(b"ASKING",)]
                    elif isinstance(answer, _NOT_RUN):
                        self._map.outdated.set()
                        await asyncio.sleep(wait)
                        wait = min(_LONGEST_WAIT, wait * 2)
                        node = self._node_of(command)
                    else:
                        return answer
                    *_, found = await self.at(node).execute_all([*before, command], size)
                    if not isinstance(found, ResponseError):
                        return found
                    answer = found
        except BrokerUnavailable as unavailable:
            self._map.outdated.set()
            return unavailable
        except TimeoutError:
            return BrokerUnavailable(f"the cluster did not take it within {self._timeout:g} s: {answer}")
