"""The values that travel between clients and Starling, named as the Centrifuge client protocol names them."""

from msgspec import Raw, Struct


class ClientInfo(Struct, omit_defaults=True):
    """Who a client is, as others may know it. `conn_info` and `chan_info` are raw JSON from the tokens."""

    user: str = ""
    client: str = ""
    conn_info: Raw = Raw()
    chan_info: Raw = Raw()


class Publication(Struct, omit_defaults=True):
    """One message of a channel.

    `data` is the payload as it came and is never parsed. `offset` is its place in the channel's stream, 0 where the
    channel has no history. `time` is when the broker took it, in milliseconds since 1970.
    """

    data: Raw
    info: ClientInfo | None = None
    offset: int = 0
    tags: dict[str, str] | None = None
    time: int = 0
