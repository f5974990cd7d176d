"""Conversion of an error reply of Redis into the broker's errors, with the message of Redis."""

from redis.exceptions import ResponseError

from starling.engine.broker import BrokerRefused


def refused(error: ResponseError) -> BrokerRefused:
    """The error to raise for a command that Redis answered with an error, such as `OOM …` or `NOREPLICAS …`."""
    # The client library takes the error's code off the message.
    code = f"{error.status_code} " if error.status_code else ""
    return BrokerRefused(f"Redis refused: {code}{error}")
