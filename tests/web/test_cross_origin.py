"""Which pages may read the responses of the endpoints for `fetch` and `EventSource`, and whose cookies count."""

from collections.abc import Iterator
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient
from httpx2 import Response
from prometheus_client import CollectorRegistry

from starling.auth.handshake import TokenSource
from starling.engine.upgrade import Upgrade
from starling.main import build_application
from starling.settings import load_settings
from starling.web.dependencies import WebContext
from tests.support.in_process import InProcessStarling
from tests.support.streams import Stream, get

SECRET = "a test's own secret, longer than thirty-two bytes"
PAGE = "https://app.example.com"
CONNECT = quote('{"id":1,"connect":{}}')
POST_ONLY = ("/connection/http_stream", "/connection/uni_http_stream", "/emulation")
PATHS = (*POST_ONLY, "/connection/sse", "/connection/uni_sse", "/sse", "/sse/news%3Asports")


def context_with(**environment: str) -> tuple[TestClient, WebContext]:
    variables = {"TOKEN_HMAC_SECRET": SECRET, "LOG_LEVEL": "error", **environment}
    settings = load_settings({f"STARLING_{name}": value for name, value in variables.items()})
    built = build_application(settings, CollectorRegistry())
    return TestClient(built.asgi), built.context


def preflight(client: TestClient, path: str, origin: str, method: str = "POST", headers: str = "") -> Response:
    asked = {"Origin": origin, "Access-Control-Request-Method": method}
    return client.options(path, headers={**asked, **({"Access-Control-Request-Headers": headers} if headers else {})})


@pytest.fixture(scope="module")
def named() -> TestClient:
    """A service whose origins are named, one of them by a pattern."""
    return context_with(ALLOWED_ORIGINS=f"{PAGE},https://*.shop.example")[0]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("origin", [PAGE, "https://one.shop.example"])
def test_a_preflight_of_an_allowed_page_is_answered_for_it_alone(named: TestClient, path: str, origin: str) -> None:
    answer = preflight(named, path, origin, headers="authorization,content-type")

    assert answer.status_code == 204
    assert answer.headers["access-control-allow-origin"] == origin
    assert answer.headers["access-control-allow-credentials"] == "true"
    assert answer.headers["access-control-allow-headers"] == "authorization,content-type"
    assert answer.headers["access-control-max-age"] == "300"
    assert "Origin" in answer.headers["vary"]
    assert "content-length" not in answer.headers
    methods = answer.headers["access-control-allow-methods"].split(", ")
    assert methods == (["POST", "OPTIONS"] if path in POST_ONLY else methods)
    assert ("GET" in methods) is (path not in POST_ONLY)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "http://app.example.com",
        "https://app.example.com.evil.example",
        "https://app.example.com:8443",
        "https://shop.example",
        "null",
        "*",
    ],
)
def test_no_other_page_gets_a_header_that_lets_it_read(named: TestClient, path: str, origin: str) -> None:
    refused = preflight(named, path, origin)

    assert refused.status_code == 403
    assert refused.json()["error"]["code"] == 103
    assert "STARLING_ALLOWED_ORIGINS" in refused.json()["error"]["message"]
    for answer in (refused, named.get(path, headers={"Origin": origin})):
        assert not [name for name in answer.headers if name.startswith("access-control-")]
        assert "Origin" in answer.headers["vary"]


@pytest.mark.parametrize("path", [*PATHS, "/connection/nothing"])
def test_a_page_that_may_can_read_every_response_a_refusal_too(named: TestClient, path: str) -> None:
    answer = named.get(path, headers={"Origin": PAGE})

    assert answer.status_code >= 400
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert answer.headers["access-control-allow-credentials"] == "true"
    assert "X-Request-ID" in answer.headers["access-control-expose-headers"]
    assert answer.headers.get_list("vary") == ["Origin"]


@pytest.mark.parametrize("path", PATHS)
def test_a_cache_never_keeps_the_response_to_no_page_for_a_page(named: TestClient, path: str) -> None:
    assert "Origin" in named.get(path).headers["vary"]


@pytest.mark.parametrize("origins", [(PAGE, "https://evil.example"), ("https://evil.example", PAGE), (PAGE, PAGE)])
def test_several_origins_are_those_of_no_page(origins: tuple[str, ...]) -> None:
    _, context = context_with(ALLOWED_ORIGINS=PAGE)

    assert context.allows_origin(Upgrade(b"", [(b"origin", PAGE.encode())], (), "", ""))
    assert not context.allows_origin(Upgrade(b"", [(b"origin", each.encode()) for each in origins], (), "", ""))


def test_options_without_a_preflight_names_the_methods(named: TestClient) -> None:
    answer = named.options("/emulation")
    assert (answer.status_code, answer.headers["allow"]) == (204, "POST, OPTIONS")


@pytest.mark.parametrize("headers", ["x y", "a;b", "a,,b", "*, (x)"])
def test_requested_headers_that_are_no_names_are_not_repeated(named: TestClient, headers: str) -> None:
    assert "access-control-allow-headers" not in preflight(named, "/emulation", PAGE, headers=headers).headers


@pytest.mark.parametrize("path", ["/api/info", "/livez", "/", "/sset"])
def test_other_endpoints_have_no_cors(named: TestClient, path: str) -> None:
    answer = named.get(path, headers={"Origin": PAGE})
    assert not [name for name in answer.headers if name.startswith("access-control-")]


@pytest.mark.parametrize(
    ("environment", "origin", "allowed", "credentials"),
    [
        ({"ALLOWED_ORIGINS": "*"}, "https://any.example", True, False),
        ({"ALLOWED_ORIGINS": f"*,{PAGE}"}, PAGE, True, False),
        ({}, "http://testserver", True, False),
        ({}, PAGE, False, False),
        ({"DEV": "true"}, "http://localhost:5173", True, True),
        ({"DEV": "true"}, PAGE, False, False),
        ({"DEV": "true", "ALLOWED_ORIGINS": "*"}, "https://any.example", True, False),
    ],
)
def test_credentials_are_allowed_only_where_no_stranger_is(
    environment: dict[str, str], origin: str, allowed: bool, credentials: bool
) -> None:
    client, _ = context_with(**environment)
    for answer in (preflight(client, "/emulation", origin), client.get("/sse", headers={"Origin": origin})):
        assert answer.headers.get("access-control-allow-origin") == (origin if allowed else None)
        assert ("access-control-allow-credentials" in answer.headers) is credentials


@pytest.mark.parametrize(
    ("environment", "headers", "counts"),
    [
        ({"ALLOWED_ORIGINS": PAGE}, {"origin": PAGE}, True),
        ({"ALLOWED_ORIGINS": PAGE}, {}, True),
        ({"ALLOWED_ORIGINS": PAGE}, {"sec-fetch-site": "same-origin"}, True),
        ({"ALLOWED_ORIGINS": PAGE}, {"sec-fetch-site": "none"}, True),
        ({"ALLOWED_ORIGINS": PAGE}, {"sec-fetch-site": "cross-site"}, False),
        ({"ALLOWED_ORIGINS": PAGE}, {"sec-fetch-site": "same-site"}, False),
        ({"ALLOWED_ORIGINS": PAGE}, {"sec-fetch-site": "cross-site", "origin": PAGE}, True),
        ({"ALLOWED_ORIGINS": "*"}, {"origin": PAGE}, False),
        ({"ALLOWED_ORIGINS": f"{PAGE},*"}, {"origin": PAGE}, False),
        ({}, {}, False),
        ({}, {"origin": "http://testserver"}, False),
        ({"DEV": "true"}, {}, True),
    ],
)
def test_a_cookie_counts_only_with_named_origins_and_not_from_an_image_elsewhere(
    environment: dict[str, str], headers: dict[str, str], counts: bool
) -> None:
    _, context = context_with(**environment)
    fields = [(b"host", b"testserver"), (b"cookie", b"session=a.b.c")]
    fields += [(name.encode(), value.encode()) for name, value in headers.items()]
    request = Upgrade(query=b"", headers=fields, subprotocols=(), address="192.0.2.7", path="/sse/news")

    presented = context.presented_token(request, cookie=context.takes_cookie(request))

    assert (presented is not None and presented.source is TokenSource.COOKIE) is counts


def test_a_foreign_preflight_is_counted_and_named_in_the_log() -> None:
    client, context = context_with(ALLOWED_ORIGINS=PAGE)
    preflight(client, "/emulation", "https://evil.example")
    assert context.engine.metrics.refused["origin"] == 1


@pytest.fixture(scope="module")
def developing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcessStarling]:
    """A service in developer mode."""
    with InProcessStarling(tmp_path_factory.mktemp("run"), {"STARLING_DEV": "true"}) as starling:
        yield starling


@pytest.mark.parametrize("path", ["/sse/news", "/connection/uni_sse", f"/connection/sse?cf_connect={CONNECT}"])
@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "local.com"])
def test_in_developer_mode_a_page_whose_name_points_to_this_machine_reads_nothing(
    developing: InProcessStarling, path: str, host: str
) -> None:
    request = get(path).replace(b"Host: x", f"Host: {host}".encode())
    with Stream(developing.port, request) as stream:
        assert stream.status == 403


@pytest.mark.parametrize(
    ("environment", "headers", "may"),
    [
        ({"DEV": "true"}, {"Host": "localhost:8000"}, True),
        ({"DEV": "true"}, {"Host": "[::1]:8000"}, True),
        ({"DEV": "true"}, {"Host": "192.0.2.7"}, True),
        ({"DEV": "true"}, {"Host": "starling:8000"}, True),
        ({"DEV": "true"}, {"Host": "host.docker.internal"}, True),
        ({"DEV": "true"}, {"Host": "EVIL.example"}, False),
        ({"DEV": "true", "ALLOWED_ORIGINS": "https://*.tunnel.example"}, {"Host": "me.tunnel.example"}, True),
        ({"DEV": "true", "ALLOWED_ORIGINS": "https://*.tunnel.example"}, {"Host": "tunnel.example"}, False),
        # A browser sends an Origin with each upgrade; a program need not.
        ({"DEV": "true"}, {"Host": "dev.example", "Sec-WebSocket-Key": "x"}, True),
        # Of others a token is asked for.
        ({}, {"Host": "dev.example"}, True),
    ],
)
def test_without_an_origin_the_host_counts_in_developer_mode(
    environment: dict[str, str], headers: dict[str, str], may: bool
) -> None:
    _, context = context_with(**environment)
    fields = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    assert context.allows_origin(Upgrade(b"", fields, (), "127.0.0.1", "/sse")) is may
