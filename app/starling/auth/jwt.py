"""Verifies JSON Web Tokens with secrets, public keys and an issuer's key set (RFC 7519, RFC 8725)."""

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TypeVar

import structlog

from starling.auth.claims import TokenRules, read_connection_claims, read_subscription_claims
from starling.auth.jwks import Jwks
from starling.auth.jws import CompactToken, parse_compact
from starling.auth.keys import PUBLIC_KEY_ALGORITHMS, VerificationKey
from starling.auth.tokens import Credentials, KeyNotLoaded, RefusalReason, SubscriptionGrant, TokenRefused
from starling.clocks import wall_clock

log = structlog.get_logger(__name__)

_Granted = TypeVar("_Granted")


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


class JwtVerifier:
    """The TokenVerifier for JWTs.

    `keys` are those given by hand, the current and former ones alike; `jwks` adds those of an issuer. The algorithm is
    the key's: a token's `alg` only selects among keys pinned to it, its `kid` only among ids that are known here.
    `clock` gives seconds since 1970. Raises ValueError when there is no key at all.
    """

    def __init__(
        self,
        keys: Sequence[VerificationKey],
        rules: TokenRules,
        jwks: Jwks | None = None,
        *,
        clock: Callable[[], float] = wall_clock,
    ) -> None:
        if not keys and jwks is None:
            raise ValueError("no key to check tokens with: give a secret, a public key or the address of a key set")
        self._keys = tuple(keys)
        self._rules = rules
        self._jwks = jwks
        self._clock = clock
        self._remembered = RememberedTokens()
        if jwks is not None and rules.audience is None:
            log.warning(
                "token_audience_unset",
                remedy="set the audience: an issuer signs tokens for other services too, and all of them pass here",
            )

    def replace_keys(self, keys: Sequence[VerificationKey]) -> None:
        """Check tokens with these keys from now on, and with those of `jwks`."""
        self._keys = tuple(keys)

    def connection_now(self, token: str) -> Credentials:
        """Verify a connection token with the keys at hand. Raises TokenRefused, and of that KeyNotLoaded."""
        return read_connection_claims(self._verified_payload(token), self._rules, self._clock())

    def subscription_now(self, token: str) -> SubscriptionGrant:
        """Verify a subscription token with the keys at hand. Raises TokenRefused, and of that KeyNotLoaded."""
        return read_subscription_claims(self._verified_payload(token), self._rules, self._clock())

    async def connection(self, token: str) -> Credentials:
        """Verify a connection token; waits for one fetch if its key may be new. Raises TokenRefused."""
        return await self._with_fresh_keys(self.connection_now, token)

    async def subscription(self, token: str) -> SubscriptionGrant:
        """Verify a subscription token; waits for one fetch if its key may be new. Raises TokenRefused."""
        return await self._with_fresh_keys(self.subscription_now, token)

    async def _with_fresh_keys(self, verify: Callable[[str], _Granted], token: str) -> _Granted:
        try:
            return verify(token)
        except KeyNotLoaded:
            fetched = self._jwks is not None and await self._jwks.look_again()
        try:
            return verify(token)
        except KeyNotLoaded as refused:
            if not fetched:
                raise
            # The issuer was asked after the token came, and does not know the key either.
            raise TokenRefused(refused.reason, refused.sentence) from None

    def _verified_payload(self, token: str) -> bytes:
        keys = self._keys, self._jwks.keys if self._jwks is not None else ()
        if (remembered := self._remembered.payload(token, keys)) is not None:
            return remembered
        compact = parse_compact(token)
        for key in self._keys_for(compact):
            if key.verifies(compact.algorithm, compact.signing_input, compact.signature):
                self._remembered.remember(token, keys, compact.payload)
                return compact.payload
        raise TokenRefused(
            RefusalReason.BAD_SIGNATURE,
            "The token's signature does not fit: it was made with another key, or the token was changed since.",
        )

    def _keys_for(self, token: CompactToken) -> list[VerificationKey]:
        """Return the keys a token may be verified with, at least one. Raises TokenRefused when there is none."""
        issued = self._jwks.keys if self._jwks is not None else ()
        known = (*self._keys, *issued)
        if token.key_id is not None:
            named = [key for key in known if key.key_id == token.key_id]
            fit = [key for key in named if token.algorithm in key.algorithms]
        else:
            named = []
            fit = [key for key in self._keys if token.algorithm in key.algorithms]
            of_issuer = [key for key in issued if token.algorithm in key.algorithms]
            # Among several keys of an issuer a token has to name its own: to try them all would multiply the work
            # that a forged one costs.
            fit += of_issuer if len(of_issuer) == 1 else []
        if fit:
            return fit
        self._refuse_algorithm(token, known, named)
        raise self._without_key(token)

    def _refuse_algorithm(
        self, token: CompactToken, known: Sequence[VerificationKey], named: Sequence[VerificationKey]
    ) -> None:
        accepted = frozenset[str]().union(*(key.algorithms for key in named or known))
        if self._jwks is not None and not named:
            accepted |= PUBLIC_KEY_ALGORITHMS
        if token.algorithm not in accepted:
            raise TokenRefused(
                RefusalReason.WRONG_ALGORITHM,
                f"The token's algorithm (alg) does not go with its key: {', '.join(sorted(accepted))} would.",
            )

    def _without_key(self, token: CompactToken) -> TokenRefused:
        if self._jwks is None or token.algorithm not in PUBLIC_KEY_ALGORITHMS:
            return TokenRefused(
                RefusalReason.UNKNOWN_KEY, "The token names a key id (kid), and no key here has it: leave kid out."
            )
        if not self._jwks.loaded:
            return KeyNotLoaded(RefusalReason.KEYS_UNAVAILABLE, "The issuer's keys have not been fetched yet.")
        if token.key_id is None:
            return TokenRefused(
                RefusalReason.UNKNOWN_KEY,
                "The token does not name its key (kid), and the issuer has several or none for its algorithm.",
            )
        return KeyNotLoaded(RefusalReason.UNKNOWN_KEY, "The token's key id (kid) is not among the issuer's keys.")
