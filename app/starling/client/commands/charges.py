"""What reads cost of a client's message budget: by what was read for them, whether or not the answer has it."""

import time
from collections.abc import Collection

from starling.client.client_connection import ClientConnection
from starling.protocol.messages import Publication
from starling.protocol.shared_values import SharedMembers

# What a publication adds to its data in an answer, about.
_PUBLICATION_BYTES = 64
# What a member adds to its ids and infos in an answer, about.
_MEMBER_BYTES = 64


def charge_publications(client: ClientConnection, publications: Collection[Publication]) -> None:
    """Spend for publications that were read."""
    size = sum([len(publication.data) for publication in publications]) + _PUBLICATION_BYTES * len(publications)
    client.session.charge(size, time.monotonic())


def charge_members(client: ClientConnection, members: SharedMembers) -> None:
    """Spend for members of a channel that were read."""
    client.session.charge(members.size + _MEMBER_BYTES * len(members), time.monotonic())
