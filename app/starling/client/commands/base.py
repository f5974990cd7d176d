"""The contract of a command's handler: its rule, its synchronous path and its path in a task."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from starling.client.client_connection import ClientConnection
from starling.protocol.decisions import Action, Decision

Step = Callable[[], None]
Work = Decision | Step
"""What the dispatcher works off: decisions, and steps of a handler that must run between them."""
Outcome = Sequence[Work] | Exception
Later = Callable[[Outcome], None]
ActionType = TypeVar("ActionType", bound=Action)
Prepared = TypeVar("Prepared")


class CommandHandler(ABC, Generic[ActionType, Prepared]):
    """Handles one kind of action for all clients of a worker; the dispatcher calls it.

    `prepare`, `try_now` and `run` may raise CommandRefused, BrokerUnavailable and PublicationTooLarge, each of which
    is answered as an error; any other exception is a fault of this service.
    """

    action: ClassVar[type[Action]]
    method: ClassVar[str] = ""
    """The command's name in metrics and spans; empty for an action that need not come from a command."""
    traced: ClassVar[bool] = False
    """Whether it may lead to a publication, and so begins a trace where tracing is on."""

    @abstractmethod
    def prepare(self, client: ClientConnection, action: ActionType) -> Prepared:
        """Apply the command's rule; return what `try_now` and `run` need of it."""

    def try_now(
        self, client: ClientConnection, action: ActionType, prepared: Prepared, later: Later
    ) -> list[Work] | None:
        """Finish without a task and return what the session decides, or None where `run` must do it.

        An empty list may also mean that the work is under way: then `later` gets its outcome, once.
        """
        return None

    def runs_through(self, client: ClientConnection, action: ActionType, prepared: Prepared) -> bool:
        """Whether `run` is likely to wait for nothing, and uses nothing that needs a task before it waits after all."""
        return False

    @abstractmethod
    async def run(self, client: ClientConnection, action: ActionType, prepared: Prepared) -> Sequence[Work]:
        """Do it in a task, or at once where it `runs_through`; return what the session decides."""


AnyHandler = CommandHandler[Any, Any]
"""A handler of some action, as the dispatcher keeps them."""
