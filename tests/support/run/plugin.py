"""The pytest plugin of this project's test runs: supervision, distribution, and which tests may start processes.

`tests/conftest.py` loads it. The process that was called becomes the supervisor (tests/support/run/supervisor.py) of a
process that goes on as pytest; each worker of pytest-xdist has a supervisor too. A test that is over its time fails by
SIGALRM (pytest-timeout); one that does not end then loses its process, which counts as its failure.
"""

import contextlib
import gc
import json
import os
import shlex
import signal
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping

import pytest
from execnet.xspec import XSpec

from tests.support.run import supervisor
from tests.support.run.scheduler import FileScheduler

# The fixtures that start processes, and the folders in which every test does.
PROCESS_FIXTURES = frozenset({"cluster_installation", "postgres_installation", "redis_server", "starling"})
PROCESS_FOLDERS = frozenset({"bench", "browser", "chart", "fuzz", "sdk", "soak", "system"})
# Audit events of a process that starts another.
_STARTING = frozenset({"os.fork", "os.forkpty", "os.posix_spawn", "os.system", "subprocess.Popen"})
# Expected seconds of a test in these folders, where no earlier run has measured its file.
_EXPECTED_SECONDS = {"soak": 20.0, "system": 3.0, "browser": 3.0, "sdk": 1.0, "chart": 0.5}
_SECONDS_BY_FILE = "test-run/seconds-by-file"
# From this many seconds of tests on, a run prints how long its suites took.
_LONG_RUN_SECONDS = 300.0


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options for the limits of a run."""
    parser.addoption("--bound", type=float, default=0, help="seconds after which the whole run ends; 0 means never")
    parser.addoption("--grace", type=float, default=30, help="seconds that a test over its time has to end by itself")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Set what tests and the processes that they start shall inherit, and go on below a supervisor."""
    reports = os.environ.pop(supervisor.REPORTS_VARIABLE, None)
    descriptor = None
    options = config.option
    if reports is not None:
        descriptor = int(reports)
        os.set_inheritable(descriptor, False)  # noqa: FBT003 - has no name
    elif sys.platform == "linux" and not (
        hasattr(config, "workerinput") or options.collectonly or options.usepdb or options.trace
    ):
        descriptor = supervisor.supervise(options.bound)
    # The caller may ignore these, as shells do for SIGINT in the background and nohup for SIGHUP: children inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    # Hundreds of processes, and the next run, would compile the same code again.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    # Until the tests are collected: a third of that would go into the search for garbage.
    gc.disable()
    config.pluginmanager.register(ProcessGuard(), "process-guard")
    config.pluginmanager.register(Reporter(config, descriptor), "test-run-reporter")


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers."""
    config.addinivalue_line(
        "markers", "processes: the test starts processes or containers; `make test-fast` leaves it out"
    )
    config.addinivalue_line(
        "markers", "long: a long proof of what a shorter test shows too; `make soak` runs it, `make test` leaves it out"
    )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(specs: list[XSpec]) -> None:
    """Start each worker below a supervisor of its own."""
    for spec in specs if sys.platform == "linux" else ():
        spec.python = shlex.join([sys.executable, "-S", supervisor.__file__, sys.executable])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config) -> FileScheduler:
    """Distribute whole files, the longest first."""
    cache: pytest.Cache | None = getattr(config, "cache", None)
    measured = cache.get(_SECONDS_BY_FILE, {}) if cache else {}

    def cost(file: str, tests: int) -> float:
        folder = file.split("/")[1] if file.count("/") > 1 else ""
        return float(measured.get(file, _EXPECTED_SECONDS.get(folder, 0.05) * tests))

    return FileScheduler(config, cost)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that start processes by their folder or their fixtures."""
    for item in items:
        folder = item.nodeid.removeprefix("tests/").partition("/")[0]
        if folder in PROCESS_FOLDERS or PROCESS_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker("processes")


def minutes_by_suite(seconds_by_file: Mapping[str, float]) -> str:
    """The minutes of each folder of `tests/`, the longest first; the processes of a run share them."""
    suites: defaultdict[str, float] = defaultdict(float)
    for file, seconds in seconds_by_file.items():
        suites[file.removeprefix("tests/").rpartition("/")[0].partition("/")[0] or "tests/*.py"] += seconds
    longest_first = sorted(suites.items(), key=lambda suite: -suite[1])
    return ", ".join(f"{suite} {seconds / 60:.1f}" for suite, seconds in longest_first)


def _enable_collector() -> None:
    """Search for garbage from here on: in what is young, and not in what stands by now, which stays to the end."""
    if not gc.isenabled():
        gc.freeze()
        gc.set_threshold(*gc.get_threshold()[:2], 1000)
        gc.enable()


def _end_without_threads() -> None:
    others = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
    left = [thread.name for thread in others if not thread.daemon]
    os.write(2, f"\n[test run] threads of tests do not end: {', '.join(left)}\n".encode())
    os._exit(1)


class Reporter:
    """Reports the progress of tests to the supervisor, and keeps how long the files take."""

    def __init__(self, config: pytest.Config, descriptor: int | None) -> None:
        self._config = config
        self._descriptor = descriptor
        self._seconds: dict[str, float] = {}
        self._collected: list[str] = []
        self._finished: set[str] = set()

    def _send(self, **report: object) -> None:
        if self._descriptor is not None:
            data = json.dumps(report).encode() + b"\n"
            with contextlib.suppress(BrokenPipeError):
                while data:
                    data = data[os.write(self._descriptor, data) :]

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Report what will run; the controller of workers gets it from them."""
        _enable_collector()
        if session.items:
            self._take_collection([item.nodeid for item in session.items])

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        """Report what will run, once."""
        _enable_collector()
        if not self._collected:
            self._take_collection(ids)

    def _take_collection(self, ids: list[str]) -> None:
        self._collected = ids
        self._send(collected=ids)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Report a test of this process with its limit."""
        marker = item.get_closest_marker("timeout")
        limit = marker.args[0] if marker and marker.args else self._config.getini("timeout")
        self._send(start=item.nodeid, limit=float(limit) + self._config.getoption("grace") if float(limit or 0) else 0)
        result = yield
        # An interrupt of the run, which is raised here, leaves the test unfinished.
        self._send(finish=item.nodeid)
        return result

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Report a test that a worker begins; the worker reports the limit to its own supervisor."""
        if self._config.pluginmanager.hasplugin("dsession"):
            self._send(start=nodeid, limit=0)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take how long a test took, and its end."""
        file = report.nodeid.partition("::")[0]
        self._seconds[file] = self._seconds.get(file, 0) + report.duration
        if report.when != "setup" and report.when != "call":
            self._finished.add(report.nodeid)
            if self._config.pluginmanager.hasplugin("dsession"):
                self._send(finish=report.nodeid)

    def pytest_sessionfinish(self) -> None:
        """Keep how long whole files took."""
        cache: pytest.Cache | None = getattr(self._config, "cache", None)
        if cache and not hasattr(self._config, "workerinput"):
            missing = {test.partition("::")[0] for test in self._collected if test not in self._finished}
            known = cache.get(_SECONDS_BY_FILE, {})
            measured = {file: round(seconds, 2) for file, seconds in self._seconds.items() if file not in missing}
            cache.set(_SECONDS_BY_FILE, known | measured)

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self) -> None:
        """End a run that threads of its tests keep from ending. Workers of pytest-xdist wait for each other."""
        if self._descriptor is not None and not hasattr(self._config, "workerinput"):
            watch = threading.Timer(self._config.getoption("grace"), _end_without_threads)
            watch.daemon = True
            watch.start()

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the minutes of each suite in a long run, and what did not run where not all tests ended."""
        if sum(self._seconds.values()) >= _LONG_RUN_SECONDS:
            terminalreporter.write_line(f"minutes of the suites: {minutes_by_suite(self._seconds)}")
        progress = supervisor.Progress(collected=self._collected, finished=self._finished)
        if self._collected and not self._finished.issuperset(self._collected):
            terminalreporter.write_sep("=", "not everything ran", red=True)
            terminalreporter.write_line(progress.summary())


class ProcessGuard:
    """Fails a test that starts a process and has not the mark `processes`, by which `make test-fast` leaves it out."""

    def __init__(self) -> None:
        self._forbidden = False
        sys.addaudithook(self._audit)

    def _audit(self, event: str, _arguments: tuple[object, ...]) -> None:
        if self._forbidden and event in _STARTING:
            raise AssertionError(
                "this test starts a process: mark it with `pytest.mark.processes`, or its module with `pytestmark`"
            )

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Iterator[None]:
        """Forbid processes while a test without the marker is set up."""
        return (yield from self._guarded(item))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        """Forbid processes while it runs; what it tears down may be other tests' too."""
        return (yield from self._guarded(item))

    def _guarded(self, item: pytest.Item) -> Iterator[None]:
        self._forbidden = item.get_closest_marker("processes") is None
        try:
            return (yield)
        finally:
            self._forbidden = False
