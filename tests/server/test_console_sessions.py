"""Who may use the console: passwords, sessions that end, and guesses that are slowed down."""

import pytest
from pydantic import SecretStr

from starling.options import SettingsError
from starling.server.console import requests
from starling.server.console.options import ConsoleOptions
from starling.server.console.sessions import (
    ATTEMPT_SECONDS,
    ATTEMPTS,
    SESSION_SECONDS,
    Role,
    Sessions,
    TooManyAttempts,
)
from starling.web import api_errors

PASSWORD = "a password of operators"
READ_PASSWORD = "a password of readers"


class Clock:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sessions(clock: Clock) -> Sessions:
    options = ConsoleOptions(console_password=SecretStr(PASSWORD), console_read_password=SecretStr(READ_PASSWORD))
    return Sessions(options, clock)


def test_each_password_has_its_role(sessions: Sessions) -> None:
    for password, role in ((PASSWORD, Role.OPERATOR), (READ_PASSWORD, Role.READER)):
        found = sessions.log_in(password)
        assert found is not None
        session, user = found
        assert user.role is role
        assert sessions.user(session) == user


@pytest.mark.parametrize("password", ["", "a password", PASSWORD + " ", PASSWORD.upper(), "pässwörd"])
def test_another_password_opens_nothing(sessions: Sessions, password: str) -> None:
    assert sessions.log_in(password) is None
    assert sessions.user("") is None


def test_without_a_password_nothing_opens() -> None:
    assert Sessions(ConsoleOptions(dev=True)).log_in("") is None


def test_a_session_ends_after_twelve_hours_and_by_log_out(sessions: Sessions, clock: Clock) -> None:
    (first, user), (second, _) = [found for _ in range(2) if (found := sessions.log_in(PASSWORD))]
    clock.now += SESSION_SECONDS - 1
    assert sessions.user(first) == user
    sessions.log_out(second)
    assert sessions.user(second) is None
    clock.now += 1
    assert sessions.user(first) is None


def test_guesses_are_limited_for_all_together_and_allowed_again_later(sessions: Sessions, clock: Clock) -> None:
    for _ in range(ATTEMPTS):
        assert sessions.log_in("a guess") is None
    with pytest.raises(TooManyAttempts) as refused:
        sessions.log_in(PASSWORD)
    assert refused.value.seconds == ATTEMPT_SECONDS
    clock.now += ATTEMPT_SECONDS
    assert sessions.log_in(PASSWORD) is not None


def test_right_passwords_are_not_limited(sessions: Sessions) -> None:
    assert all(sessions.log_in(PASSWORD) for _ in range(ATTEMPTS * 3))


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"console_password": "short"}, "console_password"),
        ({"console_read_password": "short"}, "console_read_password"),
        ({"console_password": PASSWORD, "console_read_password": PASSWORD}, "console_read_password"),
        ({"console_user_header": "not a header"}, "console_user_header"),
        ({"console_operators": "ann"}, "console_operators"),
    ],
)
def test_options_that_do_not_fit_are_named(options: dict[str, str], field: str) -> None:
    with pytest.raises(SettingsError) as refused:
        ConsoleOptions.model_validate(options)
    assert [problem.field for problem in refused.value.found] == [field]


@pytest.mark.parametrize(
    ("options", "on"),
    [
        ({}, False),
        ({"dev": True}, True),
        ({"console_password": PASSWORD}, True),
        ({"console_read_password": READ_PASSWORD}, True),
        ({"console_user_header": "X-Forwarded-User"}, True),
    ],
)
def test_the_console_is_off_until_somebody_may_use_it(options: dict[str, object], on: bool) -> None:
    assert ConsoleOptions.model_validate(options).serves_console is on


def test_readers_of_the_console_may_call_each_method_of_the_server_api_that_changes_nothing() -> None:
    own = {"overview", "settings", "channel_options", "verify_token"}

    assert api_errors.READS | own == requests.READS
