"""What was measured: one number for each scenario, server, case, measure and round; medians and ratios of them."""

import json
import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from tests.bench.load_generator import Integrity


@dataclass(frozen=True, slots=True)
class Measurement:
    """One measured number."""

    scenario: str
    server: str
    case: str
    measure: str
    round: int
    value: float


@dataclass(frozen=True, slots=True)
class Series:
    """What is measured once or more in each round: one measure of one case, of one server."""

    scenario: str
    server: str
    case: str
    measure: str


@dataclass(slots=True)
class Results:
    """All numbers of a run, what failed in it, and where it was made."""

    numbers: list[Measurement] = field(default_factory=list)
    integrity: dict[str, Integrity] = field(default_factory=dict)
    """By `scenario/server`."""
    failures: list[str] = field(default_factory=list)
    conditions: dict[str, str] = field(default_factory=dict)
    printed: dict[str, str] = field(default_factory=dict)
    """By heading, what programs printed that measure by themselves."""
    whole: bool = False
    """Whether everything was measured at full size."""

    def add(self, series: Series, round_number: int, value: float) -> None:
        """Note a measurement."""
        self.numbers.append(
            Measurement(series.scenario, series.server, series.case, series.measure, round_number, value)
        )

    def check(self, scenario: str, server: str, integrity: Integrity) -> None:
        """Note whether all was delivered as it should be."""
        key = f"{scenario}/{server}"
        self.integrity[key] = self.integrity.get(key, Integrity()) + integrity

    def rounds(self, series: Series) -> dict[int, float]:
        """The number of each round; the median where a round has several."""
        found: dict[int, list[float]] = {}
        for each in self.numbers:
            if Series(each.scenario, each.server, each.case, each.measure) == series:
                found.setdefault(each.round, []).append(each.value)
        return {number: statistics.median(values) for number, values in found.items()}

    def median(self, series: Series) -> float | None:
        """The median over the rounds; None where it was not measured."""
        values = self.rounds(series).values()
        return statistics.median(values) if values else None

    def ratio(self, over: Series, under: Series) -> float | None:
        """The median of the ratios within each round; None where one of the two is missing."""
        numerators, denominators = self.rounds(over), self.rounds(under)
        ratios = [value / denominators[number] for number, value in numerators.items() if denominators.get(number)]
        return statistics.median(ratios) if ratios else None

    def servers(self, scenario: str) -> list[str]:
        """Those with a number in a scenario, in the order they were measured."""
        return list(dict.fromkeys(each.server for each in self.numbers if each.scenario == scenario))

    def columns(self, scenario: str) -> list[tuple[str, str]]:
        """Cases and measures of a scenario, in the order they were measured."""
        found = dict.fromkeys((each.case, each.measure) for each in self.numbers if each.scenario == scenario)
        return list(found)

    def scenarios(self) -> list[str]:
        """All that has numbers."""
        return list(dict.fromkeys(each.scenario for each in self.numbers))

    def faults(self) -> Iterator[tuple[str, Integrity]]:
        """What was not delivered whole."""
        return ((key, integrity) for key, integrity in self.integrity.items() if not integrity.whole)

    def save(self, path: Path) -> None:
        """Write everything as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote."""
        saved: dict[str, Any] = json.loads(path.read_text())
        return cls(
            [Measurement(**each) for each in saved["numbers"]],
            {key: Integrity(**counts) for key, counts in saved["integrity"].items()},
            saved["failures"],
            saved["conditions"],
            saved["printed"],
            saved["whole"],
        )
