"""`make bench`: measure Starling next to others, print the tables, and write docs/benchmarks.md when all of it ran."""

import argparse
import os
import platform
import secrets
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from tests.bench.load_generator import LoadFailedError, compiler_missing
from tests.bench.process import Cores, raise_file_limit
from tests.bench.report import goal_table, markdown, progress, scenario_table, write
from tests.bench.results import Results
from tests.bench.scenarios import COMPARED, ONCE, PARTS, SCENARIOS, Part, Scale, Task
from tests.bench.servers import SERVERS, Room
from tests.bench.workshop import BUILD, ROOT, Workshop, install, versions

RESULTS = BUILD / "results.json"
FULL = Scale()
MOST = 15_000
# Programs of this directory that measure by themselves, and print what goes into the page as it is.
ALONE = {
    "api": "Server API",
    "compression": "Compression",
    "data_format": "What checking a publication's format costs",
    "footprint": "Start-up and rest",
    "loop_lag": "A broadcast to 100,000 subscribers of one process",
    "size": "What a load costs",
    "transports": "Transports without WebSocket",
    "views": "Patches and filters by tags",
}
ALONE_SECONDS = 600
# Of the rounds; with what measures by itself a whole run ends within half an hour on two CPUs.
MINUTES = 25.0
NAMES = (*SCENARIOS, *ALONE)

Plan = Sequence[tuple[Part, str]]


def main() -> None:
    """Run what the command line asks for."""
    asked = parse(sys.argv[1:])
    if asked.page:
        write_page()
        return
    if missing := compiler_missing():
        sys.exit(missing)
    scale = scale_of(asked)
    workshop = install()
    plan = make_plan(asked, workshop)
    describe(plan, asked, workshop)
    results = Results(failures=[f"{what}: {why}" for what, why in workshop.missing.items()])
    results.conditions = conditions(workshop, asked)
    cpus = os.sched_getaffinity(0)
    run(plan, asked, scale, workshop, results)
    os.sched_setaffinity(0, cpus)
    for name in sorted(asked.only & frozenset(ALONE)):
        run_alone(name, results)
    results.conditions["load average"] += f" before, {load_average()} after"
    results.whole = is_whole(asked)
    results.save(RESULTS)
    if results.whole:
        write(results, scale, ROOT / "docs")
        print(markdown(results, scale))
        print("\nThis is docs/benchmarks.md now.")
    else:
        print("\n".join([goal_table(results, scale), *(scenario_table(results, name) for name in results.scenarios())]))
        print(f"All numbers are in {RESULTS.relative_to(ROOT)}; docs/benchmarks.md has those of whole runs only.")
    faults = [key for key, _ in results.faults()]
    if faults or len(results.failures) > len(workshop.missing):
        sys.exit(f"Not whole: {', '.join(faults) or results.failures[-1]}")


def write_page() -> None:
    """Write the page and its pictures from the last run, which must have been a whole one."""
    results = Results.load(RESULTS)
    if not results.whole:
        sys.exit(f"{RESULTS.relative_to(ROOT)} is of a part only: run `make bench`")
    write(results, FULL, ROOT / "docs")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line; what is no name ends with the list of those that are."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--only", type=names_of(NAMES), default=frozenset(NAMES), help="scenarios")
    parser.add_argument("--servers", type=names_of(tuple(SERVERS)), default=frozenset(SERVERS), help="servers")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds")
    parser.add_argument("--seconds", type=float, default=FULL.seconds, help="length of a window")
    parser.add_argument("--counts", type=numbers, default=FULL.counts, help="receivers of a fan-out")
    parser.add_argument("--sizes", type=numbers, default=FULL.sizes, help="bytes of a payload")
    parser.add_argument("--most", type=int, default=MOST, help="connections at most in the other scenarios")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="no round begins that would end after this")
    parser.add_argument("--page", action="store_true", help="only write the page anew, from the last whole run")
    return parser.parse_args(arguments)


def names_of(known: tuple[str, ...]) -> Callable[[str], frozenset[str]]:
    """Make a reader of names, comma separated."""

    def read(text: str) -> frozenset[str]:
        names = frozenset(text.split(","))
        if unknown := names - set(known):
            raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: choose from {', '.join(known)}")
        return names

    return read


def numbers(text: str) -> tuple[int, ...]:
    """Whole numbers, comma separated, in rising order."""
    return tuple(sorted(int(number) for number in text.split(",")))


def scale_of(asked: argparse.Namespace) -> Scale:
    """How large the run is to be."""
    return Scale(
        counts=asked.counts,
        sizes=asked.sizes,
        seconds=asked.seconds,
        receivers=min(FULL.receivers, asked.most),
        idle=min(FULL.idle, asked.most),
        channels=min(FULL.channels, asked.most),
        returning=min(FULL.returning, asked.most),
        storm=min(FULL.storm, asked.most),
    )


def is_whole(asked: argparse.Namespace) -> bool:
    """Whether everything is measured at full size, in the three rounds that a median takes."""
    everything: bool = asked.only == frozenset(NAMES) and asked.servers == frozenset(SERVERS)
    full: bool = asked.counts == FULL.counts and asked.sizes == FULL.sizes and asked.most >= MOST
    return everything and full and bool(asked.rounds >= 3)


def make_plan(asked: argparse.Namespace, workshop: Workshop) -> Plan:
    """Which server is driven through which scenarios, in the order of one round."""
    return [
        (part, name)
        for part in PARTS
        if asked.only & frozenset(part.scenarios)
        for name in part.servers
        if name in asked.servers and SERVERS[name].needs not in workshop.missing
    ]


def describe(plan: Plan, asked: argparse.Namespace, workshop: Workshop) -> None:
    """Say what will be done."""
    print(f"{asked.rounds} rounds, {asked.minutes:g} minutes at most; servers on one CPU, load on another:")
    for part in PARTS:
        servers = ", ".join(name for other, name in plan if other is part)
        for scenario, about in part.scenarios.items():
            if scenario in asked.only and servers:
                print(f"  {scenario}: {about}: {servers}")
    for name in sorted(asked.only & frozenset(ALONE)):
        print(f"  {name}: tests/bench/{name}.py")
    for what, why in workshop.missing.items():
        print(f"  without {what}: {why}")
    sys.stdout.flush()


def conditions(workshop: Workshop, asked: argparse.Namespace) -> dict[str, str]:
    """Under what the run is made."""
    reported = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in reported if line.startswith("model name")), platform.machine())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "command": shlex.join(["make", "bench", *make_variables(asked)]),
        "begun": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{os.cpu_count()} x {cpu}, {memory:.0f} GiB, Linux {platform.release()}, loopback",
        "rounds": "0",
        "load average": load_average(),
        "versions": ", ".join(f"{name} {version}" for name, version in versions(workshop).items()),
    }


def make_variables(asked: argparse.Namespace) -> list[str]:
    """The variables of `make bench` that ask for the same again."""
    reported = {
        "ONLY": "" if asked.only == frozenset(NAMES) else ",".join(sorted(asked.only)),
        "SERVERS": "" if asked.servers == frozenset(SERVERS) else ",".join(sorted(asked.servers)),
        "ROUNDS": "" if asked.rounds == 3 else str(asked.rounds),
        "SECONDS": "" if asked.seconds == FULL.seconds else f"{asked.seconds:g}",
        "COUNTS": "" if asked.counts == FULL.counts else ",".join(map(str, asked.counts)),
        "SIZES": "" if asked.sizes == FULL.sizes else ",".join(map(str, asked.sizes)),
        "MOST": "" if asked.most == MOST else str(asked.most),
        "MINUTES": "" if asked.minutes == MINUTES else f"{asked.minutes:g}",
    }
    return [f"{name}={value}" for name, value in reported.items() if value]


def load_average() -> str:
    """Of the last minute."""
    return f"{os.getloadavg()[0]:.1f}"


def run(plan: Plan, asked: argparse.Namespace, scale: Scale, workshop: Workshop, results: Results) -> None:
    """Drive every server once a round, and save after each round what there is."""
    raise_file_limit()
    cores = Cores.of_this_machine()
    # What is started from here stays off the server's CPU unless it is the server.
    os.sched_setaffinity(0, {cores.load})
    begun = time.monotonic()
    again = 0.0
    # Who asks for a part gets each of its rounds whole.
    once = ONCE if is_whole(asked) else frozenset[str]()
    with tempfile.TemporaryDirectory(prefix="starling-bench-") as directory:
        room = Room.make(workshop, Path(directory), cores, secrets.token_urlsafe(48))
        for number in range(1, asked.rounds + 1):
            if time.monotonic() - begun + again > asked.minutes * 60:
                print(f"Round {number} would end after {asked.minutes:g} minutes: left out.")
                break
            again = 0.0
            for part, name in plan:
                runs_once = name in once and not part.has_targets_for_all
                if runs_once and number > 1:
                    continue
                part_begun = time.monotonic()
                drive(Task(SERVERS[name], number, room, scale, asked.only, results, next(iter(part.scenarios))), part)
                if not runs_once:
                    again += time.monotonic() - part_begun
            if once:
                scale = later_rounds(scale)
            results.conditions["rounds"] = f"{number}, windows of {asked.seconds:g} s"
            results.save(RESULTS)


def later_rounds(scale: Scale) -> Scale:
    """What is measured more than once: the cases that numbers to reach are of."""
    counts = tuple(count for count in scale.counts if count in COMPARED) or scale.counts
    return replace(scale, counts=counts, sizes=scale.sizes[:1])


def drive(task: Task, part: Part) -> None:
    """One server's part of a round; what fails is noted, and the others go on."""
    begun = time.monotonic()
    name = task.server.name
    try:
        part.drive(task)
        reported = "; ".join(progress(task.results, name, tuple(part.scenarios), task.round))
    except Exception as error:  # noqa: BLE001  # whatever it is, the others are measured
        reported = f"failed: {describe_failure(error)}"
        task.results.failures.append(f"{task.scenario}, {name}, round {task.round}: {describe_failure(error)}")
    print(f"[{task.round}] {name} ({time.monotonic() - begun:.0f} s, load {load_average()}): {reported}", flush=True)


def describe_failure(error: Exception) -> str:
    """What failed, in one line: what a server wrote last comes last."""
    words = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not isinstance(error, LoadFailedError | RuntimeError | OSError):
        return f"{type(error).__name__}: {words[0] if words else ''}"
    return words[0] if len(words) < 2 else f"{words[0]} {words[-1]}"


def run_alone(name: str, results: Results) -> None:
    """Run a program that measures by itself, and keep what it prints."""
    command = [sys.executable, "-m", f"tests.bench.{name}"]
    print(f"{name}:", flush=True)
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=ALONE_SECONDS, cwd=ROOT)
    except subprocess.TimeoutExpired:
        results.failures.append(f"{name}: not done within {ALONE_SECONDS} s")
        return
    print(done.stdout, flush=True)
    if done.returncode == 0:
        results.printed[ALONE[name]] = done.stdout
    else:
        words = (done.stderr.strip() or done.stdout.strip()).splitlines()
        results.failures.append(f"{name}: {words[-1] if words else f'ended with status {done.returncode}'}")


if __name__ == "__main__":
    main()
