"""The retired words of the project, where each is, and what to say instead; `python -m tools.words` looks for them."""

import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Flag, auto
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


class Where(Flag):
    """The kinds of text in the repository."""

    IDENTIFIER = auto()
    """Names in Python code: modules, classes, functions, arguments, and with them settings and log fields."""
    COMMENT = auto()
    """Docstrings and comments, in every language."""
    TEXT = auto()
    """String literals: log events, metrics, messages, help of the command line."""
    CODE = auto()
    """Other languages: chart, rules, dashboards, scripts, pages; with them chart values and names of alerts."""
    DOCS = auto()
    """Markdown."""
    HEADING = auto()
    """Headings in Markdown."""
    TEST_DATA = auto()
    """String literals of tests, where a client may say what it likes."""


PROSE = Where.COMMENT | Where.DOCS | Where.HEADING
EVERYWHERE = PROSE | Where.IDENTIFIER | Where.TEXT | Where.CODE


@dataclass(frozen=True)
class Retired:
    """A retired word: its forms as a regular expression over lower-case words, and what to say instead.

    `exceptions` maps paths (a file, or a folder with `/` at its end) to the reason why the word is innocent there.
    `only_in` limits the rule to paths that contain one of these.
    """

    forms: str
    say: str
    where: Where = EVERYWHERE
    exceptions: dict[str, str] = field(default_factory=dict)
    only_in: tuple[str, ...] = ()

    def applies(self, path: str) -> bool:
        """Whether the rule holds in the file at `path`."""
        if self.only_in and not any(part in path for part in self.only_in):
            return False
        return not any(path == at or (at.endswith("/") and path.startswith(at)) for at in self.exceptions)


RETIRED = (
    Retired("doors?", "endpoint; client endpoint; tutorial endpoints"),
    Retired("(?<!math )floors?", "layer; lower limit"),
    Retired("mend(s|ed|ing)?", "fix, remedy; resolution"),
    Retired("tells?|told|telling|untold|teller", "report, notify, return, send, publish, log"),
    Retired("figures?", "metrics, stats, numbers"),
    Retired("wish(es|ed|ing)?", "request"),
    Retired("whoever|whomever|whom", "clients that, users who"),
    Retired("(come|comes|came|coming) (back|again)", "reconnect"),
    Retired("(let|lets|letting)( \\w+){0,3} go(?! on)", "disconnect, close, drain"),
    Retired("(turn|turns|turned|turning)( \\w+)? away", "reject"),
    Retired("hears?|heard|hearing|deaf", "receive; unresponsive"),
    Retired("beside", "compared with, next to"),
    Retired("so many", "the number itself"),
    Retired("about", "what it is about: channel, user", Where.IDENTIFIER, only_in=("app/starling/",)),
    Retired("attendance", "PresenceTracker"),
    Retired("orders?", "NodeCommand", Where.IDENTIFIER, only_in=("app/starling/",)),
    Retired("(trace|traces|tracing)", "capture; tracing is OpenTelemetry's", only_in=("capture", "frame_tap")),
    Retired("(?<!frame )taps?", "FrameTap, Capture", Where.IDENTIFIER),
    Retired("turned away|refused set", "Rejection, RevocationSet"),
    Retired("audiences?", "SubscriberIndex", only_in=("/engine/", "/client/")),
    Retired("paces?", "drain rate, rate"),
    Retired("places?", "position, offset, index", Where.IDENTIFIER, only_in=("app/starling/",)),
    Retired("place in (its|the|a) (history|stream|channel)( s history)?", "position", PROSE | Where.TEXT),
    Retired("processors?", "CPU, core", exceptions={"app/starling/telemetry/logging.py": "a name of structlog"}),
    Retired("steer(s|ed|ing)?", "control"),
    Retired("entrances?", "admission, endpoint"),
    Retired("companions?", "concurrent"),
    Retired("slip of the pen|s heels|their heels", "typo; directly after"),
    Retired(
        "(good|bad) (token|key|ticket)s?",
        "valid, invalid",
        exceptions={"tests/bench/command_costs.py": "decision notes quote its table as it was printed"},
    ),
    Retired("is well(?! below)|goes wrong|go wrong", "is healthy; fails"),
    Retired("clients feel|look|the rest|what there is not", "Impact; Diagnosis; More; Not supported", Where.HEADING),
)

OPEN_TELEMETRY = "a name of OpenTelemetry"
STRUCTLOG = "a name of structlog"
MATPLOTLIB = "a name of matplotlib"
INNOCENT_NAMES = {
    "figure": MATPLOTLIB,
    "Figure": MATPLOTLIB,
    "tell": "a method of files",
    "BatchSpanProcessor": OPEN_TELEMETRY,
    "SpanProcessor": OPEN_TELEMETRY,
    "SimpleSpanProcessor": OPEN_TELEMETRY,
    "add_span_processor": OPEN_TELEMETRY,
    "Processor": STRUCTLOG,
    "processor": STRUCTLOG,
    "processors": STRUCTLOG,
    "_processor": STRUCTLOG,
    "_processors": STRUCTLOG,
    "LogProcessor": STRUCTLOG,
    "log_processors": STRUCTLOG,
}
"""Whole names that contain a retired word, each with the reason."""

NOT_OURS = (
    "tests/test_words.py",
    "tools/words.py",
    "tests/chart/crds/",
    "tests/sdk/node_modules/",
    "helm/starling/charts/",
    "requirements/",
    "LICENSE",
)
"""What is not ours to word: schemas and packages of others, and this list of words."""

# What stands for a value in an f-string.
PLACEHOLDER = r"\{[^{}]*\}"
SUFFIXES = {".py", ".pyi", ".md", ".lua", ".sh", ".yaml", ".yml", ".tpl", ".txt", ".js", ".html", ".css", ".toml"}
SUFFIXES |= {".json", ".conf", ".cfg", ".proto"}
PLAIN = {"Makefile", "Dockerfile", "run"}


class NotAGitCheckoutError(Exception):
    """Git does not know which files are ours; the text is what it said."""


class Passage(NamedTuple):
    """A piece of text: the line where it starts, its kind, and its words."""

    line: int
    kind: Where
    text: str


def words(text: str) -> str:
    """The words of a text in lower case, names in snake case and camel case taken apart."""
    apart = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", text)
    apart = re.sub(r"([A-Z])([A-Z][a-z])", r"\1 \2", apart)
    return " ".join(re.findall(r"[a-z0-9]+", apart.lower()))


def python_passages(source: str, *, test: bool) -> Iterator[Passage]:
    """Names, comments, docstrings and string literals of a Python module."""
    seen: set[str] = set()
    block: list[str] = []
    block_line = 0
    statement_begins = True
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            own_line = token.line.lstrip().startswith("#")
            if block and not (own_line and token.start[0] == block_line + len(block)):
                yield Passage(block_line, Where.COMMENT, " ".join(block))
                block = []
            if not block:
                block_line = token.start[0]
            block.append(token.string.lstrip("#"))
            continue
        if token.type == tokenize.NAME and token.string not in seen:
            seen.add(token.string)
            if token.string not in INNOCENT_NAMES:
                yield Passage(token.start[0], Where.IDENTIFIER, token.string)
        elif token.type == tokenize.STRING:
            if statement_begins:
                yield Passage(token.start[0], Where.COMMENT, token.string)
            else:
                literal = re.sub(PLACEHOLDER, " ", token.string) if "f" in token.string[:2].lower() else token.string
                yield Passage(token.start[0], Where.TEST_DATA if test else Where.TEXT, literal)
        elif token.type == getattr(tokenize, "FSTRING_MIDDLE", -1):
            yield Passage(token.start[0], Where.TEST_DATA if test else Where.TEXT, token.string)
        if token.type not in {tokenize.NL, tokenize.COMMENT}:
            statement_begins = token.type in {tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING}
    if block:
        yield Passage(block_line, Where.COMMENT, " ".join(block))


def markdown_passages(source: str) -> Iterator[Passage]:
    """The headings of a page, and its paragraphs; a phrase may go on in the next line."""
    paragraph: list[str] = []
    start = 1
    for number, line in enumerate([*source.splitlines(), ""], start=1):
        if line.startswith("#"):
            yield Passage(number, Where.HEADING, line)
        elif line.strip():
            if not paragraph:
                start = number
            paragraph.append(line)
            continue
        if paragraph:
            yield Passage(start, Where.DOCS, "\n".join(paragraph))
            paragraph = []


def other_passages(source: str) -> Iterator[Passage]:
    """Blocks of comment lines as prose, every other line as code."""
    block: list[str] = []
    start = 1
    for number, line in enumerate([*source.splitlines(), ""], start=1):
        comment = re.match(r"\s*(?:#|--|//|\{\{/\*)(.*)", line)
        if comment:
            if not block:
                start = number
            block.append(comment[1])
            continue
        if block:
            yield Passage(start, Where.COMMENT, "\n".join(block))
            block = []
        if line.strip():
            yield Passage(number, Where.CODE, line)


@cache
def own_files() -> tuple[str, ...]:
    """Every text file under version control that is ours."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],  # noqa: S607
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    if listed.returncode != 0:
        raise NotAGitCheckoutError(listed.stderr.strip())
    return tuple(
        name
        for name in listed.stdout.split("\0")
        if name
        and (ROOT / name).is_file()
        and not Path(name).name.startswith("vendor-")
        and (Path(name).suffix in SUFFIXES or Path(name).name in PLAIN)
        and not name.startswith(NOT_OURS)
        and not name.endswith(("package-lock.json", "_pb2.py", "_pb2.pyi"))
        and ".min." not in name
    )


def texts_of(name: str, source: str) -> Iterator[Passage]:
    """The passages of `source`, by the language that the suffix of `name` names."""
    if name.endswith((".py", ".pyi")):
        # What the programs of the benchmark print becomes a page.
        is_test = name.startswith("tests/") and not re.match(r"tests/bench/(?!test_)", name)
        return python_passages(source, test=is_test)
    return markdown_passages(source) if name.endswith(".md") else other_passages(source)


def passages(name: str) -> Iterator[Passage]:
    """What stands in a file, and its own name; nothing where no retired word can be, which takes less time to see."""
    source = (ROOT / name).read_text()
    if possible(name).search(words(f"{name} {source} {re.sub(PLACEHOLDER, ' ', source)}")):
        yield Passage(0, Where.IDENTIFIER, name)
        yield from texts_of(name, source)


def possible(name: str) -> re.Pattern[str]:
    """Matches the words of a file where a passage may hold a retired word, whatever stands before and after it."""
    forms = [re.sub(r"\(\?<?!.*?\)", "", rule.forms) for rule in RETIRED if rule.applies(name)]
    return re.compile(rf"\b(?:{'|'.join(forms)})\b")


def found(name: str, texts: Iterator[Passage]) -> list[str]:
    """One line for each retired word in the passages of a file, with what to say instead."""
    rules = [retired for retired in RETIRED if retired.applies(name)]
    patterns = {
        kind: [(re.compile(rf"\b(?:{rule.forms})\b"), rule) for rule in rules if kind in rule.where] for kind in Where
    }
    any_of = {kind: re.compile("|".join(pattern.pattern for pattern, _ in patterns[kind]) or "(?!)") for kind in Where}
    lines: list[str] = []
    for passage in texts:
        text = words(passage.text)
        if any_of[passage.kind].search(text):
            lines += [
                f"{name}:{passage.line}: {match[0]!r} ({(passage.kind.name or '').lower()}): say {rule.say}"
                for pattern, rule in patterns[passage.kind]
                for match in pattern.finditer(text)
            ]
    return lines


def main() -> int:
    """Print every retired word of the repository; returns the exit code, 1 if there is one."""
    lines = [line for name in own_files() for line in found(name, passages(name))]
    print(*lines, sep="\n", end="\n" if lines else "")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
