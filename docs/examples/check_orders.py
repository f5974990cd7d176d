"""Tests of an application with Starling, as docs/test-your-code.md shows them."""

from starling.testing import RunningService


async def test_an_order_reaches_the_users_who_watch(starling: RunningService) -> None:
    """A client receives what the application publishes."""
    ann = await starling.connect("ann", channels=["orders"])
    await starling.starling.publish("orders", {"number": 7})
    await ann.expect("orders", {"number": 7}, within=1)
