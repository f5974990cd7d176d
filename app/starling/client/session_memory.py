"""What a worker remembers of sessions on other nodes, so that unknown ones cost the broker little."""

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b

from starling.engine.allowances import AddressBudgets

# Sessions that are remembered, the latest; some 200 bytes each.
MOST_REMEMBERED = 8192
# Commands of unknown sessions that one address may have carried to other nodes: at once, and in a second after that.
UNKNOWN_AT_ONCE, UNKNOWN_PER_SECOND = 100, 10


class SessionMemory:
    """Which sessions their node has found, and which it has not; a budget of the latter for each address.

    A secret is random, so a session that is gone never begins again. Secrets are kept as digests with a key of this
    process: neither a dump of the memory nor the time of a look-up says anything about them.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` is in seconds and never goes back."""
        self._key = secrets.token_bytes(32)
        self._found: OrderedDict[bytes, bool] = OrderedDict()
        self._budgets = AddressBudgets(UNKNOWN_PER_SECOND, UNKNOWN_AT_ONCE, clock)

    def is_gone(self, node: str, secret: str) -> bool:
        """Whether `node` does not have the session any more."""
        return self._found.get(self._digest(node, secret)) is False

    def may_ask(self, node: str, secret: str, address: str) -> bool:
        """Whether commands from `address` may cost a message: their session was found, or the budget has some left."""
        return not self._budgets.exhausted(address) or self._found.get(self._digest(node, secret), False)

    def note_found(self, node: str, secret: str) -> None:
        """The node has the session."""
        self._note(self._digest(node, secret), found=True)

    def note_gone(self, node: str, secret: str, address: str) -> None:
        """The node does not have the session, and `address` pays for the question."""
        self._note(self._digest(node, secret), found=False)
        self._budgets.spend(address)

    def _note(self, digest: bytes, *, found: bool) -> None:
        self._found[digest] = found
        self._found.move_to_end(digest)
        if len(self._found) > MOST_REMEMBERED:
            self._found.popitem(last=False)

    def _digest(self, node: str, secret: str) -> bytes:
        # A null cannot be a part of a node's name; together they are no longer than the request.
        return blake2b(f"{node}\0{secret}".encode(errors="surrogatepass"), key=self._key, digest_size=16).digest()
