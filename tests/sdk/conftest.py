"""Running services for the SDKs, and clients of each SDK in each wire format."""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest

from tests.sdk.backend import API_KEY
from tests.sdk.client import Client, ClientOptions
from tests.sdk.javascript_sdk import Bridge, BridgeConnection, JavaScriptClient
from tests.sdk.python_sdk import PythonClient
from tests.sdk.serving import Place
from tests.sdk.tokens import user
from tests.support.running import SECRET, Starling

SDKS = ("javascript-json", "javascript-protobuf", "python-json", "python-protobuf")
# The transports without WebSocket, which only the JavaScript SDK has.
STREAMED_SDKS = ("javascript-json-http_stream", "javascript-protobuf-http_stream", "javascript-json-sse")

CHANNELS = """
default: {allow_publish_for_subscriber: true}
namespaces:
  open: {allow_subscribe_for_client: true, allow_subscribe_for_anonymous: true, allow_publish_for_client: true}
  any: {allow_subscribe_for_client: true, allow_publish_for_client: true, publication_data_format: any}
  quiet: {allow_subscribe_for_client: true}
  token: {allow_publish_for_subscriber: true}
  users: {allow_user_limited_channels: true, allow_publish_for_subscriber: true}
  history:
    history_size: 100
    history_ttl: 5m
    allow_subscribe_for_client: true
    allow_publish_for_client: true
    allow_history_for_subscriber: true
  recovery:
    history_size: 1000
    history_ttl: 5m
    force_recovery: true
    allow_subscribe_for_client: true
    allow_publish_for_client: true
    allow_history_for_client: true
  small:
    history_size: 2
    history_ttl: 5m
    force_recovery: true
    allow_subscribe_for_client: true
    allow_publish_for_client: true
    allow_history_for_subscriber: true
  answers:
    stream: text
    allow_subscribe_for_client: true
    allow_cancel_for_subscriber: true
  cache:
    history_size: 1
    history_ttl: 5m
    force_recovery: true
    force_recovery_mode: cache
    allow_subscribe_for_client: true
    allow_publish_for_client: true
  delta:
    history_size: 100
    history_ttl: 5m
    force_recovery: true
    allow_subscribe_for_client: true
    allowed_delta_types: [fossil]
    delta_publish: true
  patches:
    history_size: 100
    history_ttl: 5m
    force_recovery: true
    allow_subscribe_for_client: true
    allowed_delta_types: [fossil]
  tagged:
    history_size: 100
    history_ttl: 5m
    force_recovery: true
    allow_subscribe_for_client: true
    allow_history_for_subscriber: true
    allow_tags_filter: true
  tagcache:
    history_size: 10
    history_ttl: 5m
    force_recovery: true
    force_recovery_mode: cache
    allow_subscribe_for_client: true
    allow_tags_filter: true
  compact: {allow_subscribe_for_client: true, allow_publish_for_client: true, allow_channel_compaction: true}
  presence:
    presence: true
    join_leave: true
    force_push_join_leave: true
    allow_subscribe_for_client: true
    allow_presence_for_subscriber: true
  joins: {join_leave: true, allow_subscribe_for_client: true}
"""

HOOKS = """
from starling.engine.hooks import Refuse


async def on_connect(client, data):
    if client.user == "banned":
        raise Refuse("permission denied", 3507)
    if client.user == "moved":
        raise Refuse("to another region", 4100)
    return {"user": client.user, "sent": data}


async def on_subscribe(client, channel):
    if channel == "open:members":
        raise Refuse("unauthorized", 101)
    if channel == "open:broken":
        raise RuntimeError("a fault of the application")


async def on_message(client, data):
    messages.append(data)


async def double(client, data):
    return {"doubled": 2 * data["number"]}


async def received(client):
    return messages


async def binary(client):
    return bytes([0, 255])


messages = []
rpc = {"double": double, "received": received, "binary": binary}
"""

OpenSdk = Callable[..., Awaitable[Client]]
OpenClient = Callable[..., Awaitable[Client]]
OpenJavaScript = Callable[..., Awaitable[JavaScriptClient]]


@pytest.fixture(scope="session")
def channels_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The namespaces of the services here."""
    path = tmp_path_factory.mktemp("channels") / "channels.yaml"
    path.write_text(CHANNELS)
    return str(path)


@pytest.fixture(scope="session")
def service(channels_file: str) -> Iterator[Starling]:
    """One worker on memory that lets nobody in without a token, and takes the orders of a backend."""
    settings = {
        "STARLING_TOKEN_HMAC_SECRET": SECRET,
        "STARLING_CHANNELS_FILE": channels_file,
        "STARLING_API_KEYS": API_KEY,
    }
    with Starling(settings) as running:
        yield running


@pytest.fixture(scope="session")
def narrow(channels_file: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starling]:
    """One worker with narrow limits, an application's hooks, personal channels and anonymous clients."""
    folder = tmp_path_factory.mktemp("hooks")
    (folder / "sdk_hooks.py").write_text(HOOKS)
    settings = {
        "STARLING_TOKEN_HMAC_SECRET": SECRET,
        "STARLING_CHANNELS_FILE": channels_file,
        "STARLING_HOOKS": "sdk_hooks",
        "STARLING_HOOKS_PATH": str(folder),
        "STARLING_SUBSCRIBE_TO_PERSONAL_CHANNEL": "true",
        "STARLING_ALLOW_ANONYMOUS": "true",
        "STARLING_MAX_CHANNELS": "4",
        "STARLING_CONNECT_SECONDS": "1",
        "STARLING_PING_SECONDS": "2",
        "STARLING_PONG_SECONDS": "1",
        "STARLING_WRITE_BUFFER_BYTES": "65536",
    }
    with Starling(settings) as running:
        yield running


@pytest.fixture(scope="session")
def bridge() -> Iterator[Bridge]:
    """The Node.js process that runs the JavaScript SDK."""
    with Bridge() as bridge:
        yield bridge


@pytest.fixture
def room() -> str:
    """The rest of a channel's name that no other test uses."""
    return secrets.token_hex(4)


# The whole suite runs over the streamed transports with this variable set; test_transports.py has what each needs.
@pytest.fixture(params=STREAMED_SDKS if os.environ.get("SDK_SUITE") == "streams" else SDKS)
def sdk(request: pytest.FixtureRequest) -> str:
    """The SDK and wire format that a test runs with: all four, unless its parameters say otherwise."""
    return str(request.param)


@pytest.fixture
async def open_sdk(request: pytest.FixtureRequest) -> AsyncIterator[OpenSdk]:
    """Makes clients, not connected yet, of a named SDK for a service."""
    clients: list[Client] = []
    connections: list[BridgeConnection] = []

    async def open_sdk(sdk: str, of: Starling | Place, options: ClientOptions | None = None) -> Client:
        language, wire_format, *transports = sdk.split("-")
        url = f"{of.url}/connection/websocket"
        client: Client
        if language == "javascript":
            if not connections:
                connections.append(await BridgeConnection.open(request.getfixturevalue("bridge")))
            protobuf = wire_format == "protobuf"
            client = await connections[0].create(
                url, options or ClientOptions(), protobuf=protobuf, transports=transports
            )
        else:
            client = PythonClient(url, options or ClientOptions(), protobuf=wire_format == "protobuf")
        clients.append(client)
        return client

    yield open_sdk
    for client in clients:
        await client.close()
    for connection in connections:
        await connection.close()


@pytest.fixture
def open_client(open_sdk: OpenSdk, sdk: str, service: Starling) -> OpenClient:
    """Makes clients of the test's SDK, for `service` or another."""

    async def open_client(options: ClientOptions | None = None, *, of: Starling = service) -> Client:
        return await open_sdk(sdk, of, options)

    return open_client


async def until_others_return(open_client: OpenClient) -> None:
    """Wait until another client has lost its connection and reconnected three times.

    A client that was to reconnect, and not to stay disconnected, has done so by then, since its first wait is as short.
    """
    other = await open_client(user("another"))
    await other.connected()
    for _ in range(3):
        await other.cut()
        await other.event("connected")


async def with_every_sdk(scenario: Callable[[str], Awaitable[None]]) -> None:
    """Play a scenario that mostly waits with every SDK, side by side."""
    await asyncio.gather(*(scenario(sdk) for sdk in SDKS))


@pytest.fixture
def open_javascript(open_sdk: OpenSdk, service: Starling) -> OpenJavaScript:
    """Makes clients of the JavaScript SDK, over JSON unless `protobuf`."""

    async def open_javascript(
        options: ClientOptions | None = None, *, protobuf: bool = False, of: Starling = service
    ) -> JavaScriptClient:
        client = await open_sdk("javascript-protobuf" if protobuf else "javascript-json", of, options)
        assert isinstance(client, JavaScriptClient)
        return client

    return open_javascript
