"""The gunicorn application: a master without threads, its workers, and the process of the internal port."""

import gc
import logging
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import structlog
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer
from gunicorn.glogging import Logger

from starling.server.board import Board
from starling.server.internal import InternalProcess, InternalServer
from starling.server.options import ServerOptions
from starling.server.pod import CHANNELS_SUFFIX, Pod
from starling.server.ports import check_port, refuse_port
from starling.server.service import Asgi, ReloadError, Service
from starling.telemetry.logging import flush_lines, write_lines_directly

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.server")

MEMORY_DIR = Path("/dev/shm")  # noqa: S108 - gunicorn makes its heartbeat files there safely
# A worker that ends sooner than this died young; the pauses before the next one grow from the first to the longest.
YOUNG_SECONDS = 10.0
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
# After the drain: requests under way, the application's end, and a margin; then gunicorn kills.
BEYOND_DRAIN_SECONDS = 15


def serve(options: ServerOptions, service: Service) -> None:
    """Run the service until a signal stops it; ends by SystemExit with the exit code of the process.

    PROMETHEUS_MULTIPROC_DIR must be `options.metrics_dir`, from before prometheus_client was first imported.
    Exit code 0: stopped by a signal. 1: a port cannot be bound. 3: the application did not start.
    """
    write_lines_directly()
    prepare_runtime_dir(options)
    check_port(options.listen_host, options.port, "STARLING_PORT")
    application = StarlingApplication(options, service)
    # What stands by now stays. No process searches it for garbage, so workers share the memory of it with the master.
    gc.freeze()
    gc.enable()
    application.run()


def prepare_runtime_dir(options: ServerOptions) -> None:
    """Make the directories, without what a process before may have left in them."""
    for directory in (options.metrics_dir, options.status_dir):
        directory.mkdir(parents=True, exist_ok=True)
        for left in (
            *directory.glob("*.db"),
            *directory.glob("*.json"),
            *directory.glob("*.new"),
            *directory.glob("*.part"),
        ):
            left.unlink(missing_ok=True)


class StarlingApplication(BaseApplication):  # type: ignore[misc]  # gunicorn has no types
    """What gunicorn asks for its configuration and for the ASGI application."""

    def __init__(self, options: ServerOptions, service: Service) -> None:
        self.options = options
        self.service = service
        self.board = Board()
        pod = Pod(self.board, options.status_dir, options.heartbeat_seconds, top_channels=options.top_channels)
        try:
            self.internal = InternalProcess(InternalServer(options, pod))
        except OSError as error:
            refuse_port(options.internal_host, options.internal_port, "STARLING_INTERNAL_PORT", error)
        super().__init__()

    def load_config(self) -> None:
        """Set gunicorn's settings; nothing is read from its own environment variables or files."""
        for name, value in self._settings().items():
            self.cfg.set(name, value)

    def _settings(self) -> dict[str, Any]:
        options = self.options
        host = f"[{options.listen_host}]" if ":" in options.listen_host else options.listen_host
        return {
            "bind": f"{host}:{options.port}",
            "workers": options.worker_count,
            "worker_class": "starling.server.worker.StarlingWorker",
            "reuse_port": True,
            "preload_app": True,
            "backlog": options.backlog,
            "max_requests": 0,
            "timeout": options.heartbeat_seconds,
            "keepalive": options.keep_alive_seconds,
            "graceful_timeout": math.ceil(options.drain_delay_seconds + options.drain_time) + BEYOND_DRAIN_SECONDS,
            "worker_tmp_dir": str(MEMORY_DIR) if os.access(MEMORY_DIR, os.W_OK) else None,
            "control_socket_disable": True,
            "logger_class": GunicornLogger,
            "on_starting": self._on_starting,
            "when_ready": self._when_ready,
            "post_fork": self._post_fork,
            "child_exit": self._child_exit,
        }

    def load(self) -> Asgi:
        """Give the application that was built before."""
        return self.service.asgi

    def run(self) -> None:
        """Run the master."""
        try:
            StarlingArbiter(self).run()
        finally:
            self.internal.end()

    def reload(self) -> None:
        """Read again what came from files, and hand it to the workers; a mistake in it changes nothing."""
        try:
            version = self.board.hand_out(self.service.reload())
        except ReloadError as refused:
            self._keep(refused.problems)
            return
        except ValueError as error:
            self._keep([str(error)])
            return
        self.board.reload_failed = False
        log.info("configuration_reloaded", version=version)

    def _keep(self, problems: list[str]) -> None:
        self.board.reload_failed = True
        for problem in problems:
            log.error("configuration_not_reloaded", problem=problem, version=self.board.version)

    def _on_starting(self, arbiter: "StarlingArbiter") -> None:
        self.internal.ensure()

    def _when_ready(self, arbiter: "StarlingArbiter") -> None:
        log.info(
            "server_started",
            host=self.options.listen_host,
            port=self.options.port,
            internal_port=self.options.internal_port,
            workers=self.options.worker_count,
        )

    def _post_fork(self, arbiter: "StarlingArbiter", worker: Any) -> None:
        self.internal.leave_to_master()

    def _child_exit(self, arbiter: "StarlingArbiter", worker: Any) -> None:
        asked = arbiter.was_asked(worker)
        log.info("worker_ended", worker=worker.pid, asked=asked)
        if not asked:
            self.board.count_restart()
            arbiter.delay_restart(worker)
        worker.slot.release()
        (self.options.status_dir / f"{worker.pid}{CHANNELS_SUFFIX}").unlink(missing_ok=True)


class StarlingArbiter(Arbiter):  # type: ignore[misc]  # gunicorn has no types
    """The master. SIGTERM, SIGINT and SIGQUIT all stop it gracefully; the same again shortens the drain."""

    handle_int = handle_quit = Arbiter.handle_term

    def __init__(self, app: StarlingApplication) -> None:
        super().__init__(app)
        self._asked: set[int] = set()
        self._restarts = RestartBackoff()

    def handle_hup(self) -> None:
        """Read the configuration again; the workers and their clients stay."""
        self.app.reload()

    def manage_workers(self) -> None:
        """Fork the workers that are missing, unless they have died at once and must wait; end those too many."""
        if self._restarts.wait <= 0 or len(self.WORKERS) >= self.num_workers:
            super().manage_workers()

    def murder_workers(self) -> None:
        """Once a second: replace workers that are stuck, and the internal port's process; write log lines that wait."""
        super().murder_workers()
        self.app.internal.ensure(self.LISTENERS)
        flush_lines()

    def kill_worker(self, pid: int, sig: int) -> None:
        """Signal a worker; one that is to end by SIGTERM ends as it was asked to."""
        if sig in {signal.SIGTERM, signal.SIGQUIT, signal.SIGINT}:
            self._asked.add(pid)
        super().kill_worker(pid, sig)

    def was_asked(self, worker: Any) -> bool:
        """Whether the end of `worker`, which has ended, was asked for."""
        asked = self.app.board.stopping or worker.pid in self._asked or worker.slot.asked
        self._asked.discard(worker.pid)
        return asked

    def delay_restart(self, worker: Any) -> None:
        """Delay the next worker; the delay grows with the number of workers that died young."""
        pause = self._restarts.ended(time.monotonic() - worker.forked_at)
        if pause:
            log.error(
                "worker_restart_delayed",
                seconds=pause,
                died_young=self._restarts.died_young,
                remedy=f"see the lines before this one; is there room in {self.app.options.directory}?",
            )

    def signal(self, sig: int, frame: FrameType | None) -> None:
        """Queue a signal for the main loop; during a stop, hand it to the workers, who know how to hurry."""
        if self.app.board.stopping and sig in {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT}:
            self.kill_workers(signal.SIGTERM)
        else:
            super().signal(sig, frame)

    def stop(self, graceful: bool = True) -> None:
        """Stop the workers; the pod is not ready from here on."""
        self.app.board.stopping = True
        log.info("server_stopping")
        super().stop(graceful)

    def reap_workers(self) -> None:
        """Take note of workers that have ended. While the pod stops, one that could not start stops nothing more."""
        try:
            super().reap_workers()
        except HaltServer:
            if not self.app.board.stopping:
                raise

    def spawn_worker(self) -> Any:
        """Fork a worker; its process ends here and not where the master's callers would go on."""
        try:
            return super().spawn_worker()
        except SystemExit as end:
            if os.getpid() == self.pid:
                raise
            logging.shutdown()
            sys.stdout.flush()
            os._exit(end.code if isinstance(end.code, int) else int(end.code is not None))
        except BaseException:
            if os.getpid() == self.pid:
                raise
            log.critical("worker_failed", exc_info=True)
            logging.shutdown()
            os._exit(1)


class RestartBackoff:
    """The delay of the next worker after workers that died soon after their start."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._not_before = 0.0
        self.died_young = 0

    @property
    def wait(self) -> float:
        """Seconds until a worker may be forked again."""
        return self._not_before - self._clock()

    def ended(self, lived_seconds: float) -> float:
        """Record a worker that ended unasked after `lived_seconds`; returns the seconds before the next may start."""
        if lived_seconds >= YOUNG_SECONDS:
            self.died_young = 0
            return 0.0
        self.died_young += 1
        # The first may have been killed by hand.
        pause = 0.0 if self.died_young == 1 else min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** (self.died_young - 2))
        self._not_before = self._clock() + pause
        return pause


class GunicornLogger(Logger):  # type: ignore[misc]  # gunicorn has no types
    """Gunicorn's own lines, left to the handlers that starling.telemetry.logging has set up."""

    def setup(self, cfg: Any) -> None:
        """Keep the loggers as they are."""
        self.cfg = cfg
        self._access_log_enabled = False
        self.error_log.propagate = True
