"""Log lines of refused clients: one each, and above a rate one line a reason with their number."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.refusals")

# Lines of one reason in one period; seconds.
LINES = 5
PERIOD_SECONDS = 10.0

# Of reasons that do not bring a remedy of their own.
REMEDIES = {
    "bad_upgrade": "connect with a WebSocket client (RFC 6455), through a proxy that passes the Upgrade header on",
    "body_timeout": "send the request's body sooner",
    "capacity": "add pods, or raise STARLING_MAX_CONNECTIONS",
    "connect_refused": "`starling explain CODE` explains the code",
    "connect_rate": "the client retries; else raise STARLING_CONNECTS_PER_SECOND",
    "control_flood": "send fewer pings and empty fragments",
    "emulation_busy": "the client sends commands faster than it takes their replies",
    "emulation_flood": "this address guesses sessions, or its clients do not connect again after 404",
    "emulation_gone": "the client's stream has ended, perhaps with its worker: it connects again by itself",
    "emulation_malformed": "send session, node and data as docs/transports.md has them",
    "emulation_unavailable": "check the broker: it carries commands to the node that has the session",
    "draining": "the client retries, and reaches another worker",
    "handshake_timeout": "send the head within STARLING_HANDSHAKE_SECONDS; browsers may open a connection in advance",
    "head_too_large": "send fewer or shorter headers, cookies among them",
    "invalid_token": "`starling verify TOKEN` explains a token",
    "invalid_utf8": "send bytes as a binary message",
    "issuer_unavailable": "see that STARLING_TOKEN_JWKS_URL can be reached from here",
    "lag": "add workers or pods: see docs/operate.md",
    "malformed_request": "speak HTTP/1.1 to this port, and end TLS at a proxy",
    "memory": "add pods, or raise their memory limit",
    "message_rate": "slow the client down, or raise STARLING_MESSAGES_PER_SECOND",
    "message_too_large": "send less at once, or raise STARLING_MAX_MESSAGE_BYTES",
    "no_token": "send a token: see docs/tokens.md; `starling token USER` makes one",
    "origin": "add the page's origin to STARLING_ALLOWED_ORIGINS",
    "parameters": "correct the path or the query: the response names each parameter",
    "protocol_error": "use a WebSocket client that keeps to RFC 6455",
}
# On a connection that was open already.
CUT = frozenset({"control_flood", "invalid_utf8", "message_rate", "message_too_large", "protocol_error"})


@dataclass(slots=True)
class _Period:
    """The refusals of one kind since `began`."""

    began: float
    event: str
    kind: str
    lines: int = 0
    left_out: int = 0


class RefusalLog:
    """Writes `connection_refused` before the upgrade and `connection_cut` after it, LINES of a reason in a period."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` is in seconds and never goes back."""
        self._clock = clock
        self._periods: dict[str, _Period] = {}

    def write(self, reason: str, /, **seen: object) -> None:
        """Log one refused connection, or count it towards a line about many. A remedy is in `seen`, or in REMEDIES."""
        self.write_as(_event(reason), reason, **{"reason": reason, **seen})

    def write_as(self, event: str, kind: str, /, **seen: object) -> None:
        """Log one refusal of another `event`; each `kind` has lines and periods of its own."""
        now = self._clock()
        period = self._periods.get(kind)
        if period is None or now - period.began >= PERIOD_SECONDS:
            if period is not None:
                self._end(period)
            period = self._periods[kind] = _Period(now, event, kind)
        if period.lines == LINES:
            period.left_out += 1
            return
        period.lines += 1
        seen = {"reason": kind, **{name: value for name, value in seen.items() if value}}
        if "remedy" not in seen and kind in REMEDIES:
            seen["remedy"] = REMEDIES[kind]
        log.info(event, **seen)

    def flush(self) -> None:
        """Log how many refusals were left out in periods that are over."""
        now = self._clock()
        for kind, period in list(self._periods.items()):
            if now - period.began >= PERIOD_SECONDS:
                del self._periods[kind]
                self._end(period)

    def _end(self, period: _Period) -> None:
        if period.left_out:
            log.info(period.event, reason=period.kind, left_out=period.left_out, seconds=PERIOD_SECONDS)


def _event(reason: str) -> str:
    if reason.startswith("emulation_"):
        return "commands_refused"
    return "connection_cut" if reason in CUT else "connection_refused"
