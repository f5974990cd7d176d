"""Master and workers as processes: how they stop, how they are replaced, and that nothing is left of them."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO

import pytest
from websockets.asyncio.client import ClientConnection, connect

from starling.server.application import RestartBackoff
from tests.server.serving import ROOT, Client, Server, until
from tests.support.waiting import DEADLINE

pytestmark = pytest.mark.processes


def listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_sigterm_disconnects_every_client_evenly_and_a_stuck_one_is_cut(tmp_path: Path) -> None:
    drain_seconds = 3.0
    with Server(tmp_path, workers=2, drain_seconds=drain_seconds) as server:
        with server.connect(receive_buffer=4096) as stuck:
            stuck.send("flood 12")  # into the kernel's buffers and ours, under the write limit: it will not be notified
            clients = [await connect(f"ws://127.0.0.1:{server.port}/ws") for _ in range(50)]
            started = time.monotonic()

            async def leave(client: ClientConnection) -> float:
                await client.wait_closed()
                assert (client.close_code, client.close_reason) == (1012, "restart")
                return time.monotonic() - started

            server.process.send_signal(signal.SIGTERM)
            times = sorted(await asyncio.gather(*map(leave, clients)))
            assert await asyncio.to_thread(server.process.wait, DEADLINE) == 0
        # However late a busy machine makes it, nobody leaves before half of the time of an even drain is over for him.
        # That nobody waits for the end of it: test_drain_rate.py, on a clock that the test turns.
        for place, moment in enumerate(times):
            assert moment >= drain_seconds * place / len(times) / 2, (place, times)
        assert len(server.events("drain_ended")) == 2
        assert not server.events("shutdown_incomplete")
        assert [line["code"] for line in server.events("closed")].count(1012) == 51
        assert not listening(server.port)
        # What called serve() goes on in the master alone.
        assert [line["own"] for line in server.events("command_ended")] == [True]


async def test_probes_and_listeners_during_a_stop(tmp_path: Path) -> None:
    with Server(tmp_path, drain_delay_seconds=1.5, drain_seconds=1.0) as server:
        async with connect(f"ws://127.0.0.1:{server.port}/ws"), connect(f"ws://127.0.0.1:{server.port}/ws"):
            server.process.send_signal(signal.SIGTERM)
            until(lambda: server.get("/readyz")[0] == 503, "not ready at once")
            until(lambda: json.loads(server.get("/readyz")[1])["workers"][0]["reasons"] == ["draining"], "and why")
            with server.connect() as late:
                late.send("routers send clients for a while")
                assert late.text() == "routers send clients for a while"
            lives = []
            while server.process.poll() is None:
                lives.append(server.get("/livez")[0])
                await asyncio.sleep(0.05)
        assert set(lives[:-1]) == {200}, "alive to the end; only the last answer may have met its end"
        assert server.process.returncode == 0


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGQUIT])
async def test_other_signals_stop_the_same_way(tmp_path: Path, sig: signal.Signals) -> None:
    with Server(tmp_path) as server:
        async with connect(f"ws://127.0.0.1:{server.port}/ws") as client:
            await asyncio.to_thread(server.stop, sig)
            await client.wait_closed()
            assert client.close_code == 1012


async def test_a_terminals_ctrl_c_reaches_all_processes_and_drains_once(tmp_path: Path) -> None:
    with Server(tmp_path, drain_delay_seconds=1.5) as server:
        async with connect(f"ws://127.0.0.1:{server.port}/ws") as client:
            started = time.monotonic()
            os.killpg(server.process.pid, signal.SIGINT)
            await client.wait_closed()
            assert client.close_code == 1012
            assert time.monotonic() - started > 1.4
            assert await asyncio.to_thread(server.process.wait, DEADLINE) == 0


async def test_a_second_sigterm_shortens_the_drain(tmp_path: Path) -> None:
    with Server(tmp_path, drain_delay_seconds=60, drain_seconds=60) as server:
        async with connect(f"ws://127.0.0.1:{server.port}/ws") as client:
            server.process.send_signal(signal.SIGTERM)
            until(lambda: server.events("drain_started"), "drain")
            await asyncio.sleep(1.2)
            await asyncio.to_thread(server.stop)
            await client.wait_closed()
            assert client.close_code == 1012


async def test_a_worker_stopped_by_itself_drains_and_is_replaced(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        [pid] = server.workers()
        async with connect(f"ws://127.0.0.1:{server.port}/ws") as client:
            os.kill(pid, signal.SIGQUIT)
            await client.wait_closed()
            assert client.close_code == 1012
        until(lambda: server.workers(ready=True) not in ([], [pid]), "another worker")


async def test_a_client_whose_handshake_is_under_way_gets_503(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        async with connect(f"ws://127.0.0.1:{server.port}/ws") as good:
            with Client(server.port) as waiting:
                thread = threading.Thread(target=waiting.upgrade, args=("/slow",))
                thread.start()
                await asyncio.to_thread(until, lambda: server.events("handshake_held"), "the handshake is under way")
                await asyncio.to_thread(server.stop)
                thread.join()
                assert waiting.status == 503
                assert "Retry-After" in waiting.head
            await good.wait_closed()
            assert good.close_code == 1012
        assert not server.events("asgi_application_failed")


async def test_oversize_heads_do_not_harm_the_shutdown(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        bad = []
        for headers in ([f"X-{number}: 1" for number in range(300)], ["Cookie: " + "x" * 102_400]):
            client = Client(server.port)
            client.upgrade("/ws", *headers)
            assert client.status == 431
            bad.append(client)
        async with connect(f"ws://127.0.0.1:{server.port}/ws") as good:
            await asyncio.to_thread(server.stop)
            await good.wait_closed()
            assert good.close_code == 1012
        for client in bad:
            client.socket.close()


def test_no_orphan_keeps_the_port_when_the_master_is_killed(tmp_path: Path) -> None:
    with Server(tmp_path, workers=2, drain_delay_seconds=60, drain_seconds=60) as server, server.connect() as client:
        workers = server.workers()
        server.process.kill()
        assert client.close_code()[0] == 1012
        client.socket.close()
        until(lambda: not any(map(alive, workers)), "workers end by themselves", deadline=8)
        assert not listening(server.port)
        assert not listening(server.internal_port)


def test_a_killed_worker_is_replaced(tmp_path: Path) -> None:
    with Server(tmp_path, workers=2) as server:
        first, second = server.workers()
        os.kill(first, signal.SIGKILL)
        until(lambda: first not in server.workers() and len(server.workers(ready=True)) == 2, "another worker")
        assert second in server.workers()
        metrics = server.get("/metrics")[1].decode()
        assert "starling_worker_restarts_total 1.0" in metrics
        assert "starling_workers 2.0" in metrics


def test_a_worker_that_cannot_start_leaves_those_that_serve_and_is_tried_again(tmp_path: Path) -> None:
    with Server(tmp_path, workers=2) as server:
        first, second = server.workers()
        with server.connect() as client:
            client.send("pid")
            serving = int(client.text())
            (tmp_path / "away").touch()
            os.kill(first if serving == second else second, signal.SIGKILL)
            until(lambda: server.events("worker_restart_delayed"), "another worker has not started")
            (tmp_path / "away").unlink()
            until(lambda: len(server.workers(ready=True)) == 2, "a worker that starts")
            client.send("pid")
            assert int(client.text()) == serving


def test_a_stuck_event_loop_is_replaced_and_reported_of_while_the_internal_port_answers(tmp_path: Path) -> None:
    lives: list[int] = []
    with Server(tmp_path, heartbeat_seconds=2) as server:
        # The master looks once a second, and may replace a worker in the instant in which its silence begins to count.
        for attempt in range(1, 6):
            with server.connect() as client:
                [stuck] = server.workers()
                client.send("stick 60")
                assert server.get("/metrics")[0] == 200

                def replaced(stuck: int = stuck) -> bool:
                    lives.append(server.get("/livez")[0])
                    return server.workers(ready=True) not in ([], [stuck])

                until(replaced, "another worker")
            assert server.get("/livez")[0] == 200
            assert len(server.events("worker_stuck")) == attempt
            if 503 in lives:
                break
        assert set(lives) == {200, 503}, "while the only loop stands still, the pod is not alive"
        assert "time.sleep(float(argument))" in "".join(server.events("worker_stuck")[0]["stack"])


@pytest.mark.parametrize(("name", "setting"), [("port", "STARLING_PORT"), ("internal_port", "STARLING_INTERNAL_PORT")])
def test_a_taken_port_is_one_clear_line_and_exit_code_1(tmp_path: Path, name: str, setting: str) -> None:
    with socket.socket() as taken:
        # Even by a socket that would share it.
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with Server(tmp_path, wait_ready=False, **{name: port}) as server:
            assert server.process.wait(15) == 1
    reported, _ = server.lines  # the other line is the test application's own
    assert reported["event"] == "port_not_available"
    assert reported["port"] == port
    assert setting in reported["hint"]


def test_an_address_of_another_machine_is_one_clear_line(tmp_path: Path) -> None:
    with Server(tmp_path, wait_ready=False, host="240.0.0.1") as server:
        assert server.process.wait(15) == 1
    assert "STARLING_HOST" in server.lines[0]["hint"]


@pytest.mark.parametrize("workers", [1, 3])
def test_an_application_that_does_not_start_ends_the_service(tmp_path: Path, workers: int) -> None:
    with Server(tmp_path, wait_ready=False, starts=False, workers=workers) as server:
        assert server.process.wait(DEADLINE) == 3
    assert server.events("uncaught_exception") == []
    assert any("asked not to start" in line.get("exception", "") for line in server.lines)


def test_workers_may_open_as_many_files_as_the_system_lets_them(tmp_path: Path) -> None:
    with Server(tmp_path, open_files=256) as server:
        limits = Path(f"/proc/{server.workers()[0]}/limits").read_text()
    [line] = [line for line in limits.splitlines() if line.startswith("Max open files")]
    soft, hard = line.split()[3:5]
    assert soft == hard != "256"


def test_what_a_process_before_left_is_forgotten(tmp_path: Path) -> None:
    for name in ("metrics/counter_1.db", "metrics/gauge_livesum_1.db", "workers/1.json"):
        path = tmp_path / "run" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    with Server(tmp_path):
        assert not (tmp_path / "run/metrics/counter_1.db").exists()
        assert not (tmp_path / "run/metrics/gauge_livesum_1.db").exists()
        assert not (tmp_path / "run/workers/1.json").exists()


async def test_sighup_has_the_configuration_read_again_and_disconnects_nobody(tmp_path: Path) -> None:
    configuration = tmp_path / "configuration"
    with Server(tmp_path, workers=2) as server:
        before = server.workers()
        async with connect(f"ws://127.0.0.1:{server.port}/ws") as client:
            configuration.write_text("one")
            server.process.send_signal(signal.SIGHUP)
            until(lambda: len(server.events("applied")) == 2, "both workers have it")
            configuration.write_text("a mistake")
            server.process.send_signal(signal.SIGHUP)
            until(lambda: len(server.events("configuration_not_reloaded")) == 2, "each problem has a line")
            os.kill(before[0], signal.SIGKILL)
            until(lambda: before[0] not in server.workers() and len(server.workers(ready=True)) == 2, "another worker")
            configuration.write_text("two")
            server.process.send_signal(signal.SIGHUP)
            until(lambda: len(server.events("applied")) == 5, "both workers have the third")
            assert server.sample("starling_configuration_version") == 3
            assert server.sample("starling_configuration_reload_failed") == 0
            await client.ping()
        assert [line["configuration"] for line in server.events("applied")] == ["one"] * 3 + ["two"] * 2
        assert [line["problem"] for line in server.events("configuration_not_reloaded")] == [
            "the first mistake",
            "the second",
        ]
        assert {line["version"] for line in server.events("configuration_not_reloaded")} == {2}
        assert before[1] in server.workers()
        assert server.sample("starling_worker_restarts_total") == 1, "the killed one"


def test_a_failed_reload_shows_in_the_metrics(tmp_path: Path) -> None:
    (tmp_path / "configuration").write_text("mistake")
    with Server(tmp_path) as server:
        server.process.send_signal(signal.SIGHUP)
        until(lambda: server.sample("starling_configuration_reload_failed") == 1, "it failed")
        assert server.sample("starling_configuration_version") == 1


async def test_sighup_to_a_worker_drains_it_and_is_no_restart(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        [old] = server.workers()
        async with connect(f"ws://127.0.0.1:{server.port}/ws") as client:
            os.kill(old, signal.SIGHUP)
            await client.wait_closed()
            assert client.close_code == 1012
        until(lambda: server.workers(ready=True) not in ([], [old]) and not alive(old), "another worker")
        assert server.sample("starling_worker_restarts_total") == 0
        with server.connect() as client_of_new:
            client_of_new.send("hello")
            assert client_of_new.text() == "hello"


def test_a_worker_that_sigttou_takes_away_is_no_restart(tmp_path: Path) -> None:
    with Server(tmp_path, workers=2) as server:
        server.process.send_signal(signal.SIGTTOU)
        until(lambda: len(server.workers()) == 1, "one is left")
        assert server.sample("starling_worker_restarts_total") == 0
        server.process.send_signal(signal.SIGTTIN)
        until(lambda: len(server.workers(ready=True)) == 2, "another one")


def threads_of(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def test_the_master_never_has_a_thread_when_it_logs_and_answers_requests(tmp_path: Path) -> None:
    with Server(tmp_path, workers=1) as server:
        master = server.process.pid
        for _ in range(3):
            assert server.get("/metrics")[0] == 200
            [worker] = server.workers()
            os.kill(worker, signal.SIGTERM)
            until(lambda gone=worker: server.workers(ready=True) not in ([], [gone]), "another worker")  # type: ignore[misc]
            assert threads_of(master) == 1
        assert server.events("worker_ended")


def test_the_internal_port_answers_again_when_its_process_is_killed(tmp_path: Path) -> None:
    with Server(tmp_path) as server, server.connect() as client:
        workers = server.workers()
        children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
        [internal] = [int(pid) for pid in children if int(pid) not in workers]
        os.kill(internal, signal.SIGKILL)
        until(lambda: server.workers(ready=True) == workers, "it answers, and knows of the workers as before")
        until(lambda: server.events("internal_port_restarted"), "a line says so")
        client.send("hello")
        assert client.text() == "hello"


def test_workers_that_die_at_once_are_restarted_with_growing_pauses() -> None:
    now = 100.0
    backoff = RestartBackoff(clock=lambda: now)
    assert backoff.ended(3600) == 0
    pauses = []
    for _ in range(9):
        pauses.append(backoff.ended(0.1))
        assert backoff.wait == pauses[-1]
        now += pauses[-1]
    assert pauses == [0, 0.5, 1, 2, 4, 8, 16, 30, 30]
    assert backoff.ended(60) == 0
    assert backoff.ended(0.1) == 0


def test_a_worker_that_dies_at_once_again_and_again_is_not_forked_in_a_loop(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        for died in range(1, 4):
            [worker] = until(server.workers, "a worker")
            os.kill(worker, signal.SIGKILL)
            until(lambda gone=worker: gone not in server.workers(), "it is gone")  # type: ignore[misc]
            assert len(server.events("worker_restart_delayed")) <= died
        delayed = until(lambda: server.events("worker_restart_delayed")[1:], "the pauses have lines")
        assert delayed[0]["seconds"] == 1
        assert str(tmp_path / "run") in delayed[0]["remedy"]
        until(lambda: server.workers(ready=True), "it is back")


class SmallDisk(Server):
    """A server whose runtime directory is a file system of 2 MiB, in a mount namespace of its own."""

    def _launch(self, output: IO[bytes]) -> subprocess.Popen[bytes]:
        run = Path(self.options["runtime_dir"])
        run.mkdir(exist_ok=True)
        mount = f'mount -t tmpfs -o size=2M tmpfs {run} && exec "$@"'
        command = [sys.executable, str(Path(__file__).with_name("application.py")), json.dumps(self.options)]
        return subprocess.Popen(
            ["unshare", "--map-root-user", "--mount", "sh", "-c", mount, "sh", *command],
            cwd=ROOT,
            env=self.environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    @property
    def run(self) -> Path:
        return Path(f"/proc/{self.process.pid}/root{self.options['runtime_dir']}")


def test_a_full_disk_costs_metrics_and_no_client_and_no_worker(tmp_path: Path) -> None:
    if subprocess.run(["unshare", "--map-root-user", "--mount", "true"], check=False).returncode:
        pytest.skip("this system gives no mount namespace")
    with SmallDisk(tmp_path) as server, server.connect() as client:
        [first] = server.workers()
        with contextlib.suppress(OSError), (server.run / "fill").open("wb", buffering=0) as fill:
            while True:
                fill.write(bytes(4096))
        client.send("burst 100")
        assert [client.text() for _ in range(100)][-1] == "99"
        for number in range(200):  # labels that need more than the pages there are
            with Client(server.port) as bad:
                bad.socket.sendall(b"NONSENSE%d\r\n\r\n" % number)
                bad.read_head()
        assert server.workers(ready=True) == [first]
        os.kill(first, signal.SIGTERM)
        assert client.close_code()[0] == 1012
        until(lambda: server.workers(ready=True) not in ([], [first]), "a worker starts on the full disk")
        with server.connect() as client_of_new:
            client_of_new.send("hello")
            assert client_of_new.text() == "hello"
        with Client(server.port) as bad:
            bad.socket.sendall(b"NONSENSE\r\n\r\n")
            bad.read_head()
        [line] = until(lambda: server.events("metrics_not_kept"), "a line names the directory")
        assert line["directory"] == str(Path(server.options["runtime_dir"]) / "metrics")
        assert server.get("/metrics")[0] == 200
