"""`starling serve --reload`: what is watched, and when the service is started again.

The service is a fake that starts no process; tests/system/test_hooks_reload.py has the real one.
"""

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from starling.cli import reloading
from starling.cli.reloading import serve_reloading


class Service:
    """In the place of a service's process; `begun` is called with the number of the start."""

    started: ClassVar[list["Service"]]
    begun: Callable[[int], None]

    def __init__(self, command: list[str], env: dict[str, str]) -> None:
        self.environment = env
        self.ended = ""
        self.started.append(self)
        assert command[1:] == ["-m", "starling", "serve"]
        threading.Thread(target=self.begun, args=(len(self.started),)).start()

    def terminate(self) -> None:
        self.ended = self.ended or "terminated"

    def kill(self) -> None:
        self.ended = "killed"

    def wait(self, timeout: float | None = None) -> int:
        return 0


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Service]]:
    class Fresh(Service):
        started: ClassVar[list[Service]] = []

        @staticmethod
        def begun(number: int) -> None:
            stop()

    monkeypatch.setattr(reloading, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(subprocess, "Popen", Fresh)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield Fresh
    for number, handler in handlers.items():
        signal.signal(number, handler)


def stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_the_service_is_started_again_when_a_watched_file_changes_and_ends_with_the_command(
    services: type[Service], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "shop").mkdir()
    hooks, channels = tmp_path / "shop" / "hooks.py", tmp_path / "channels.yaml"
    hooks.write_text("1")
    channels.write_text("1")

    def change(number: int) -> None:
        match number:
            case 1:
                hooks.write_text("2")
                os.utime(hooks, (1, 1))
            case 2:
                channels.unlink()
            case _:
                stop()

    services.begun = staticmethod(change)

    assert serve_reloading({"A": "b"}, [tmp_path / "shop", channels]) == 0

    assert [service.ended for service in services.started] == ["terminated"] * 3
    printed = capsys.readouterr()
    said = printed.out + printed.err
    assert "Reload: hooks.py changed" in said
    assert "Reload: channels.yaml changed" in said
    # A developer waits for no drain, unless the environment says so.
    assert services.started[0].environment == {
        "A": "b",
        "STARLING_DRAIN_DELAY_SECONDS": "0",
        "STARLING_DRAIN_SECONDS": "0",
    }


@pytest.mark.parametrize("name", ["node_modules", "__pycache__", ".venv", "site-packages"])
def test_code_that_is_not_the_users_own_is_not_watched(services: type[Service], tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    other, own = tmp_path / name / "module.py", tmp_path / "own.py"
    other.write_text("1")
    own.write_text("1")

    def change(number: int) -> None:
        if number > 1:
            stop()
            return
        os.utime(other, (1, 1))
        (tmp_path / "notes.txt").write_text("no code")
        os.utime(own, (2, 2))

    services.begun = staticmethod(change)
    reported: list[str] = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(reloading, "print_heading", reported.append)
        serve_reloading({}, [tmp_path])
    assert reported == ["Reload: own.py changed"]


def test_a_service_that_does_not_stop_is_killed(
    services: type[Service], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wait(service: Service, timeout: float | None = None) -> int:
        if timeout is not None:
            raise subprocess.TimeoutExpired("starling", timeout)
        return -9

    monkeypatch.setattr(services, "wait", wait)
    assert serve_reloading({}, [tmp_path]) == -9
    assert [service.ended for service in services.started] == ["killed"]
