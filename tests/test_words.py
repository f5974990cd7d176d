"""The words of the project: one name for one thing, and no word of the early drafts anywhere."""

import ast
import re
from collections import defaultdict

import pytest

from tools.words import ROOT, NotAGitCheckoutError, found, own_files, passages, possible, texts_of, words

pytestmark = pytest.mark.processes

PACKAGE = ROOT / "app/starling"
SAME_NAMES = {"StreamPosition": "a message of the client protocol, whose schema gives the name, and the engine's value"}
"""Names that two classes may have, each with the reason."""


def test_no_retired_word_stands_in_the_repository() -> None:
    try:
        lines = [line for name in own_files() for line in found(name, passages(name))]
    except NotAGitCheckoutError as error:
        pytest.skip(str(error))
    assert not lines, "\n".join(lines)


@pytest.mark.parametrize(
    ("name", "source", "word"),
    [
        ("app/starling/engine/hub.py", "def open_door(): ...\n", "door"),
        ("app/starling/engine/hub.py", "class RealtimeDoors: ...\n", "doors"),
        ("app/starling/engine/hub.py", '"""Clients are told\nof it."""\n', "told"),
        ("app/starling/engine/hub.py", 'log.info("client_let_go", count=1)\n', "let go"),
        ("app/starling/engine/hub.py", "# Clients that were turned\n# away try later.\n", "turned away"),
        ("app/starling/engine/hub.py", 'fail(f"{name}: the mend is {mend}")\n', "mend"),
        ("app/starling/engine/capture.py", "def start_trace(): ...\n", "trace"),
        ("app/starling/brokers/redis/read.lua", "-- What others heard.\n", "heard"),
        ("tests/engine/test_hub.py", "def test_whoever_subscribes_is_served(): ...\n", "whoever"),
        ("helm/starling/values.yaml", "drainPace: 1\n", "pace"),
        ("helm/starling/rules/starling.yaml", "- alert: StarlingDeafWorker\n", "deaf"),
        ("docs/limits.md", "Clients come\nback.\n", "come back"),
        ("docs/runbooks/absent.md", "## Look\n", "look"),
        ("Makefile", "check:  ## The rules of the floors\n", "floors"),
    ],
)
def test_a_retired_word_is_found_where_it_is_put_back(name: str, source: str, word: str) -> None:
    assert any(repr(word) in line for line in found(name, texts_of(name, source)))
    assert possible(name).search(words(f"{name} {source}")), "the faster search finds it too"


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("app/starling/engine/hub.py", "floored = math.fsum([])  # in order, about a channel\n"),
        ("app/starling/telemetry/tracing.py", "class TraceContext: ...\n"),
        ("tests/engine/test_hub.py", 'SAID = "Tell nobody, whoever hears it"\n'),
        ("app/starling/brokers/redis/presence_sweep.lua", "local now = math.floor(time)\n"),
        ("docs/limits.md", "Look at the log for the order of messages, a besieger and mendicants.\n"),
    ],
)
def test_words_that_are_innocent_are_left_alone(name: str, source: str) -> None:
    assert found(name, texts_of(name, source)) == []


def test_no_two_classes_of_the_package_have_one_name() -> None:
    homes: dict[str, list[str]] = defaultdict(list)
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef):
                homes[node.name].append(str(path.relative_to(ROOT)))
    twice = {name: at for name, at in homes.items() if len(at) > 1}
    assert twice.keys() <= SAME_NAMES.keys(), twice


def test_exceptions_that_refuse_are_one_family() -> None:
    bases = {
        node.name: [base.id for base in node.bases if isinstance(base, ast.Name)]
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    }
    refusing = {name for name, parents in bases.items() if re.search("Refus", name) and "Exception" in parents}
    assert refusing == {"Refused"}
