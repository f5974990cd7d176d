"""A test run ends, says what ran, and leaves nothing behind: whatever its tests, its processes or its caller do."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.support.run.plugin import minutes_by_suite

pytestmark = pytest.mark.processes
ROOT = Path(__file__).parents[3]
DEADLINE = 120.0
PLUGINS = ("-p", "xdist.plugin", "-p", "pytest_timeout", "-p", "tests.support.run.plugin")
# Starts a process in a session of its own, as the tests of this project do, and keeps its process id in a file.
PRELUDE = """
import os, pathlib, signal, subprocess, threading, time, pytest

pytestmark = pytest.mark.processes

def start(name, **options):
    process = subprocess.Popen(["sleep", "600"], start_new_session=True, **options)
    pathlib.Path(name).write_text(str(process.pid))
    return process
"""


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Starts pytest with the plugin on the files of `tmp_path`, in a session of its own."""
    (tmp_path / "pytest.ini").write_text("[pytest]\ntimeout_method = signal\n")

    def start(*arguments: str, ignored: tuple[signal.Signals, ...] = ()) -> subprocess.Popen[str]:
        def ignore() -> None:
            for number in ignored:
                signal.signal(number, signal.SIG_IGN)

        clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        return subprocess.Popen(
            [sys.executable, "-m", "pytest", *PLUGINS, "-v", *arguments],
            cwd=tmp_path,
            env=clean | {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=ignore,
        )

    return start


def write(directory: Path, name: str, tests: str) -> None:
    """A file of tests."""
    (directory / name).write_text(PRELUDE + tests)


def started(directory: Path, name: str) -> psutil.Process:
    """The process that a test started and named, once it has."""
    deadline = time.monotonic() + DEADLINE
    file = directory / name
    while not file.exists() or not file.read_text():
        assert time.monotonic() < deadline, f"no test started {name}"
        time.sleep(0.01)
    return psutil.Process(int(file.read_text()))


@contextmanager
def gone_after(process: psutil.Process) -> Iterator[None]:
    """Wait, after the block, until the process is gone."""
    yield
    process.wait(DEADLINE)


def output(process: subprocess.Popen[str]) -> str:
    """All that a run printed, after its end."""
    return process.communicate(timeout=DEADLINE)[0]


@pytest.mark.parametrize("workers", [pytest.param("0", marks=pytest.mark.long), "2"])
def test_a_test_over_its_time_fails_alone_and_is_named(
    tmp_path: Path, run: Callable[..., subprocess.Popen[str]], workers: str
) -> None:
    write(
        tmp_path,
        "test_slow.py",
        """
@pytest.mark.timeout(0.5)
def test_slow():
    time.sleep(600)

def test_next():
    pass
""",
    )
    process = run("-n", workers)
    text = output(process)
    assert process.returncode == 1, text
    assert "FAILED test_slow.py::test_slow - Failed: Timeout" in text
    assert "1 failed, 1 passed" in text


def test_a_test_that_does_not_end_at_its_time_loses_its_process_with_what_it_started_and_the_others_run(
    tmp_path: Path, run: Callable[..., subprocess.Popen[str]]
) -> None:
    write(
        tmp_path,
        "test_stuck.py",
        """
def test_before():
    pass

@pytest.mark.timeout(0.5)
def test_stuck():
    start("left")
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    while True:
        time.sleep(600)

def test_after():
    pass
""",
    )
    write(tmp_path, "test_other.py", "def test_other():\n    pass\n")
    process = run("-n", "2", "--grace", "0.5")
    with gone_after(started(tmp_path, "left")):
        text = output(process)
    assert process.returncode == 1, text
    assert "crashed while running 'test_stuck.py::test_stuck'" in text
    assert "test_stuck.py::test_stuck is over its time and does not end" in text
    assert "1 failed, 3 passed" in text


def test_a_test_in_the_called_process_that_does_not_end_at_its_time_ends_the_run_with_a_list_of_what_did_not_run(
    tmp_path: Path, run: Callable[..., subprocess.Popen[str]]
) -> None:
    write(
        tmp_path,
        "test_stuck.py",
        """
def test_before():
    pass

@pytest.mark.timeout(0.5)
def test_stuck():
    start("left")
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    while True:
        time.sleep(600)

def test_after():
    pass
""",
    )
    process = run("-n", "0", "--grace", "0.5")
    with gone_after(started(tmp_path, "left")):
        text = output(process)
    assert process.returncode == 128 + signal.SIGKILL, text
    assert "1 of 3 tests ran to their end" in text
    assert "was running: test_stuck.py::test_stuck" in text
    assert "did not run: test_stuck.py (1 of its 3 tests)" in text


def test_a_thread_that_does_not_end_fails_the_run_and_is_named(
    tmp_path: Path, run: Callable[..., subprocess.Popen[str]]
) -> None:
    write(
        tmp_path,
        "test_thread.py",
        """
def test_thread():
    threading.Thread(target=threading.Event().wait, name="left behind").start()
""",
    )
    process = run("-n", "0", "--grace", "0.5")
    text = output(process)
    assert process.returncode == 1, text
    assert "1 passed" in text
    assert "threads of tests do not end: left behind" in text


def test_a_worker_that_waits_for_another_is_left_alone(
    tmp_path: Path, run: Callable[..., subprocess.Popen[str]]
) -> None:
    write(tmp_path, "test_a.py", "def test_short():\n    pass\n")
    write(tmp_path, "test_b.py", "def test_longer():\n    time.sleep(2)\n")
    process = run("-n", "2", "--grace", "0.5")
    text = output(process)
    assert process.returncode == 0, text
    assert "do not end" not in text


@pytest.mark.parametrize("crashes", [["a", "b", "c", "d"], ["d"], pytest.param(["a"], marks=pytest.mark.long)])
def test_every_test_runs_once_when_workers_are_killed_in_the_first_files_or_in_the_last_one(
    tmp_path: Path, run: Callable[..., subprocess.Popen[str]], crashes: list[str]
) -> None:
    for name in "abcd":
        crash = f"start('left-{name}'); os.kill(os.getpid(), signal.SIGKILL)" if name in crashes else "pass"
        write(tmp_path, f"test_{name}.py", f"def test_one():\n    {crash}\n")
    write(tmp_path, "test_many.py", "@pytest.mark.parametrize('n', range(5))\ndef test_many(n):\n    pass\n")
    process = run("-n", "2")
    text = output(process)
    assert process.returncode == 1, text
    for name in crashes:
        assert f"crashed while running 'test_{name}.py::test_one'" in text
        assert not psutil.pid_exists(int((tmp_path / f"left-{name}").read_text()))
    assert f"{len(crashes)} failed, {9 - len(crashes)} passed" in text


@pytest.mark.parametrize(
    ("workers", "victim"),
    [
        ("2", "called"),
        ("0", "tests"),
        pytest.param("0", "called", marks=pytest.mark.long),
        pytest.param("2", "tests", marks=pytest.mark.long),
    ],
)
def test_nothing_that_tests_started_outlives_a_killed_process_of_the_run(
    tmp_path: Path, run: Callable[..., subprocess.Popen[str]], workers: str, victim: str
) -> None:
    write(
        tmp_path,
        "test_wait.py",
        """
def test_wait():
    start("left")
    start("parent").wait()
""",
    )
    process = run("-n", workers)
    left = started(tmp_path, "left")
    started(tmp_path, "parent")
    below = psutil.Process(process.pid).children(recursive=True)
    with gone_after(left):
        # The called process is the upper supervisor; below it are the lower one and the process of pytest.
        (psutil.Process(process.pid) if victim == "called" else below[1]).kill()
        output(process)
    assert process.returncode == (-signal.SIGKILL if victim == "called" else 128 + signal.SIGKILL)
    for other in below:
        other.wait(DEADLINE)


def test_a_run_over_its_bound_ends_and_names_what_ran_and_what_did_not(
    tmp_path: Path, run: Callable[..., subprocess.Popen[str]]
) -> None:
    write(
        tmp_path,
        "test_long.py",
        """
def test_before():
    pass

def test_long(request):
    start("left" if hasattr(request.config, "workerinput") else "left-alone").wait()

def test_after():
    pass
""",
    )
    # Side by side, and long enough for a busy machine to begin: the bound is for the whole run.
    runs = [run("-n", workers, "--bound", "12", "-p", "no:cacheprovider") for workers in ("0", "2")]
    left = [started(tmp_path, name) for name in ("left", "left-alone")]
    for process in runs:
        text = output(process)
        assert process.returncode == 2, text
        assert "the run is over its bound of 12 s" in text
        assert "1 of 3 tests ran to their end" in text
        assert "was running: test_long.py::test_long" in text
        assert "did not run: test_long.py (1 of its 3 tests)" in text
    for other in left:
        other.wait(DEADLINE)


def test_a_run_ends_in_time_at_sigterm_though_its_tests_ignore_it(
    tmp_path: Path, run: Callable[..., subprocess.Popen[str]]
) -> None:
    write(tmp_path, "test_wait.py", "def test_wait():\n    start('left').wait()\n")
    process = run("-n", "2")
    with gone_after(started(tmp_path, "left")):
        process.terminate()
        text = output(process)
    assert process.returncode == 128 + signal.SIGTERM, text
    assert "was running: test_wait.py::test_wait" in text


@pytest.mark.parametrize("workers", [pytest.param("0", marks=pytest.mark.long), "2"])
def test_what_tests_start_has_the_default_dispositions_though_the_caller_ignores_signals(
    tmp_path: Path, run: Callable[..., subprocess.Popen[str]], workers: str
) -> None:
    write(
        tmp_path,
        "test_signals.py",
        """
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT])
def test_signal(number):
    process = start("process")
    process.send_signal(number)
    assert process.wait(60) == -number
""",
    )
    process = run("-n", workers, ignored=(signal.SIGINT, signal.SIGHUP, signal.SIGQUIT))
    text = output(process)
    assert process.returncode == 0, text
    assert "4 passed" in text


def test_a_test_that_starts_a_process_without_the_mark_fails_and_says_so(
    tmp_path: Path, run: Callable[..., subprocess.Popen[str]]
) -> None:
    (tmp_path / "test_plain.py").write_text(
        "import os, pytest\n\ndef test_plain():\n    os.system('true')\n\n"
        "@pytest.mark.processes\ndef test_marked():\n    os.system('true')\n"
    )
    text = output(run("-n", "0"))
    assert "FAILED test_plain.py::test_plain - AssertionError: this test starts a process" in text
    assert "mark it with `pytest.mark.processes`" in text
    assert "1 failed, 1 passed" in text


def test_the_minutes_of_a_suite_are_those_of_its_files() -> None:
    seconds = {
        "tests/test_cli.py": 30.0,
        "tests/system/a.py": 60.0,
        "tests/client/commands/b.py": 6.0,
        "tests/system/c.py": 90,
    }
    assert minutes_by_suite(seconds) == "system 2.5, tests/*.py 0.5, client 0.1"


def test_the_longest_files_of_the_last_run_come_first(
    tmp_path: Path, run: Callable[..., subprocess.Popen[str]]
) -> None:
    write(tmp_path, "test_a_short.py", "def test_short():\n    pass\n")
    write(tmp_path, "test_b_many.py", "@pytest.mark.parametrize('n', range(9))\ndef test_many(n):\n    pass\n")
    write(tmp_path, "test_c_long.py", "def test_long():\n    time.sleep(0.5)\n")
    order = []
    for _ in range(2):
        text = output(run("-n", "1"))
        order.append(next(line for line in text.splitlines() if "PASSED" in line))
    assert "test_b_many.py" in order[0]
    assert "test_c_long.py" in order[1]
