"""What publishes without ASGI and without a task answers as the same request through ASGI does."""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from starling.engine.direct_request import DirectRequest, DirectResponse, StreamResponse
from starling.web.api import Api
from starling.web.api_members import read_plain_batch
from tests.web.test_api import CHANNELS, KEYS, client_with

_COMMAND = b'{"publish":{"channel":"kept:a","data":{"n":[1,2]}}}'
_BATCHES = [
    b'{"commands":[%b,%b]}' % (_COMMAND, _COMMAND),
    b' { "commands" : [ {"publish" : {"channel" : "a", "data" : "x"} } ,\n%b ] } ' % _COMMAND,
    b'{"commands":[]}',
    b'{"commands":[%b],"parallel":true}' % _COMMAND,
    b'{"parallel":false,"commands":[%b]}' % _COMMAND,
    b'{"commands":[%b,{"publish":{"channel":"nowhere:a","data":1}},%b]}' % (_COMMAND, _COMMAND),
    b'{"commands":[{"publish":{"channel":"","data":1}},%b]}' % _COMMAND,
    b'{"commands":[{"publish":{"channel":"digits:x","data":1}},{"publish":{"channel":"digits:1","data":1}}]}',
    b'{"commands":[{"publish":{"data":1,"channel":"kept:a"}}]}',
    b'{"commands":[{"publish":{"channel":"kept:a","data":1,"data":2}},%b]}' % _COMMAND,
    b'{"commands":[{"publish":{"channel":"kept:a","channel":"kept:b","data":2}}]}',
    b'{"commands":[{"publish":{"channel":"kept:a","data":1,"idempotency_kay":"k"}}]}',
    b'{"commands":[{"publish":{"channel":"kept:a","data":1,"idempotency_key":"k"}},%b]}' % _COMMAND,
    b'{"commands":[{"publish":{"channel":"kept:\\u0061","data":1}},{"publish":{"channel":"kept:a","data":"\\ud83d"}}]}',
    b'{"commands":[{"publish":{"channel":"kept:a","data":null}},{"publish":null},{"publish":{"channel":"kept:a"}}]}',
    b'{"commands":[%b,{"info":{}}' % _COMMAND,
    b'{"commands":[%b],"commands":[]}' % _COMMAND,
    b'{"commands":[{"publish":{"channel":"kept:a","data":1},"broadcast":{"channels":["a"],"data":1}}]}',
    b'{"commands":[{"publish":{"channel":"kept:a","data":%b}}]}' % (b"[" * 300 + b"]" * 300),
    b'{"commands":[{"publish":{"channel":"kept:a","data":%b}}]}' % (b"1" * 2000),
    b'{"commands":[{"publish":{"channel":"kept:a","data":"\xff"}}]}',
    b'{"commands":[%b]}' % b",".join([_COMMAND] * 1001),
    b'{"commands":[%b, {"publish" :{"channel":"kept:b","data":2}},%b]}' % (_COMMAND, _COMMAND),
    b'{"commands":[%b,{"publish":{"channel":"kept:b","data":2,"data":3}},%b]}' % (_COMMAND, _COMMAND),
    b'{"commands":[%b,{"publish":{"channel":"kept:\\"b","data":2}},%b]}' % (_COMMAND, _COMMAND),
    b'{"commands":[%b,{"publish":{"channel":"kept:b\\u0022","data":"}},{"}},%b]}' % (_COMMAND, _COMMAND),
    b'{"commands":[%b,{"publish":{"channel":"kept:\xc3\xa9","data":2}},%b] }' % (_COMMAND, _COMMAND),
    b'{"commands":[%b,%b],"commands":[%b,%b]}' % (_COMMAND, _COMMAND, _COMMAND, _COMMAND),
]
_BROADCASTS = [
    b'{"channels":["kept:a","kept:b","kept:a"],"data":{"n":1}}',
    b'{"channels":["a","b"],"data":{"n":1}}',
    b'{"channels":["a","kept:a","nowhere:a","digits:x",""],"data":{"n":1}}',
    b'{"channels":["nowhere:a"],"data":1}',
    b'{"channels":["kept:]","kept:a"],"data":1}',
    b'{"channels":[],"data":1}',
    b'{"channels":["a"],"data":1,"data":2}',
    b'{"channels":["a"],"channels":["b"],"data":2}',
    b'{"channels":["kept:a"],"data":1,"idempotency_key":"k","tags":{"t":"1"}}',
    b'{"channels":["kept:a","patched:a"],"data":1,"delta":true}',
    b'{"channels":["kept:a"],"data":1,"vershun":2}',
    b'{"channels":["kept:a"]}',
    b'{"channels":["%b"],"data":1}' % (b"x" * 300),
    b'{"channels":["kept:a"],"data":1,"b64data":"!"}',
]


@pytest.fixture(scope="module")
def apis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TestClient, TestClient]]:
    """Two services that got the same requests: one through ASGI, the other without."""
    channels: Path = tmp_path_factory.mktemp("channels") / "channels.yaml"
    channels.write_text(CHANNELS)
    with client_with(channels, API_KEYS=KEYS[0]) as one, client_with(channels, API_KEYS=KEYS[0]) as other:
        yield one, other


@pytest.mark.parametrize(
    ("method", "body"), [*(("batch", each) for each in _BATCHES), *(("broadcast", each) for each in _BROADCASTS)]
)
def test_a_batch_and_a_broadcast_answer_as_they_do_through_asgi(
    apis: tuple[TestClient, TestClient], method: str, body: bytes
) -> None:
    through_asgi, directly = apis
    answer = through_asgi.post(f"/api/{method}", content=body, headers={"X-API-Key": KEYS[0]})

    direct = _ask_directly(directly, method, body)

    assert (direct.status, _without_epochs(direct.body)) == (answer.status_code, _without_epochs(answer.content))


@pytest.mark.parametrize(
    ("body", "plain"),
    [
        (_BATCHES[0], 2),
        (_BATCHES[1].strip(), 2),
        (_BATCHES[5], 3),
        *((each, None) for each in (*_BATCHES[2:5], *_BATCHES[8:13])),
    ],
)
def test_a_batch_is_decoded_as_a_whole_only_where_it_has_channels_and_data_alone(
    body: bytes, plain: int | None
) -> None:
    found = read_plain_batch(body)

    assert (None if found is None else len(found)) == plain


def _ask_directly(client: TestClient, method: str, body: bytes) -> DirectResponse:
    api = next(route.endpoint for route in client.app.routes if isinstance(getattr(route, "endpoint", None), Api))  # type: ignore[attr-defined]

    async def ask() -> DirectResponse:
        answered: asyncio.Future[DirectResponse | StreamResponse] = asyncio.get_running_loop().create_future()
        work = api.accept(DirectRequest("POST", f"/api/{method}", [(b"x-api-key", KEYS[0].encode())], "192.0.2.7"))
        assert work is not None
        if (waiting := work(body, answered.set_result)) is not None:
            await waiting
        response = await answered
        assert isinstance(response, DirectResponse)
        return response

    assert client.portal is not None
    return client.portal.call(ask)


def _without_epochs(content: bytes) -> bytes:
    return re.sub(rb'"epoch":"[^"]*"', b'"epoch":"E"', content)
