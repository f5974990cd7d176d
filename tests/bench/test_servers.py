"""The bench still speaks to Starling, and its processes leave nothing behind."""

import shutil
import time
from pathlib import Path

import psutil
import pytest

from tests.bench.load_generator import SOURCES, compile_program, compiler_missing
from tests.bench.process import Cores
from tests.bench.results import Results
from tests.bench.scenarios import PARTS, SECONDS, Scale, Task
from tests.bench.servers import SERVERS, Room
from tests.bench.workshop import PEERS, Workshop

SMALL = Scale(
    counts=(5,), sizes=(128,), seconds=0.2, receivers=5, idle=5, channels=5, returning=5, missed=7, settle=0.1, storm=50
)


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """The programs of our own; no peer is installed for tests."""
    if missing := compiler_missing():
        pytest.skip(missing)
    build = tmp_path_factory.mktemp("build")
    return Workshop(
        compile_program(SOURCES, build / "generator", ["-lz"]),
        compile_program([PEERS / "baseline.c"], build / "baseline"),
        centrifugo=shutil.which("centrifugo"),
    )


@pytest.fixture
def room(workshop: Workshop, tmp_path: Path) -> Room:
    """What servers are started with."""
    secret = "a bench's own secret, longer than thirty-two bytes"
    return Room.make(workshop, tmp_path, Cores.of_this_machine(), secret, clients=52)


@pytest.mark.parametrize(
    "server",
    [
        *("starling", "tutorial", "c-joined"),
        *(pytest.param(name, marks=pytest.mark.long) for name in ("starling-chat", "starling-deflate", "c-single")),
    ],
)
def test_a_crowd_gets_everything(room: Room, server: str) -> None:
    results = drive(room, server, "burst")
    assert results.servers("burst") == [server]
    assert all(measurement.value > 0 for measurement in results.numbers if measurement.measure != "generator busy, %")
    assert results.integrity["crowd/" + server].whole, results.integrity


def test_clients_of_starling_that_return_get_what_they_missed(room: Room) -> None:
    results = drive(room, "starling", "recovery")
    unrecovered = [measurement.value for measurement in results.numbers if measurement.measure == "not recovered"]
    assert unrecovered == [0]
    assert results.integrity["recovery/starling"].whole, results.integrity


@pytest.mark.parametrize(
    "server",
    [
        "starling",
        *(pytest.param(name, marks=pytest.mark.long) for name in ("starling-redis", "centrifugo", "centrifugo-redis")),
    ],
)
def test_clients_that_return_in_a_storm_get_what_they_missed(room: Room, server: str) -> None:
    if SERVERS[server].needs == "centrifugo" and room.workshop.centrifugo is None:
        pytest.skip("no centrifugo on the PATH")
    results = drive(room, server, "storm")
    assert [measurement.value for measurement in results.numbers if measurement.measure == "not recovered"] == [0, 0]
    assert [case for case, measure in results.columns("storm") if measure == SECONDS] == [
        "50 in one channel, 50 missed",
        "50, a channel each",
    ]
    assert results.integrity[f"storm/{server}"].whole, results.integrity


@pytest.mark.parametrize("server", [pytest.param("starling", marks=pytest.mark.long), "starling-null"])
def test_the_null_recorder_takes_the_place_of_the_real_one(room: Room, server: str) -> None:
    """The scenario itself raises where log lines are written, or not, against the server's name."""
    assert drive(room, server, "records").integrity["records/" + server].whole


def test_the_memory_and_the_cpu_time_of_a_server_are_read(room: Room) -> None:
    with SERVERS["c-echo"].run(room, publisher=False) as running, running.load(50) as load:
        load.open(50)
        before = running.process.cpu_seconds()
        window = load.own(128, in_flight=50, warm=0.05, seconds=0.3)
        used = running.process.cpu_seconds() - before
        assert 0 < window.server_seconds <= used
        assert 10_000 < running.process.proportional_bytes() < 100_000_000
        family = running.process.family
    deadline = time.monotonic() + 5
    while any(psutil.pid_exists(pid) for pid in family):
        assert time.monotonic() < deadline, "the server outlived its context"
        time.sleep(0.05)


def drive(room: Room, server: str, scenario: str) -> Results:
    """One small round of one scenario."""
    part = next(part for part in PARTS if scenario in part.scenarios)
    results = Results()
    part.drive(Task(SERVERS[server], 1, room, SMALL, frozenset({scenario}), results, next(iter(part.scenarios))))
    return results
