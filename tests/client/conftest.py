"""A service in this process for clients without a socket, over two brokers, with the CHANNELS of the test module."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from starling.main import Application
from tests.support.frame_clients import Reports, serving


@pytest.fixture
def reports() -> Reports:
    return Reports()


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.processes)])
async def service(request: pytest.FixtureRequest, tmp_path: Path, reports: Reports) -> AsyncIterator[Application]:
    url = request.getfixturevalue("redis_server").url if request.param == "redis" else ""
    async with serving(tmp_path, request.module.CHANNELS, reports, url) as service:
        yield service
