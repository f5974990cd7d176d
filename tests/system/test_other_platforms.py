"""The service where the kernel is not Linux, as on a developer's macOS."""

import json
import os
from pathlib import Path

import pytest
from websockets.sync.client import connect

from starling.settings import usable_cpus
from tests.support import without_linux
from tests.support.running import Starling

STAND_IN = Path(without_linux.__path__[0])


def test_developer_mode_serves_without_what_only_linux_has() -> None:
    # A process without these names and files, because there is no macOS to test on here.
    with Starling({"STARLING_DEV": "true", "PYTHONPATH": str(STAND_IN)}) as starling:
        with connect(f"{starling.url}/ws") as session:
            session.send("hello")
            assert session.recv() == "Message text was: hello"
        with connect(f"{starling.url}/connection/websocket") as session:
            session.send(json.dumps({"id": 1, "connect": {}}))
            assert json.loads(session.recv())["connect"]["client"]
        found = starling.metrics()
        assert max(value for name, value in found.items() if "resident_memory_bytes" in name) > 2**20
        open_files = [value for name, value in found.items() if name.partition("{")[0] == "starling_worker_open_files"]
        assert open_files
        assert max(open_files) > 3
        assert not [line for line in starling.lines if line["level"] in {"error", "critical"}]
        assert starling.stop() == 0


def test_without_an_affinity_every_cpu_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)

    assert usable_cpus() == 1
