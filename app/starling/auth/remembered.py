"""Tokens whose signature was verified seconds ago: a client that returns at once costs no second verification."""

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from starling.auth.jws import VerificationKey

# A page that reloads and a link that flaps return within this time.
REMEMBERED_SECONDS = 15.0
MOST_TOKENS = 1024
# Larger ones are verified each time, so that what is remembered has a few megabytes at most.
MOST_TOKEN_CHARACTERS = 2048

KeySets = tuple[Sequence[VerificationKey], Sequence[VerificationKey]]


class RememberedTokens:
    """The payloads of the last tokens with a valid signature. Nothing in them is judged here.

    The caller checks the times of a payload and its revocation as if the signature had just been verified. A payload
    counts with the very sets of keys that its signature was verified with: keys that are loaded again end it.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` is in seconds and never goes back."""
        self._clock = clock
        self._payloads: OrderedDict[str, tuple[float, KeySets, bytes]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._payloads)

    def payload(self, token: str, keys: KeySets) -> bytes | None:
        """The payload of a token that was verified with these sets of keys; None where it is not remembered."""
        known = self._payloads.get(token)
        if known is None:
            return None
        until, (own, issued), payload = known
        if self._clock() >= until or own is not keys[0] or issued is not keys[1]:
            del self._payloads[token]
            return None
        return payload

    def remember(self, token: str, keys: KeySets, payload: bytes) -> None:
        """Remember a token whose signature was verified just now; the oldest one goes where there are too many."""
        if len(token) > MOST_TOKEN_CHARACTERS:
            return
        now = self._clock()
        self._payloads[token] = now + REMEMBERED_SECONDS, keys, payload
        self._payloads.move_to_end(token)
        while len(self._payloads) > MOST_TOKENS or next(iter(self._payloads.values()))[0] <= now:
            self._payloads.popitem(last=False)
