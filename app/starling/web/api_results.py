"""Results of the methods of the server API, one struct each."""

from collections.abc import Mapping
from typing import Annotated, Any

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from starling.client.connection_list import ConnectionSummary
from starling.engine.append_refusals import StreamProblem
from starling.engine.control import NodeInfo
from starling.engine.node_stats import NodeStats
from starling.telemetry.top_channels import ChannelTraffic

Answer = Struct | Mapping[str, Any]
"""The result of any method."""


class ApiError(Struct, omit_defaults=True):
    """Why it was not done; `stream` for programs where a stream did not take it."""

    code: Annotated[int, Meta(examples=[107])]
    message: Annotated[str, Meta(examples=["bad request: channel: it is missing"])]
    stream: StreamProblem | None = None


class EmptyResponse(Struct):
    """It was done."""


class PresentClient(Struct):
    """A connection. `conn_info` and `chan_info` are what its tokens say for others to see."""

    user: str
    client: str
    conn_info: Raw | UnsetType = UNSET
    chan_info: Raw | UnsetType = UNSET


class PresenceResponse(Struct):
    """Who is in the channel, by client id."""

    presence: dict[str, PresentClient]


class PresenceStatsResponse(Struct):
    """How many connections are in the channel, and how many users they are of."""

    num_clients: int
    num_users: int


class HistoryPublication(Struct, omit_defaults=True):
    """A publication; `time` in milliseconds since 1970. Data that is no JSON is null here and stands in `b64data`."""

    data: Raw
    offset: int = 0
    time: int = 0
    info: PresentClient | None = None
    tags: dict[str, str] | None = None
    b64data: str = ""


class HistoryResponse(Struct):
    """The publications asked for, and the position of the channel's newest one."""

    publications: list[HistoryPublication]
    offset: int
    epoch: str


class ChannelCount(Struct):
    """How many connections are in a channel."""

    num_clients: int


class ChannelsResponse(Struct, omit_defaults=True):
    """The channels with subscribers, by name; without `limit` over 100,000 on one node are refused with 106.

    `missing` has the names of nodes that did not answer in time, whose channels are not listed. `cursor` is there where
    more channels follow: send it to get the next page.
    """

    channels: dict[str, ChannelCount]
    missing: list[str] = []
    cursor: str = ""


class ConnectionsResponse(Struct, omit_defaults=True):
    """The connections of one page, and the names of nodes that did not answer in time.

    `cursor` is there where more connections follow: send it to get the next page.
    """

    connections: list[ConnectionSummary]
    missing: list[str] = []
    cursor: str = ""


class CanResponse(Struct):
    """Whether the user may, the rule that decides, the namespace of its options, and a sentence for people.

    `rule` is an option such as `allow_publish_for_client`, or `no_rule`, `subscription_token`, `connection_token`,
    `refused_token`, `token_channel`, `personal_channel`, `user_limited_channel`.
    """

    allowed: bool
    rule: str
    namespace: str
    sentence: str


class InfoResponse(Struct):
    """Every node: each worker of each pod is one."""

    nodes: list[NodeInfo]


class TopResponse(Struct):
    """Every node that answered, the busiest channels first, and the names of nodes that did not answer in time.

    Rates of channels are those of about the last ten seconds.
    """

    nodes: list[NodeStats]
    channels: list[ChannelTraffic]
    missing: list[str]


class TicketResponse(Struct):
    """The ticket, for the client alone, and the id of its session, to revoke it by. Log neither."""

    ticket: str
    session: str


class RevocationResponse(Struct, omit_defaults=True):
    """It is refused from now on, on every worker. `stored` false: the broker did not store it; the workers keep it.

    They offer it again until it is stored, and send it to each worker that starts. Only if all end before is it lost.
    """

    stored: bool = True


class InvalidateUserTokensResponse(Struct, omit_defaults=True):
    """Tokens issued before this moment are refused, in seconds since 1970. `stored` as of the other revocations."""

    issued_before: float
    stored: bool = True
