"""Every two-way transport behaves alike: two pods of two workers each, and commands that reach any of them."""

import json
import os
import signal
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from starling.auth.issue import issue_connection_token, issue_subscription_token
from tests.support.conversation import EMULATED, TRANSPORTS, Conversation
from tests.support.running import SECRET, Starling, two_workers
from tests.support.services import RedisServer
from tests.support.waiting import DEADLINE

CHANNELS = """
namespaces:
  open:
    allow_subscribe_for_client: true
    allow_publish_for_client: true
    allow_presence_for_subscriber: true
    allow_history_for_subscriber: true
    presence: true
    join_leave: true
    history_size: 500
    history_ttl: 300s
    force_recovery: true
  closed: {}
"""
WRITE_BUFFER = 64 * 1024
LABELS = {"websocket": "json", "websocket_protobuf": "protobuf"}
each_transport = pytest.mark.parametrize("transport", TRANSPORTS)


class Pods(list[Starling]):
    """Two of them on one Redis."""

    def client(self, transport: str, user: str = "ann", *, pod: int = 0, **more: Any) -> Conversation:
        """A client of `user` at a pod, connected; each of its commands goes to the other pod than the one before."""
        ttl, claims, options = more.pop("ttl", 600), more.pop("claims", {}), more.pop("options", {})
        token = issue_connection_token(SECRET, user, ttl, **claims)
        ports = [each.port for each in self]
        client = Conversation(transport, ports[pod], {"token": token, **more}, emulation=ports, **options)
        client.connected()
        return client

    def api(self, method: str, **body: Any) -> dict[str, Any]:
        """A call of the server API at the second pod."""
        request = urllib.request.Request(
            f"{self[1].http}/api/{method}", json.dumps(body).encode(), {"X-API-Key": "a-key-for-tests-only"}
        )
        with urllib.request.urlopen(request, timeout=10) as response:
            answer: dict[str, Any] = json.load(response)
        assert "result" in answer, answer
        return answer["result"]  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def pods(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pods]:
    with RedisServer() as redis:
        settings = two_workers(tmp_path_factory.mktemp("pods"), redis.url, CHANNELS)
        settings |= {
            "STARLING_DEV": "false",
            "STARLING_TOKEN_HMAC_SECRET": SECRET,
            "STARLING_API_KEYS": "a-key-for-tests-only",
            "STARLING_MAX_CHANNELS": "3",
            "STARLING_MAX_CONNECTIONS_PER_USER": "4",
            "STARLING_EXPIRY_GRACE_SECONDS": "0",
            "STARLING_WRITE_BUFFER_BYTES": str(WRITE_BUFFER),
            "STARLING_MESSAGE_BURST": "300",
            "STARLING_MESSAGES_PER_SECOND": "1",
        }
        with ExitStack() as stack:
            yield Pods(stack.enter_context(Starling(settings)) for _ in range(2))


@each_transport
def test_a_client_subscribes_publishes_and_reads_presence_and_history(pods: Pods, transport: str) -> None:
    channel = f"open:all-{transport}"
    with pods.client(transport, "ann") as ann, pods.client(transport, "bob", pod=1) as bob:
        subscribed = ann.call("subscribe", channel=channel, join_leave=True)["subscribe"]
        assert subscribed["recoverable"]
        bob.call("subscribe", channel=channel)
        joined = [ann.push("join")["info"]["user"] for _ in range(2)]
        assert sorted(joined) == ["ann", "bob"]
        assert bob.call("publish", channel=channel, data={"text": "ä\n\u2028\r\"'"})["publish"] == {}
        for reader in (ann, bob):
            push = reader.push()
            assert (push["channel"], push["data"], push["offset"]) == (channel, {"text": "ä\n\u2028\r\"'"}, 1)
        present = ann.call("presence", channel=channel)["presence"]["presence"]
        assert sorted(each["user"] for each in present.values()) == ["ann", "bob"]
        assert ann.call("presence_stats", channel=channel)["presence_stats"] == {"num_clients": 2, "num_users": 2}
        history = ann.call("history", channel=channel, limit=10)["history"]
        assert [each["offset"] for each in history["publications"]] == [1]
        assert bob.call("unsubscribe", channel=channel)["unsubscribe"] == {}
        assert ann.push("leave")["info"]["user"] == "bob"


@each_transport
def test_what_a_backend_publishes_and_asks_reaches_the_client(pods: Pods, transport: str) -> None:
    channel = f"open:backend-{transport}"
    with pods.client(transport, f"of-{transport}") as client:
        pods.api("subscribe", user=f"of-{transport}", channel=channel)
        assert client.push("subscribe")["channel"] == channel
        pods.api("publish", channel=channel, data=[1, {"two": None}])
        assert client.push()["data"] == [1, {"two": None}]
        pods.api("unsubscribe", user=f"of-{transport}", channel=channel)
        assert client.push("unsubscribe")["code"] == 2000


@each_transport
def test_a_client_that_lost_its_workers_recovers_from_the_other_pod_what_it_missed(pods: Pods, transport: str) -> None:
    channel = f"open:lost-{transport}"
    client = pods.client(transport, user := f"lost-{transport}")
    position = client.call("subscribe", channel=channel)["subscribe"]
    pods.api("publish", channel=channel, data=1)
    assert client.push()["data"] == 1
    # Only the worker that holds the client: the pod goes on with the other.
    (line,) = pods[0].reported("client_authenticated", user=user)
    linked = len(pods[0].reported("broker_link_up"))
    os.kill(line["pid"], signal.SIGKILL)
    assert client.end()[0] == 1006
    client.close()
    # Until it is gone, its listening socket still gets connections.
    pods[0].reported("worker_ended", worker=line["pid"])
    for number in (2, 3):
        pods.api("publish", channel=channel, data=number)
    with pods.client(transport, pod=1) as again:
        recovered = again.call("subscribe", channel=channel, recover=True, epoch=position["epoch"], offset=1)[
            "subscribe"
        ]
        assert recovered["recovered"]
        assert [each["data"] for each in recovered["publications"]] == [2, 3]
        pods.api("publish", channel=channel, data=4)
        assert again.push()["data"] == 4
    pods[0].until_ready()
    # Without it the new worker cannot judge the tokens of those who come next.
    pods[0].reported("broker_link_up", linked + 1)


def test_a_token_is_refreshed_and_one_that_is_not_ends_the_connection(pods: Pods) -> None:
    with ExitStack() as stack:
        pairs = [[stack.enter_context(pods.client(each, each, ttl=3)) for _ in range(2)] for each in TRANSPORTS]
        for client, _ in pairs:
            token = issue_connection_token(SECRET, client.transport, 600)
            refreshed = client.call("refresh", token=token)["refresh"]
            assert (refreshed["expires"], 590 < refreshed["ttl"] <= 600) == (True, True)
        for client, forgetful in pairs:
            assert forgetful.end() == (3005, "connection expired")
            assert client.call("ping")["ping"] == {}


def test_a_subscription_token_opens_a_channel_and_its_end_closes_it(pods: Pods) -> None:
    channel = "closed:$own"
    with ExitStack() as stack:
        clients = [stack.enter_context(pods.client(each, each)) for each in TRANSPORTS]
        for client in clients:
            assert client.call("subscribe", channel=channel)["error"]["code"] == 103
            token = issue_subscription_token(SECRET, client.transport, channel, 2)
            assert client.call("subscribe", channel=channel, token=token)["subscribe"]["expires"]
        for client in clients:
            assert client.push("unsubscribe")["code"] == 2501


@each_transport
def test_a_revoked_token_ends_the_connection(pods: Pods, transport: str) -> None:
    token_id = f"id-{transport}"
    with pods.client(transport, claims={"jti": token_id}) as client:
        pods.api("revoke_token", uid=token_id)
        assert client.end() == (3500, "invalid token")


@each_transport
def test_a_backend_disconnects_a_user_with_a_code_of_its_own(pods: Pods, transport: str) -> None:
    with pods.client(transport, "bad") as client:
        pods.api("disconnect", user="bad", disconnect={"code": 4501, "reason": "go away"})
        assert client.end() == (4501, "go away")


@each_transport
def test_a_connection_beyond_those_of_a_user_is_refused(pods: Pods, transport: str) -> None:
    user = f"many-{transport}"
    with ExitStack() as stack:
        for number in range(4):
            stack.enter_context(pods.client(transport, user, pod=number % 2))
        token = issue_connection_token(SECRET, user, 600)
        refused = stack.enter_context(Conversation(transport, pods[0].port, {"token": token}))
        assert refused.end() == (3504, "connection limit")


@each_transport
def test_limits_of_channels_and_of_the_rate_of_commands_hold(pods: Pods, transport: str) -> None:
    with pods.client(transport) as client:
        for number in range(3):
            assert "subscribe" in client.call("subscribe", channel=f"open:limit-{number}")
        assert client.call("subscribe", channel="open:limit-3")["error"]["code"] == 106
        commands = [{"id": number, "ping": {}} for number in range(10, 360)]
        client.write(client.encoded(*commands))
        replies = [client.reply(number) for number in range(10, 360)]
        refused = [reply["error"]["code"] for reply in replies if "error" in reply]
        assert set(refused) == {111}
        assert len(refused) < 100


def test_clients_that_do_not_read_are_disconnected_as_slow(pods: Pods) -> None:
    with ExitStack() as stack:
        for each in TRANSPORTS:
            client = stack.enter_context(pods.client(each, f"slow-{each}", options={"receive_buffer": 4096}))
            client.call("subscribe", channel="open:slow")
        # Beyond what the kernel, and the library of the WebSocket client, keep for a client that does not read.
        for _ in range(150):
            pods.api("publish", channel="open:slow", data="x" * 60_000)
        for each in TRANSPORTS:
            pods[0].reported("client_disconnected", user=f"slow-{each}", code=3008, transport=LABELS.get(each, each))


@pytest.mark.parametrize("bad", ["no command", "unknown id", "second connect"])
@each_transport
def test_bad_input_ends_the_connection(pods: Pods, transport: str, bad: str) -> None:
    with pods.client(transport) as client:
        if bad == "no command":
            client.write(b"\x05\xff\xff" if client.protobuf else b"{]")
        elif bad == "unknown id":
            client.write(client.encoded({"subscribe": {"channel": "open:x"}}))
        else:
            client.call("ping")
            client.say("connect")
        assert client.end() == (3501, "bad request")


@pytest.mark.parametrize(
    ("request_fields", "code"),
    [({"token": "no.token.atall"}, 3500), ({}, 3500)],
)
@each_transport
def test_a_client_that_cannot_be_known_is_refused(
    pods: Pods, transport: str, request_fields: dict[str, str], code: int
) -> None:
    with Conversation(transport, pods[0].port, request_fields) as client:
        assert client.end()[0] == code


@each_transport
def test_commands_are_refused_with_their_error_and_the_connection_goes_on(pods: Pods, transport: str) -> None:
    with pods.client(transport) as client:
        for channel, code in (("nowhere:x", 102), ("closed:x", 103), ("open:{x}", 107)):
            assert client.call("subscribe", channel=channel)["error"]["code"] == code
        assert client.call("rpc", method="none", data={})["error"]["code"] in (104, 108)
        assert client.call("publish", channel="closed:x", data={})["error"]["code"] == 103
        assert client.call("ping")["ping"] == {}


@each_transport
def test_metrics_and_log_lines_name_the_transport(pods: Pods, transport: str) -> None:
    label = LABELS.get(transport, transport)
    with pods.client(transport, f"counted-{transport}") as client:
        client.call("ping")
        line = pods[0].reported("client_connected", transport=label)[-1]
        assert line["address"] == "127.0.0.1"
        deadline = time.monotonic() + DEADLINE
        while not pods[0].metrics().get(f'starling_connections{{transport="{label}"}}', 0.0):
            assert time.monotonic() < deadline


@each_transport
def test_an_idle_client_of_a_stream_need_not_answer_pings(pods: Pods, transport: str) -> None:
    token = issue_connection_token(SECRET, "idle", 600)
    with Conversation(transport, pods[0].port, {"token": token}) as client:
        assert client.connected()["connect"].get("pong", False) is (transport not in EMULATED)
