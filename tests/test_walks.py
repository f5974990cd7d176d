"""The lists in docs/architecture.md of the files that a publication, a token and a setting pass."""

import http.client
import json
import re
import threading
from contextlib import closing
from pathlib import Path
from types import FrameType

import pytest
from prometheus_client import CollectorRegistry

from starling.main import build_application, server_options
from starling.server.application import prepare_runtime_dir
from starling.server.service import Service
from starling.settings import load_settings
from tests.support.conversation import Conversation
from tests.support.in_process import InProcessServer
from tests.support.services import RedisServer
from tests.support.waiting import DEADLINE

PACKAGE = Path(__file__).parents[1] / "app" / "starling"
ARCHITECTURE = PACKAGE.parents[1] / "docs" / "architecture.md"
# As the page says: the HTTP request and its reply, measuring, the clock, and whether bytes are JSON.
LEFT_OUT = re.compile(r"(web|server|telemetry)/|clocks\.py|engine/(clock|peer_address)\.py|protocol/portable_json\.py")


def listed(section: str) -> list[list[str]]:
    """The files of each row, relative to the page."""
    rows = re.findall(
        r"^\| (\d+) \| (.*?) \|", ARCHITECTURE.read_text().split(f"\n## {section}\n")[1].split("\n## ")[0], re.M
    )
    assert [int(number) for number, _ in rows] == list(range(1, len(rows) + 1))
    return [re.findall(r"\]\(([^)]+)\)", cell) for _, cell in rows]


@pytest.mark.parametrize(("section", "most"), [("A publication", 20), ("A token", 12), ("A setting", 4)])
def test_the_files_that_a_publication_a_token_and_a_setting_pass_are_there_and_no_more(section: str, most: int) -> None:
    rows = listed(section)

    assert len(rows) <= most
    assert all(rows)
    assert [path for found in rows for path in found if not (ARCHITECTURE.parent / path).is_file()] == []


class Recorder:
    """Notes the files of this package whose functions are called in threads that start after it, while it is on."""

    def __init__(self) -> None:
        self.on = False
        self.files: set[str] = set()

    def __call__(self, frame: FrameType, event: str, _argument: object) -> None:
        if self.on and event == "call" and frame.f_code.co_filename.startswith(f"{PACKAGE}/"):
            self.files.add(frame.f_code.co_filename.removeprefix(f"{PACKAGE}/"))

    def take(self) -> set[str]:
        """What was noted since the last call."""
        files, self.files = self.files, set()
        return files


def test_what_runs_for_a_publication_over_redis_is_what_its_list_names(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    channels = tmp_path / "channels.json"
    channels.write_text(json.dumps({"default": {"history_size": 10, "history_ttl": "60s"}}))
    settings = load_settings(
        {
            "STARLING_DEV": "true",
            "STARLING_BROKER_URL": redis_server.url,
            "STARLING_CHANNELS_FILE": str(channels),
            "STARLING_RUNTIME_DIR": str(tmp_path),
            "STARLING_DRAIN_SECONDS": "0",
            "STARLING_DRAIN_DELAY_SECONDS": "0",
        }
    )
    built, options = build_application(settings, CollectorRegistry()), server_options(settings)
    prepare_runtime_dir(options)
    service = Service(built.asgi, built.engine.readiness, built.upgrades, built.requests)
    recorder, runs = Recorder(), list[set[str]]()
    threading.setprofile(recorder)
    try:
        with (
            InProcessServer(options, service) as server,
            Conversation("websocket", server.port) as client,
            closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=DEADLINE)) as api,
        ):
            client.call("subscribe", channel="news")
            for number in range(5):
                body = json.dumps({"channel": "news", "data": number})
                recorder.on = True
                api.request("POST", "/api/publish", body, {"X-API-Key": "dev"})
                assert api.getresponse().read()
                assert client.push()["data"] == number
                recorder.on = False
                runs.append(recorder.take())
    finally:
        threading.setprofile(None)

    # The first differs. Other things run meanwhile in some; one may meet another call to Redis, and go another way.
    later = runs[1:]
    named = {path.removeprefix("../app/starling/") for row in listed("A publication") for path in row}
    assert {file for file in set.intersection(*later) - named if not LEFT_OUT.match(file)} == set()
    ran = {file for file in named if sum(file in run for run in later) >= len(later) - 1}
    assert {file for file in named - ran if file.endswith(".py")} == set()
