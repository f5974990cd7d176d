"""Several redis-servers that make one service together: started and ended as one."""

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

from tests.support.configured_redis import ConfiguredServer


class RedisGroup(ABC):
    """A context manager that starts its members in their order, has them find each other, and ends them all."""

    def __init__(self, members: list[ConfiguredServer]) -> None:
        self._members = members

    def __enter__(self) -> Self:
        try:
            for server in self._members:
                server.start()
            self._join()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def remove(self) -> None:
        """End all of them, the last one first."""
        for server in reversed(self._members):
            server.remove()

    @abstractmethod
    def _join(self) -> None:
        """Make one service of the members, which run; returns when it is whole."""
