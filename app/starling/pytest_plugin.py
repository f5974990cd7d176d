"""The pytest plugin of the installed package: the fixture `starling`, a service in the test's own event loop.

It imports the service only where a test takes the fixture. Without pytest-asyncio there is no fixture: the tests of
other frameworks use `starling.testing.service`.
"""

from collections.abc import AsyncIterator
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starling.testing import RunningService

if find_spec("pytest_asyncio") is not None:
    import pytest_asyncio

    @pytest_asyncio.fixture
    async def starling() -> AsyncIterator["RunningService"]:
        """A RunningService on `memory://`, for one test."""
        from starling.testing import service

        async with service() as running:
            yield running
