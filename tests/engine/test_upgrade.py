"""What an endpoint reads of the address of a request, next to what Starlette reads of it."""

import pytest
from starlette.datastructures import QueryParams

from starling.engine.upgrade import Upgrade


@pytest.mark.parametrize(
    "query",
    [
        b"",
        b"name",
        b"name=",
        b"name=a&name=b",
        b"names=a&nam=b&=c",
        b"name=a+b%20c%2Bd",
        b"n%61me=encoded",
        b"na+me=spaced",
        b"name=%7B%22%C3%A4%22%3A1%7D&other=1",
        b"name=a=b=c",
        b"name=%ff%zz%",
        b"&&name=x&&",
        b"name;x=1",
    ],
)
def test_the_last_value_of_a_parameter_counts(query: bytes) -> None:
    request = Upgrade(query=query, headers=(), subprotocols=(), address="", path="/")

    assert request.parameter(b"name") == QueryParams(query).get("name")
    assert request.parameter(b"na me") == QueryParams(query).get("na me")
