"""Django's own async tests with Starling's test kit, as docs/test-your-code.md shows them."""

from django.test import SimpleTestCase

from starling.testing import service


class OrderTests(SimpleTestCase):
    """What users who watch receive."""

    async def test_an_order_reaches_the_users_who_watch(self) -> None:
        """A client receives what the backend publishes."""
        async with service() as starling:
            ann = await starling.connect("ann", channels=["orders"])
            await starling.starling.publish("orders", {"number": 7})
            await ann.expect("orders", {"number": 7}, within=1)
