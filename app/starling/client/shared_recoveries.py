"""What clients recovered or read last: those that get the same publications share one encoding of them."""

from collections import OrderedDict
from operator import is_

from starling.engine.recovered_patches import RecoveredPatches
from starling.protocol.messages import Publication
from starling.protocol.shared_values import SharedPublications

# Thousands of clients return to few channels; each entry has what one reply may hold at most, less than a megabyte.
MOST_SHARED = 8


class SharedRecoveries:
    """The publications of the last replies, by their channel and offsets."""

    def __init__(self) -> None:
        self.patches = RecoveredPatches()
        """What readers of patches get in place of publications."""
        self._last: OrderedDict[tuple[str, int, int], SharedPublications] = OrderedDict()

    def __len__(self) -> int:
        return len(self._last)

    def share(self, channel: str, publications: list[Publication]) -> list[Publication]:
        """`publications`, recovered in `channel`, as an object that keeps its encodings for the next client."""
        if not publications:
            return publications
        first, last = publications[0], publications[-1]
        key = (channel, first.offset, last.offset)
        known = self._last.get(key)
        # A filter may leave out any of them.
        if known is not None and len(known) == len(publications) and all(map(is_, known, publications)):
            self._last.move_to_end(key)
            return known
        shared = self._last[key] = SharedPublications(publications)
        self._last.move_to_end(key)
        if len(self._last) > MOST_SHARED:
            self._last.popitem(last=False)
        return shared
