"""The programs of the pages about your own application run as printed."""

from pathlib import Path

import pytest

from docs.examples.check_orders import test_an_order_reaches_the_users_who_watch as printed_test
from starling.testing import RunningService

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(
    ("page", "program"),
    [
        ("embed.md", "orders.py"),
        ("test-your-code.md", "check_orders.py"),
        ("test-your-code.md", "check_django.py"),
        *(("from-the-tutorial.md", f"tutorial_{name}.py") for name in ("echo", "items", "chat")),
        ("from-the-tutorial.md", "sdk_chat.py"),
        ("from-the-tutorial.md", "sdk_chat.yaml"),
    ],
)
def test_a_page_prints_the_program_that_the_tests_run(page: str, program: str) -> None:
    language = "yaml" if program.endswith(".yaml") else "python"
    assert f"```{language}\n{(DOCS / 'examples' / program).read_text()}```" in (DOCS / page).read_text()


async def test_the_printed_test_passes(starling: RunningService) -> None:
    await printed_test(starling)
