"""Who uses the console: log-in by a password, sessions, and the user that a trusted proxy names."""

import hmac
import secrets
import time
from collections import deque
from collections.abc import Callable
from enum import StrEnum
from threading import Lock
from typing import NamedTuple

from starling.server.console.options import ConsoleOptions

SESSION_SECONDS = 12 * 3600.0
# Attempts with a wrong password, of all who ask together: an operator makes a few, a guesser thousands.
ATTEMPTS = 10
ATTEMPT_SECONDS = 60.0
SESSIONS_LIMIT = 1000


class Role(StrEnum):
    """What a user of the console may do."""

    OPERATOR = "operator"
    READER = "reader"


class ConsoleUser(NamedTuple):
    """A user of the console, by the name that the audit log shows."""

    name: str
    role: Role


class TooManyAttempts(Exception):
    """Passwords are not checked at the moment; `seconds` is how long."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"too many attempts: try again in {seconds:.0f} s")
        self.seconds = seconds


class Sessions:
    """The sessions of one internal process; a restart ends them. Methods may be called from any thread."""

    def __init__(self, options: ConsoleOptions, clock: Callable[[], float] = time.monotonic) -> None:
        self._passwords = [
            (password.get_secret_value().encode(), role)
            for password, role in (
                (options.console_password, Role.OPERATOR),
                (options.console_read_password, Role.READER),
            )
            if password is not None
        ]
        self._clock = clock
        self._lock = Lock()
        self._sessions: dict[str, tuple[ConsoleUser, float]] = {}
        self._failed: deque[float] = deque(maxlen=ATTEMPTS)

    def log_in(self, password: str) -> tuple[str, ConsoleUser] | None:
        """The id and user of a new session; None for a wrong password. Raises TooManyAttempts."""
        with self._lock:
            now = self._clock()
            if len(self._failed) == ATTEMPTS and (wait := self._failed[0] + ATTEMPT_SECONDS - now) > 0:
                raise TooManyAttempts(wait)
            # Half of a UTF-16 pair, which JSON can hold, is in no password.
            given = password.encode(errors="surrogatepass")
            roles = [role for known, role in self._passwords if hmac.compare_digest(known, given)]
            if not roles:
                self._failed.append(now)
                return None
            self._sessions = {key: kept for key, kept in self._sessions.items() if kept[1] > now}
            if len(self._sessions) >= SESSIONS_LIMIT:
                del self._sessions[next(iter(self._sessions))]
            session = secrets.token_urlsafe(32)
            user = ConsoleUser(f"password ({roles[0]})", roles[0])
            self._sessions[session] = (user, now + SESSION_SECONDS)
            return session, user

    def user(self, session: str) -> ConsoleUser | None:
        """Whose session it is, while it lasts."""
        with self._lock:
            found = self._sessions.get(session)
            return found[0] if found is not None and found[1] > self._clock() else None

    def log_out(self, session: str) -> None:
        """End a session."""
        with self._lock:
            self._sessions.pop(session, None)
