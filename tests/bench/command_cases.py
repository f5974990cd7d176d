"""The commands that `tests.bench.command_costs` measures: what is sent, what must be answered, and what goes before."""

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count, cycle, repeat
from typing import Any

from starling.auth.issue import issue_connection_token, issue_subscription_token
from tests.bench.reading import SECRET, Api
from tests.support.conversation import Conversation
from tests.support.running import Starling

MEMBERS = 600
PUBLICATIONS = 100
# Channels that a client reads in turn: more than a worker remembers.
MANY = 30
# Channels that a client recovers as it connects.
RECOVERED = 100
CHANNELS = {
    "default": {
        "allow_subscribe_for_client": True,
        "allow_publish_for_client": True,
        "allow_user_limited_channels": True,
    },
    "namespaces": {
        "u": {"presence": True, "allow_presence_for_client": True},
        "r": {"history_size": 10, "history_ttl": "600s", "force_recovery": True},
        "p": {"presence": True, "allow_subscribe_for_client": True, "allow_presence_for_client": True},
        "k": {
            "history_size": PUBLICATIONS,
            "history_ttl": "600s",
            "force_recovery": True,
            "presence": True,
            "join_leave": True,
            "allow_subscribe_for_client": True,
            "allow_publish_for_client": True,
            "allow_history_for_client": True,
            "allow_tags_filter": True,
            "allowed_delta_types": ["fossil"],
        },
        "l": {
            "history_size": 1000,
            "history_ttl": "600s",
            "allow_subscribe_for_client": True,
            "allow_history_for_client": True,
            "allow_tags_filter": True,
        },
        "s": {"stream": "text", "allow_subscribe_for_client": True, "allow_history_for_client": True},
    },
}
RED = {"key": "color", "cmp": "eq", "val": "red"}
BLUE = {"color": "blue"}


@dataclass
class Bench:
    """What the cases use: the service, its API, and clients."""

    service: Starling
    api: Api
    worker: int
    transport: str

    @contextmanager
    def client(self, user: str = "ann", **request: Any) -> Iterator[Conversation]:
        """A client that is connected."""
        token = {"token": issue_connection_token(SECRET, user, 3600)} if user else {}
        with Conversation(self.transport, self.service.port, {**token, **request}) as client:
            client.connected()
            yield client


Command = dict[str, Any]
Make = Callable[[Conversation], Iterator[Command]]


@dataclass
class Case:
    """A kind of command, and what answers it: the field of the reply and how much it holds at least.

    `undo` is what the client must send before each. `change` is what others change before; it gets a number.
    """

    name: str
    make: Make
    answer: str
    holds: tuple[str, int] | None = None
    undo: Command | None = None
    change: Callable[[Api, int], None] | None = None


def same(**command: Any) -> Make:
    """The same command each time."""
    return lambda client: repeat(command)


def in_turn(*commands: Command) -> Make:
    """These commands, again and again."""
    return lambda client: cycle(commands)


def refreshing(client: Conversation) -> Iterator[Command]:
    """Refreshes with new tokens."""
    for number in count(100):
        yield {"refresh": {"token": issue_connection_token(SECRET, "ann", 3600 + number)}}


def renewing(client: Conversation) -> Iterator[Command]:
    """Refreshes of a subscription with new tokens."""

    def token(ttl: int) -> str:
        return issue_subscription_token(SECRET, "ann", "t", ttl)

    client.call("subscribe", channel="t", token=token(3600))
    for number in count(100):
        yield {"sub_refresh": {"channel": "t", "token": token(3600 + number)}}


def scanning(client: Conversation) -> Iterator[Command]:
    """History through a filter that nothing passes."""
    client.call("subscribe", channel="l:l", tf=RED)
    return repeat({"history": {"channel": "l:l", "limit": 1}})


def paging(client: Conversation) -> Iterator[Command]:
    """Pages that follow positions."""
    top = client.call("history", channel="k:k", limit=0)["history"]
    offsets = range(top["offset"] - PUBLICATIONS, top["offset"] - 50)
    return cycle(
        {"history": {"channel": "k:k", "limit": -1, "since": {"offset": offset, "epoch": top["epoch"]}}}
        for offset in offsets
    )


def recovering(channel: str, back: int, **more: Any) -> Make:
    """Subscriptions that recover what is `back` behind the top."""

    def make(client: Conversation) -> Iterator[Command]:
        top = client.call("subscribe", channel=channel)["subscribe"]
        since = {"recover": True, "epoch": top["epoch"], "offset": max(0, top.get("offset", 0) - back)}
        return repeat({"subscribe": {"channel": channel, **since, **more}})

    return make


def published(api: Api, number: int) -> None:
    """Publish to `k:k`."""
    api.call("publish", {"channel": "k:k", "data": str(number).ljust(1000, "x"), "tags": BLUE})


def member(api: Api, number: int) -> None:
    """Change a member of `p:p`."""
    api.call("presence_set", {"channel": "p:p", "user": "u0", "info": {"name": str(number)}, "ttl": 3600})


def subscribe(channel: str, **more: Any) -> Command:
    """A `subscribe` command."""
    return {"subscribe": {"channel": channel, **more}}


def unsubscribe(channel: str) -> Command:
    """An `unsubscribe` command."""
    return {"unsubscribe": {"channel": channel}}


def history(channel: str = "k:k", limit: int = PUBLICATIONS, **more: Any) -> Command:
    """A `history` command."""
    return {"history": {"channel": channel, "limit": limit, **more}}


WHOLE = ("publications", PUBLICATIONS - 1)
PEOPLE = ("presence", MEMBERS)
CASES = (
    Case("ping", same(ping={}), "id"),
    Case("unsubscribe, not subscribed", same(**unsubscribe("a")), "unsubscribe"),
    Case("publish", same(publish={"channel": "a", "data": 1}), "publish"),
    Case("publish, history", same(publish={"channel": "k:p", "data": 1}), "publish"),
    Case("subscribe", same(**subscribe("a")), "subscribe", undo=unsubscribe("a")),
    Case("subscribe, a list `#a,b`", same(**subscribe("#ann,b")), "subscribe", undo=unsubscribe("#ann,b")),
    Case("subscribe, history, presence, joins", same(**subscribe("k:s")), "subscribe", undo=unsubscribe("k:s")),
    Case("unsubscribe", same(**unsubscribe("k:s")), "unsubscribe", undo=subscribe("k:s")),
    Case(
        "subscribe, 100 x 1 KB recovered",
        recovering("k:k", PUBLICATIONS),
        "subscribe",
        WHOLE,
        undo=unsubscribe("k:k"),
    ),
    Case(
        "subscribe, recovered as patches",
        recovering("k:d", PUBLICATIONS, delta="fossil"),
        "subscribe",
        WHOLE,
        undo=unsubscribe("k:d"),
    ),
    Case(
        "subscribe, recovered through a filter",
        recovering("k:k", PUBLICATIONS, tf={"key": "color", "cmp": "eq", "val": "blue"}),
        "subscribe",
        WHOLE,
        undo=unsubscribe("k:k"),
    ),
    Case(
        "subscribe, a stream's catch-up",
        recovering("s:s", PUBLICATIONS),
        "subscribe",
        ("publications", 1),
        undo=unsubscribe("s:s"),
    ),
    Case("refresh", refreshing, "refresh"),
    Case("sub_refresh", renewing, "sub_refresh"),
    Case("rpc, no hook", same(rpc={"method": "x"}), "error"),
    Case("presence, refused", same(presence={"channel": "a"}), "error"),
    Case("presence_stats", same(presence_stats={"channel": "p:p"}), "presence_stats"),
    Case("presence of 600", same(presence={"channel": "p:p"}), "presence", PEOPLE),
    Case("presence of 600, changed", same(presence={"channel": "p:p"}), "presence", PEOPLE, change=member),
    Case("history 100 x 1 KB", same(**history()), "history", WHOLE),
    Case("history, one more", same(**history()), "history", WHOLE, change=published),
    Case(
        "history, other limits and directions",
        in_turn(*(history(limit=limit, reverse=reverse) for limit in (99, 100) for reverse in (True, False))),
        "history",
        WHOLE,
    ),
    Case("history, since", paging, "history", ("publications", 50)),
    Case("history, 30 channels in turn", in_turn(*(history(f"k:{n}") for n in range(MANY))), "history", WHOLE),
    Case(
        "history, 30 channels in turn, each twice",
        in_turn(*(history(f"k:{n // 2}") for n in range(2 * MANY))),
        "history",
        WHOLE,
    ),
    Case("history, a filter nothing passes", scanning, "history"),
    Case("history, a stream", same(**history("s:s")), "history", ("publications", 1)),
)
PERSONAL = (
    Case("presence, personal", same(presence={"channel": "u:#ann"}), "presence", ("presence", 1)),
    Case("presence_stats, personal", same(presence_stats={"channel": "u:#ann"}), "presence_stats"),
)


def prepare(api: Api) -> None:
    """Fill the channels that are read."""
    for number in range(MEMBERS):
        info = {"name": f"User number {number}"}
        api.call("presence_set", {"channel": "p:p", "user": f"u{number}", "info": info, "ttl": 3600})
    data = "x" * 1000
    names = ["k:k", *(f"k:{number}" for number in range(MANY))]
    for text in texts():
        api.call("broadcast", {"channels": names, "data": data, "tags": BLUE})
        api.call("publish", {"channel": "k:d", "data": text})
    recovered = [f"r:{number}" for number in range(RECOVERED)]
    for _ in range(10):
        api.call("broadcast", {"channels": recovered, "data": data})
    for _ in range(1000):
        api.call("publish", {"channel": "l:l", "data": data, "tags": BLUE})
    api.call("stream_open", {"channel": "s:s"})
    for _ in range(PUBLICATIONS):
        api.call("stream_append", {"channel": "s:s", "text": data})


def texts() -> Iterable[str]:
    """Texts of 1 KB, of which each has half in common with the one before, in pieces of 20 characters."""
    chance = random.Random(15)
    pieces = [f"{chance.getrandbits(80):020x}" for _ in range(50)]
    for _ in range(PUBLICATIONS):
        for at in chance.sample(range(50), 25):
            pieces[at] = f"{chance.getrandbits(80):020x}"
        yield "".join(pieces)
