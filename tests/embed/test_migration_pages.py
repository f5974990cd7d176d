"""The programs of docs/from-socketio.md and docs/from-django-channels.md, as the pages print them."""

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from httpx2 import ASGITransport, AsyncClient

from docs.examples import from_django_channels
from starling import Starling
from starling.testing import ExpectationFailed, service

ROOT = Path(__file__).parents[2]
SECRET = "the secret of these tests, of more than 32 bytes"


def channels_of(page: str) -> str:
    found = re.search(r"```yaml\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)
    assert found
    return found[1]


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The settings that the pages name, in the environment."""
    channels = tmp_path / "channels.yaml"
    monkeypatch.setenv("STARLING_TOKEN_HMAC_SECRET", SECRET)
    monkeypatch.setenv("STARLING_CHANNELS_FILE", str(channels))
    yield channels
    sys.modules.pop("docs.examples.from_socketio", None)


@pytest.mark.parametrize("page", ["from-socketio", "from-django-channels"])
def test_a_page_prints_the_program_that_the_tests_run(page: str) -> None:
    program = ROOT / "docs" / "examples" / f"{page.replace('-', '_')}.py"
    assert f"```python\n{program.read_text()}```" in (ROOT / "docs" / f"{page}.md").read_text()


async def test_the_rooms_of_socketio(environment: Path) -> None:
    environment.write_text(channels_of("from-socketio.md"))
    rooms = importlib.import_module("docs.examples.from_socketio")

    async with service(rooms.realtime) as running:
        ann, ben, stranger = [await running.connect(user) for user in ("ann", "ben", "eve")]
        for member in (ann, ben):
            await member.subscribe("room:42")
        with pytest.raises(ExpectationFailed, match="103"):
            await stranger.subscribe("room:42")

        await ann.publish("room:42", {"text": " hello "})
        await ben.expect("room:42", {"from": "ann", "text": "hello"})
        with pytest.raises(ExpectationFailed, match="write something"):
            await ann.publish("room:42", {"text": " "})
        reply = await ann.command("rpc", {"method": "add", "data": [1, 2, 3]})
        assert reply["data"] == 6

        async with AsyncClient(transport=ASGITransport(rooms.app), base_url="http://rooms") as backend:
            answer = await backend.post("/rooms/42/announcements", params={"text": "soon"})
            assert answer.status_code == 200
        await ben.expect("room:42", {"from": "the backend", "text": "soon"})


async def test_the_chat_of_django_channels(environment: Path) -> None:
    environment.write_text(channels_of("from-django-channels.md"))
    realtime = Starling(hooks=from_django_channels.__name__)

    async with service(realtime) as running:
        ann, ben = [await running.connect(user) for user in ("ann", "ben")]
        for user in (ann, ben):
            await user.subscribe("chat:lobby")
        await ann.publish("chat:lobby", {"message": "hello"})
        await ben.expect("chat:lobby", {"message": "hello", "user": "ann"})
