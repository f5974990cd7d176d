"""What commands cost of a client's message budget: by what was done for them, whether or not the answer has it."""

import time
from collections.abc import Collection

from starling.client.client_connection import ClientConnection
from starling.engine.broker import StreamRead
from starling.engine.channels import ChannelOptions
from starling.protocol.messages import Publication
from starling.protocol.shared_values import SharedMembers
from starling.protocol.tags_filter import FilterNode, size_of

# What a publication adds to its data in an answer, about.
_PUBLICATION_BYTES = 64
# What a member adds to its ids and infos in an answer, about.
_MEMBER_BYTES = 64

# History, and presence with joins and leaves, of a subscription that begins and ends, each as an answer of this size.
_SUBSCRIPTION_BYTES = 2048

# What a node or a value of a filter costs to check, in bytes that are read.
_FILTER_PART_BYTES = 64


def charge_filter(client: ClientConnection, node: FilterNode) -> None:
    """Spend for a filter that is checked, whether or not the client subscribes with it."""
    client.session.charge(_FILTER_PART_BYTES * size_of(node), time.monotonic())


def bytes_of_publications(publications: Collection[Publication]) -> int:
    """The bytes of publications in an answer, about."""
    return sum([len(publication.data) for publication in publications]) + _PUBLICATION_BYTES * len(publications)


def charge_read(client: ClientConnection, read: StreamRead) -> None:
    """Spend for publications that were read."""
    if read.data_bytes is None:
        size = bytes_of_publications([entry.publication for entry in read.entries])
    else:
        size = read.data_bytes + _PUBLICATION_BYTES * len(read.entries)
    client.session.charge(size, time.monotonic())


def charge_members(client: ClientConnection, members: SharedMembers) -> None:
    """Spend for members of a channel that were read."""
    client.session.charge(members.size + _MEMBER_BYTES * len(members), time.monotonic())


def charge_subscription(client: ClientConnection, options: ChannelOptions) -> None:
    """Spend for a subscription that the client ends, which it may begin and end again and again."""
    parts = options.keeps_history + (options.presence or options.join_leave)
    client.session.charge(parts * _SUBSCRIPTION_BYTES, time.monotonic())
