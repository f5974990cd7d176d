"""What the index of an Autobahn run says: which cases passed, which were refused on purpose, and which failed."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# The close codes with which the server refuses what is over a limit: RFC 6455 section 7.4.1.
REFUSING = {1008: "too many control frames or empty fragments", 1009: "message too large or in too many fragments"}


@dataclass(frozen=True, slots=True)
class Report:
    """The cases by what came of them; `sections` counts Autobahn's own words by section."""

    sections: Mapping[int, Counter[str]]
    refused: Mapping[str, int]
    """Cases that a limit ended, and the close code that the client got."""
    failed: list[str]
    """Cases that failed otherwise; or the run itself, where it had no case."""

    def text(self) -> str:
        """Lines for people."""
        lines = [
            f"  section {section}: " + ", ".join(f"{count} {word}" for word, count in sorted(counts.items()))
            for section, counts in sorted(self.sections.items())
        ]
        for code in sorted(set(self.refused.values())):
            cases = [case for case, got in self.refused.items() if got == code]
            lines.append(f"  refused with {code}, {REFUSING[code]}: {len(cases)} ({' '.join(cases)})")
        lines.append(f"  failed: {' '.join(self.failed) or 'none'}")
        return "\n".join(lines)


def read_report(index: Mapping[str, Mapping[str, Any]]) -> Report:
    """Read the part of index.json that is about one server."""
    sections: dict[int, Counter[str]] = {}
    refused: dict[str, int] = {}
    failed: list[str] = [] if index else ["no case ran"]
    for case in sorted(index, key=lambda name: [int(part) for part in name.split(".")]):
        result = index[case]
        sections.setdefault(int(case.split(".")[0]), Counter())[result["behavior"]] += 1
        if "FAILED" not in (result["behavior"], result["behaviorClose"]):
            continue
        if result["remoteCloseCode"] in REFUSING:
            refused[case] = result["remoteCloseCode"]
        else:
            failed.append(case)
    return Report(sections, refused, failed)
