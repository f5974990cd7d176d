"""Views: in which form a subscriber gets the publications of one channel, where that is not the ordinary one."""

from typing import Protocol

from msgspec import Raw, Struct

from starling.engine.receiver import PushEncoder
from starling.protocol.delta import create_patch
from starling.protocol.messages import Publication
from starling.protocol.tags_filter import TagsFilter


class ViewEncoder(PushEncoder, Protocol):
    """A wire format in which receivers can have views."""

    carries_channel_ids: bool
    """Whether pushes may name their channel by a number."""

    def delta_payload(self, publication: Publication, patch: bytes | None) -> Raw:
        """The payload of a publication, or the patch that makes it, as readers of patches get it.

        Raises CommandRefused where `encode_push` does, and for a payload that no reader could make a value of.
        """


class View(Struct, frozen=True):
    """Subscribers with equal views of a channel get the same frames.

    `filter`: publications whose tags do not match are left out. `channel_id`: pushes name the channel by it. `delta`:
    payloads come as patches of the publication before; a subscriber is `primed` once it has that one.
    """

    encoder: ViewEncoder
    filter: TagsFilter | None = None
    channel_id: int = 0
    delta: bool = False
    primed: bool = False


class Base(Struct, frozen=True):
    """The newest publication that primed subscribers have: what the next patch is made against.

    `offset` is its offset in the stream, 0 for one that has none.
    """

    offset: int
    payload: bytes


class DeltaMaker:
    """Makes the form of one publication for readers of patches: against each base once, for all readers."""

    __slots__ = ("_made", "_patches", "_publication", "_text", "payload")

    def __init__(self, publication: Publication) -> None:
        self._publication = publication
        self.payload = bytes(publication.data)
        self._text = is_text(self.payload)
        self._patches: dict[Base, bytes | None] = {}
        self._made: dict[tuple[ViewEncoder, Base | None], Publication] = {}

    def publication(self, encoder: ViewEncoder, base: Base | None) -> Publication:
        """The publication as a patch of `base`; whole without one, or where a patch would not be shorter.

        Raises CommandRefused where `encoder` cannot carry it.
        """
        made = self._made.get((encoder, base))
        if made is None:
            whole = self._publication
            patch = None if base is None else self._patch(base)
            data = encoder.delta_payload(whole, patch)
            made = Publication(data, whole.info, whole.offset, whole.tags, whole.time, delta=patch is not None)
            self._made[encoder, base] = made
        return made

    def _patch(self, base: Base) -> bytes | None:
        if base not in self._patches:
            both_text = self._text and is_text(base.payload)
            self._patches[base] = create_patch(base.payload, self.payload) if both_text else None
        return self._patches[base]


def is_text(payload: bytes) -> bool:
    """Whether a patch of `payload` can be cut at characters: it is UTF-8."""
    if payload.isascii():
        return True
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True


class ChannelIds:
    """Numbers that stand for the names of channels in pushes of this process: never reused, so never mistaken."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}
        self._last = 0

    def of(self, channel: str) -> int:
        """The number of a channel, from 1 on."""
        number = self._ids.get(channel)
        if number is None:
            self._last += 1
            number = self._ids[channel] = self._last
        return number

    def forget(self, channel: str) -> None:
        """Nobody of this process is in the channel any more."""
        self._ids.pop(channel, None)
