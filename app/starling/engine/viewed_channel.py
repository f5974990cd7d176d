"""One channel of this process of which some receivers have views: who gets which frame of a publication."""

from collections import Counter
from collections.abc import Callable

from starling.engine.fanout import Group
from starling.engine.receiver import PushEncoder, Receiver
from starling.engine.view import Base, DeltaMaker, View
from starling.protocol.codes import CommandRefused
from starling.protocol.messages import Frame, Publication, Push
from starling.protocol.tags_filter import TagsFilter

Groups = dict[PushEncoder | View, Group]


class ViewedChannel:
    """The receivers with views, and the newest publication that readers of patches have, by their filter.

    `groups` are all of the channel's, those of receivers without a view among them. A reader of patches is in a group
    of fresh ones until it gets a whole publication, and in one of primed ones from then on.
    """

    def __init__(self, groups: Groups, unreadable: Callable[[], None]) -> None:
        """`unreadable` is called for each group whose format cannot carry a publication; it is spared that one."""
        self.views: dict[Receiver, View] = {}
        self._groups = groups
        self._unreadable = unreadable
        self._bases: dict[TagsFilter | None, Base] = {}
        self._delta_readers: Counter[TagsFilter | None] = Counter()
        # Groups of fresh readers that got a whole publication in the broadcast under way.
        self._fresh: list[tuple[View, Group]] = []

    def add(self, receiver: Receiver, view: View, base: Base | None) -> None:
        """Let a receiver in; `base` is the newest publication that a reader of patches has got already."""
        if view.delta and base is not None and base.offset:
            current = self._bases.setdefault(view.filter, base)
            view = _with(view, primed=current.offset == base.offset)
        if view.delta:
            self._delta_readers[view.filter] += 1
        self._enter(receiver, view)

    def forget(self, receiver: Receiver) -> View | None:
        """Forget a receiver's view and return it; None where it has none."""
        view = self.views.pop(receiver, None)
        if view is not None and view.delta:
            self._delta_readers[view.filter] -= 1
            if not self._delta_readers[view.filter]:
                del self._delta_readers[view.filter]
                self._bases.pop(view.filter, None)
        return view

    def encode(self, push: Push, *, delta: bool) -> list[tuple[Group, Frame]]:
        """Make the frame of each group that gets `push`; `delta`: it may go as a patch."""
        if push.pub is None:
            return self._frames([(key, group, push) for key, group in self._groups.items()])
        return self._encode_publication(push, push.pub, delta=delta)

    def _encode_publication(self, push: Push, publication: Publication, *, delta: bool) -> list[tuple[Group, Frame]]:
        tags = publication.tags or {}
        matches: dict[TagsFilter | None, bool] = {None: True}
        wanted: list[tuple[PushEncoder | View, Group, Push]] = []
        maker: DeltaMaker | None = None
        for key, group in tuple(self._groups.items()):
            if not isinstance(key, View):
                wanted.append((key, group, push))
                continue
            if key.filter is not None and key.filter not in matches:
                matches[key.filter] = key.filter.matches(tags)
            if not matches[key.filter]:
                continue
            if not key.delta:
                wanted.append((key, group, push))
                continue
            maker = maker or DeltaMaker(publication)
            base = self._bases.get(key.filter) if delta and key.primed else None
            try:
                made = maker.publication(key.encoder, base)
            except CommandRefused:
                self._unreadable()
                self._move(key, group, primed=False)
                continue
            wanted.append((key, group, Push(push.channel, pub=made)))
            if not key.primed:
                self._fresh.append((key, group))
        frames = self._frames(wanted)
        if maker is not None:
            self._advance(maker, publication.offset, matches)
        return frames

    def _frames(self, wanted: list[tuple[PushEncoder | View, Group, Push]]) -> list[tuple[Group, Frame]]:
        """Encode each distinct push once per wire format."""
        # By identity: the objects live as long as this call.
        made: dict[tuple[int, int, int], Frame] = {}
        frames = []
        for key, group, push in wanted:
            encoder, channel_id = (key.encoder, key.channel_id) if isinstance(key, View) else (key, 0)
            identity = (id(encoder), channel_id, id(push.pub or push))
            frame = made.get(identity)
            if frame is None:
                named = Push(id=channel_id, pub=push.pub, join=push.join, leave=push.leave) if channel_id else push
                try:
                    frame = made[identity] = encoder.encode_push(named)
                except CommandRefused:
                    self._unreadable()
                    continue
            frames.append((group, frame))
        return frames

    def _advance(self, maker: DeltaMaker, offset: int, matches: dict[TagsFilter | None, bool]) -> None:
        """The publication is the next base of the readers that got it."""
        base = Base(offset, maker.payload)
        for filter_, matched in matches.items():
            if matched and filter_ in self._delta_readers:
                self._bases[filter_] = base

    def prime(self) -> None:
        """Readers of patches that were fresh have a whole publication now. Call this once its frames are queued."""
        fresh, self._fresh = self._fresh, []
        for key, group in fresh:
            self._move(key, group, primed=True)

    def _move(self, key: View, group: Group, *, primed: bool) -> None:
        """Put the receivers into the group that is primed, or fresh, after writing what is pending for them."""
        if key.primed == primed:
            return
        view = _with(key, primed=primed)
        for receiver in tuple(group):
            group.remove(receiver)
            self._enter(receiver, view)
        self._groups.pop(key, None)

    def _enter(self, receiver: Receiver, view: View) -> None:
        self.views[receiver] = view
        group = self._groups.get(view)
        if group is None:
            group = self._groups[view] = Group(receiver.stats)
        group.add(receiver)


def _with(view: View, *, primed: bool) -> View:
    return View(view.encoder, view.filter, view.channel_id, view.delta, primed)
