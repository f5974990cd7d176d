"""Options of the console: who may use it."""

import re
from collections.abc import Iterator
from typing import Annotated

from pydantic import Field, SecretStr

from starling.options import CommaSeparated, DeveloperOptions, OptionProblem, problem

PASSWORD_LENGTH = 12
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class ConsoleOptions(DeveloperOptions):
    """Who may use the console at `/console` of the internal port. Without any of these it is off."""

    section = "Console"

    console_password: Annotated[
        SecretStr | None,
        Field(description="Password of the console on the internal port, 12 characters at least: see docs/console.md."),
    ] = None
    console_read_password: Annotated[
        SecretStr | None, Field(description="Password of the console for those who may look and change nothing.")
    ] = None
    console_user_header: Annotated[
        str | None,
        Field(
            description="Header in which a proxy names the user that it has authenticated, such as X-Forwarded-User; "
            "believed from STARLING_TRUSTED_PROXIES only."
        ),
    ] = None
    console_operators: Annotated[
        CommaSeparated,
        Field(description="Users of that header who may change something. Unset: all; others may look."),
    ] = ()

    @property
    def serves_console(self) -> bool:
        """Whether there is a console."""
        return self.dev or any((self.console_password, self.console_read_password, self.console_user_header))

    def contradictions(self) -> Iterator[OptionProblem]:
        """Passwords are long and differ, and the header can be one."""
        passwords = {"console_password": self.console_password, "console_read_password": self.console_read_password}
        for field, password in passwords.items():
            if password is not None and len(password.get_secret_value()) < PASSWORD_LENGTH:
                yield problem(field, f"it is shorter than {PASSWORD_LENGTH} characters: generate one")
        if self.console_password is not None and self.console_password == self.console_read_password:
            yield problem("console_read_password", "it is the password of operators: give each its own")
        if self.console_user_header is not None and not _HEADER.fullmatch(self.console_user_header):
            yield problem("console_user_header", "it is no name of a header field, such as X-Forwarded-User")
        if self.console_operators and self.console_user_header is None:
            yield problem("console_operators", "it needs console_user_header, by which users are known")
