"""axe-core, which finds what makes a page hard to use for people with disabilities; npm installs it for tests/sdk."""

from pathlib import Path
from typing import Any

from playwright.sync_api import Page

AXE = Path(__file__).parents[1] / "sdk" / "node_modules" / "axe-core" / "axe.min.js"
_RUN = "axe.run().then(({ violations }) => violations.map((one) => [one.id, one.nodes.map((node) => node.html)]))"


def violations(page: Page) -> list[Any]:
    """What axe finds on the page as it is: the rule, and the elements that break it.

    The page is there with its first heading, which its own script may draw. Axe runs as an extension's script would, so
    the policy of the page stays as strict as it is.
    """
    page.get_by_role("heading", level=1).first.wait_for()
    page.evaluate(AXE.read_text() + "; undefined")
    found: list[Any] = page.evaluate(_RUN)
    return found
