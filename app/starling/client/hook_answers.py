"""What functions of a hooks module return, and the decisions that it means."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from msgspec import Raw
from pydantic import TypeAdapter

from starling.engine.hooks import ConnectDecision, SubscribeDecision
from starling.protocol.messages import NO_PAYLOAD
from starling.protocol.portable_json import PORTABLE_JSON, is_json
from starling.protocol.tags_filter import ForcedFilterNode, TagsFilter, compile_filter

_ANYTHING = TypeAdapter(Any)


@dataclass(frozen=True, slots=True)
class Accept:
    """Returned by `on_connect` and `on_subscribe`: the client may, on these terms. Raises TypeError and ValueError.

    From `on_connect`: the client is `user` (empty: an anonymous one), others see `info` of it, and it is subscribed to
    `channels`: their names, or a mapping of each name to an Accept with the terms there. `meta` stays on the server,
    for other hooks. From `on_subscribe`: others in the channel see `info`, and with `tags_filter` the client gets only
    publications whose tags match, whatever it asks for (the same tree as a client's own filter).
    `expire_at`, in seconds since 1970 or a datetime with its zone, is when it ends; None never does. `data` goes to the
    client with the reply. `info`, `data` and `meta` are anything that is JSON.
    """

    user: str = ""
    info: Any = None
    channels: "Collection[str] | Mapping[str, Accept]" = ()
    expire_at: float | datetime | None = None
    data: Any = None
    tags_filter: Mapping[str, Any] | None = None
    meta: Any = None

    def __post_init__(self) -> None:
        if not isinstance(self.user, str):
            raise TypeError(f"user: {type(self.user).__name__} is no text: give str(user)")
        if isinstance(self.channels, str) or not isinstance(self.channels, Collection):
            raise TypeError("channels: give a list of channel names, or a mapping of names to Accept")
        terms = (
            self.channels.items() if isinstance(self.channels, Mapping) else [(name, None) for name in self.channels]
        )
        for name, of_channel in terms:
            if not isinstance(name, str):
                raise TypeError(f"channels: {name!r} is no channel name: give text")
            if of_channel is not None and not isinstance(of_channel, Accept):
                raise TypeError(f"channels: {name}: {type(of_channel).__name__} is no Accept")
        _seconds(self.expire_at)
        _filter(self.tags_filter)

    def connect_decision(self) -> ConnectDecision:
        """What it means of `on_connect`. Raises TypeError, ValueError and what encoding its values raises."""
        if self.tags_filter is not None:
            raise ValueError("tags_filter: on_connect gives it to a channel: channels={name: Accept(tags_filter=...)}")
        channels = self.channels if isinstance(self.channels, Mapping) else {name: Accept() for name in self.channels}
        return ConnectDecision(
            data=as_json(self.data),
            user=self.user,
            info=_shown(self.info),
            meta=bytes(as_json(self.meta)),
            expires_at=_seconds(self.expire_at),
            channels={name: terms.subscribe_decision() for name, terms in channels.items()},
        )

    def subscribe_decision(self) -> SubscribeDecision:
        """What it means of a channel. Raises as `connect_decision`."""
        for field, given in (("user", self.user), ("channels", self.channels), ("meta", self.meta)):
            if given:
                raise ValueError(f"{field}: only on_connect sets it, for the whole connection")
        return SubscribeDecision(
            info=_shown(self.info),
            data=as_json(self.data),
            expires_at=_seconds(self.expire_at),
            filter=_filter(self.tags_filter),
        )


def connect_decision(result: Any) -> ConnectDecision:
    """What `on_connect` returned means: an Accept authenticates, anything else is the client's connect data."""
    return result.connect_decision() if isinstance(result, Accept) else ConnectDecision(data=as_json(result))


def subscribe_decision(result: Any) -> SubscribeDecision | None:
    """What `on_subscribe` returned means: an Accept grants, None leaves it to the rights. Raises TypeError."""
    if result is None:
        return None
    if not isinstance(result, Accept):
        raise TypeError(
            f"on_subscribe returned {type(result).__name__}: return Accept() to grant the channel, None to leave it to "
            "the rights, and raise Refuse to refuse it"
        )
    return result.subscribe_decision()


def as_json(value: Any) -> Raw:
    """A result as JSON, bytes as they are, nothing for None. Raises what Pydantic raises for what is no JSON."""
    if value is None:
        return NO_PAYLOAD
    return Raw(value if isinstance(value, bytes) else _ANYTHING.dump_json(value))


def _shown(info: Any) -> Raw:
    """As `as_json`, of what other clients see. Raises ValueError for what some of them could not read."""
    shown = as_json(info)
    if shown and not is_json(bytes(shown)):
        raise ValueError(f"info: it is not {PORTABLE_JSON}")
    return shown


def _seconds(moment: float | datetime | None) -> float | None:
    if isinstance(moment, datetime):
        if moment.tzinfo is None:
            raise ValueError("expire_at: a datetime needs its zone, such as datetime.now(UTC) + timedelta(hours=1)")
        return moment.timestamp()
    if moment is not None and (isinstance(moment, bool) or not isinstance(moment, int | float)):
        raise TypeError(f"expire_at: {type(moment).__name__}: give seconds since 1970, or a datetime")
    return moment


def _filter(tree: Mapping[str, Any] | None) -> TagsFilter | None:
    if tree is None:
        return None
    try:
        return compile_filter(msgspec.convert(tree, ForcedFilterNode), "tags_filter")
    except msgspec.ValidationError as error:
        raise ValueError(f"tags_filter: {error}") from error
