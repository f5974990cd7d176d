"""A run as Markdown: the figures to reach, a table for each scenario, and under what conditions it was made."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.bench.goals import goals
from tests.bench.plots import draw
from tests.bench.results import Place, Results
from tests.bench.scenarios import CONNECTS, GENERATOR, PARTS, PER_SECOND, RATE, Scale
from tests.bench.servers import SERVERS

INTRODUCTION = """\
# Benchmarks

<!-- Made by `make bench` (tests/bench/report.py): change it there. -->

Starling beside what a team would write or install instead. All of it ran in one go on one machine: each server on one
processor, the load generator on another, in rounds that take one server after the other. A number is the median of
the rounds; a ratio is the median of the ratios within each round. The machine is small and may be shared, so ratios
hold and single figures do not.
"""

METHOD = """\
## How it is measured

- `make bench` does it all: it compiles the generator ([tests/bench/generator](../tests/bench/generator)) and the C
  servers, installs the peers under `build/bench`, and runs every scenario. `make bench ONLY=fanout,burst
  SERVERS=starling,ws ROUNDS=1 SECONDS=1 COUNTS=100,1000` runs a part, and prints it without writing this page.
- A payload has the same bytes for every server: a JSON string with a sequence number, the time, and letters. The
  generator compares every byte, and counts for each client what it did not get, got twice, or got out of order.
  Starling's real-time protocol wraps the payload into a push, its chat door and the tutorial's into a sentence.
- The load is closed: so many messages are in flight, and the next goes out when one has reached everybody. One client
  publishes by its own WebSocket; it is subscribed too, and what it gets is not counted.
- CPU-seconds are those of all of a server's processes, user and system, from `/proc/PID/task/*/schedstat`; Redis is not
  among them. Memory is the growth of the proportional set size (`smaps_rollup`) over the connections.
- Starling runs with its defaults and demands a token: each client brings a JWT of its own. The others let everybody in.
  Python peers run on uvicorn with uvloop and httptools, at log level `warning`, with compression off unless said.
- Where many messages are in flight, how many a server finds at a time, and can join into one write, depends on how
  late it looks: a quick loop looks often and finds few. That is why a Python program can deliver more per CPU-second
  than the joined C program with 16 in flight, and less with 10 at once, where both find all ten.
- `C` is a program of ours with epoll and `send()` and nothing else: what the kernel leaves to any server.
- What is not reached is told, with where the time goes, in
  [decision 0015](decisions/0015-targets-not-reached.md).
- Starling without records has recorders that keep nothing. The plain integers that are added up on a message's way
  are in both.
- Socket.IO's clients come by WebSocket alone.
- What no figure to reach is of is measured in the first round alone, so that the whole takes half an hour: some of the
  servers, the larger payload, 10,000 receivers.
"""


def markdown(results: Results, scale: Scale, pictures: Sequence[str] = ()) -> str:
    """The whole page."""
    parts = [INTRODUCTION, _conditions(results), goal_table(results, scale), _delivered(results)]
    parts += [f"![{name}](benchmarks/{name}.png)\n" for name in pictures]
    parts += [scenario_table(results, scenario) for scenario in results.scenarios()]
    parts += [f"## {heading}\n\n```text\n{text.strip()}\n```\n" for heading, text in results.printed.items()]
    if results.failures:
        parts.append("## What did not run\n\n" + "".join(f"- {failure}\n" for failure in results.failures))
    return "\n".join([*parts, METHOD])


def write(results: Results, scale: Scale, docs: Path) -> None:
    """Write the page and its pictures."""
    pictures = draw(results, scale, docs / "benchmarks")
    (docs / "benchmarks.md").write_text(markdown(results, scale, pictures))


def goal_table(results: Results, scale: Scale) -> str:
    """Measured against wanted, for what this run measured."""
    rows = []
    for goal in goals(scale):
        measured = goal.measure(results)
        if measured is not None:
            sign = "≥" if goal.at_least else "≤"
            verdict = "yes" if goal.reached(measured) else "**no**"
            rows.append((goal.text, f"{sign} {goal.show(goal.wanted)}", goal.show(measured), verdict))
    if not rows:
        return ""
    return "## Figures to reach\n\n" + _table(("figure", "wanted", "measured", "reached"), rows)


def scenario_table(results: Results, scenario: str) -> str:
    """A row for each server, a column for each case and measure."""
    columns = [(case, measure) for case, measure in results.columns(scenario) if measure != GENERATOR]
    rows = []
    for server in results.servers(scenario):
        medians = [results.median(Place(scenario, server, *column)) for column in columns]
        rows.append((SERVERS[server].title, *("-" if value is None else number(value) for value in medians)))
    about = next(part.scenarios[scenario] for part in PARTS if scenario in part.scenarios)
    heads = [f"{case}<br>{measure}" for case, measure in columns]
    return f"## {scenario}\n\n{about[0].upper()}{about[1:]}.\n\n" + _table(("server", *heads), rows)


def busiest_generator(results: Results) -> float:
    """The most that the generator was busy in any measured window, in per cent of its processor."""
    return max((figure.value for figure in results.figures if figure.measure == GENERATOR), default=0.0)


def number(value: float) -> str:
    """Short, and as exact as such a measurement is."""
    if abs(value) >= 10_000:
        return f"{value / 1000:,.0f}k"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}"


def _conditions(results: Results) -> str:
    return _table(("condition", ""), list(results.conditions.items()))


def _delivered(results: Results) -> str:
    faults = [f"- {key}: {_describe(key, results)}\n" for key, _ in results.faults()]
    if not results.integrity:
        return ""
    generator = f"The generator was busy for {busiest_generator(results):.0f} % of its processor at most.\n"
    if faults:
        return "Not everything was delivered as it should be:\n\n" + "".join(faults) + "\n" + generator
    return "0 lost, 0 duplicated, 0 out of order, 0 altered in every row. " + generator


def _describe(key: str, results: Results) -> str:
    counts = results.integrity[key]
    names = ("lost", "duplicated", "out_of_order", "corrupted", "refused", "disconnected")
    told = ", ".join(f"{getattr(counts, name)} {name.replace('_', ' ')}" for name in names if getattr(counts, name))
    return f"{told} ({counts.trouble})" if counts.trouble else told


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def progress(results: Results, server: str, scenarios: Sequence[str], round_number: int) -> Iterator[str]:
    """Short lines on what one round of one server measured."""
    for figure in results.figures:
        if figure.server == server and figure.scenario in scenarios and figure.round == round_number:
            if figure.measure in {GENERATOR, PER_SECOND}:
                continue
            unit = "" if figure.measure in {RATE, CONNECTS} else f" ({figure.measure})"
            yield f"{figure.scenario} {figure.case}: {number(figure.value)}{unit}"
