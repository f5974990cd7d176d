"""`/emulation`: commands of a stream's session, whatever worker gets them, in order, once, and only with its secret."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection

import pytest

from tests.support.conversation import EMULATED, Conversation, Response, emulate
from tests.support.running import Starling, two_workers
from tests.support.services import RedisServer
from tests.support.streams import SECONDS, Stream, post

CHANNELS = """
namespaces:
  open:
    allow_subscribe_for_client: true
    allow_publish_for_client: true
    history_size: 2000
    history_ttl: 300s
    allow_history_for_client: true
"""


@pytest.fixture(scope="module")
def pods(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Starling]]:
    """Two pods of two workers each on one Redis."""
    settings = two_workers(tmp_path_factory.mktemp("pods"), "", CHANNELS)
    with RedisServer() as redis:
        settings |= {"STARLING_BROKER_URL": redis.url, "STARLING_MESSAGE_BURST": "5000"}
        with Starling(settings) as first, Starling(settings) as second:
            yield [first, second]


@pytest.mark.parametrize("transport", EMULATED)
def test_commands_reach_their_session_from_any_worker_of_any_pod(pods: list[Starling], transport: str) -> None:
    ports = [pod.port for pod in pods]
    with Conversation(transport, ports[0], emulation=ports) as client:
        client.connected()
        client.call("subscribe", channel="open:any")
        # A new connection for each command: the kernel gives them to all four workers.
        for number in range(24):
            assert client.call("publish", channel="open:any", data=number)["publish"] == {}
        assert [client.push()["data"] for _ in range(24)] == list(range(24))


def test_a_thousand_commands_sent_without_waiting_are_each_carried_out_and_answered_once(pods: list[Starling]) -> None:
    with Conversation("http_stream", pods[0].port) as client:
        client.connected()
        client.call("subscribe", channel="open:many")
        numbers = range(3, 1003)

        def send(part: range) -> None:
            with closing(HTTPConnection("127.0.0.1", pods[part[0] % 2].port, timeout=SECONDS)) as connection:
                for number in part:
                    command = client.encoded({"id": number, "publish": {"channel": "open:many", "data": number}})
                    body = json.dumps({"session": client.session, "node": client.node, "data": command.decode()})
                    connection.request("POST", "/emulation", body)
                    response = connection.getresponse()
                    assert (response.status, response.read()) == (204, b"")

        # Where one of them is slow, the commands of the others wait for it: of three quarters, as many as may wait.
        with ThreadPoolExecutor(4) as senders:
            list(senders.map(send, (numbers[first::4] for first in range(4))))
        answered: list[int] = []
        published: list[int] = []
        while len(answered) < len(numbers) or len(published) < len(numbers):
            reply = client.next()
            answered += [reply["id"]] if "publish" in reply else []
            published += [reply["push"]["pub"]["data"]] if "pub" in reply.get("push", {}) else []
        assert (sorted(answered), sorted(published)) == (list(numbers), list(numbers))


def _say(client: Conversation, number: int, method: str, **fields: object) -> int:
    client.write(client.encoded({"id": number, method: fields}))
    return number


def test_a_command_that_comes_twice_is_carried_out_once(pods: list[Starling]) -> None:
    with Conversation("http_stream", pods[0].port) as client:
        client.connected()
        client.call("subscribe", channel="open:twice")
        command = client.encoded({"id": 3, "publish": {"channel": "open:twice", "data": "once"}})
        for pod in (*pods, *pods):
            assert emulate(pod.port, client.session, client.node, command).status == 204
        _say(client, 4, "publish", channel="open:twice", data="last")
        assert [client.push()["data"], client.push()["data"]] == ["once", "last"]


def test_a_command_that_overtakes_the_one_before_it_waits_for_it(pods: list[Starling]) -> None:
    with Conversation("http_stream", pods[0].port) as client:
        client.connected()
        client.call("subscribe", channel="open:overtaken")
        for number in (5, 4, 3):
            _say(client, number, "publish", channel="open:overtaken", data=number)
        assert [client.push()["data"] for _ in range(3)] == [3, 4, 5]


def test_a_command_does_not_wait_for_ever_for_one_that_never_comes(pods: list[Starling]) -> None:
    with Conversation("http_stream", pods[0].port) as client:
        client.connected()
        _say(client, 7, "ping")
        assert client.reply(7) == {"id": 7, "ping": {}}


def test_a_session_is_reached_by_its_whole_secret_alone(pods: list[Starling]) -> None:
    with Conversation("http_stream", pods[0].port) as client, Conversation("http_stream", pods[0].port) as other:
        client.connected()
        other.connected()
        assert client.session != other.session
        assert len(client.session.partition(".")[2]) >= 32
        own, secret = client.session.split(".")
        for wrong in (
            "",
            own,
            f"{own}.",
            f"{own}.{secret[:-1]}",
            f"{own}.{secret}x",
            f"{own}.{other.session.split('.')[1]}",
            "ä",
        ):
            for pod in pods:
                assert emulate(pod.port, wrong, client.node, b'{"id":2,"ping":{}}').status == 404
        assert client.call("ping")["ping"] == {}


def test_a_session_that_has_ended_is_not_found(pods: list[Starling]) -> None:
    client = Conversation("http_stream", pods[0].port)
    client.connected()
    client.close()
    pods[0].reported("client_disconnected", connection_id=client.session.split(".")[0])
    for pod in pods:
        assert emulate(pod.port, client.session, client.node, b'{"id":2,"ping":{}}').status == 404


def test_a_session_of_a_node_that_nobody_knows_is_not_found(pods: list[Starling]) -> None:
    assert emulate(pods[0].port, "a.b", "0123456789abcdef", b'{"id":2,"ping":{}}').status == 404


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", "body"),
        (b"[]", "object"),
        (b'{"node":"n","data":"{}"}', "session"),
        (b'{"session":"s","node":"n"}', "data"),
        (b'{"session":1,"node":"n","data":"{}"}', "session"),
        (b'{"session":"s","node":"n","data":{"id":2}}', "data"),
        (b'{"session":"s","node":null,"data":"{}"}', "node"),
        (b'{"session":"\xff","node":"n","data":"{}"}', ""),
    ],
)
def test_a_request_that_cannot_be_read_is_refused_in_words(pods: list[Starling], body: bytes, field: str) -> None:
    with Stream(pods[0].port, post("/emulation", body)) as response:
        assert response.status == 400
        assert field in json.loads(response.rest())["error"]["message"]


def test_protobuf_that_cannot_be_read_is_refused_in_words_of_its_own(pods: list[Starling]) -> None:
    request = post("/emulation", b"\xff\xff", "Content-Type: application/octet-stream")
    with Stream(pods[0].port, request) as response:
        assert response.status == 400
        assert json.loads(response.rest())["error"]["message"] == "bad request: the body is no EmulationRequest"


def test_commands_beyond_the_message_size_are_refused_and_the_session_goes_on(pods: list[Starling]) -> None:
    with Conversation("http_stream", pods[0].port) as client:
        client.connected()
        fits = client.encoded({"id": 2, "publish": {"channel": "open:large", "data": '"' * 20_000}})
        assert client.write(fits) == (204, b"")
        assert "publish" in client.reply(2)
        for size in (70_000, 300_000):
            too_large = client.encoded({"id": 3, "publish": {"channel": "open:large", "data": "x" * size}})
            response = client.write(too_large)
            assert response is not None
            assert response.status == 413
            assert "STARLING_MAX_MESSAGE_BYTES" in json.loads(response.body)["error"]["message"]
        _say(client, 3, "ping")
        assert client.reply(3) == {"id": 3, "ping": {}}


def test_a_page_of_a_foreign_origin_is_refused_and_nothing_is_carried_out(pods: list[Starling]) -> None:
    with Conversation("http_stream", pods[0].port) as client:
        client.connected()
        command = client.encoded({"id": 2, "publish": {"channel": "open:foreign", "data": "forged"}})
        body = json.dumps({"session": client.session, "node": client.node, "data": command.decode()}).encode()
        for pod in pods:
            with Stream(pod.port, post("/emulation", body, "Origin: https://evil.example")) as response:
                assert response.status == 403
                assert json.loads(response.rest())["error"]["code"] == 103
        # The id is free still: a refused request is none of the session's.
        assert client.call("history", channel="open:foreign", limit=10)["history"].get("publications", []) == []


def test_commands_that_wait_for_a_client_that_does_not_read_are_bounded(pods: list[Starling]) -> None:
    with Conversation("http_stream", pods[0].port, receive_buffer=4096) as client:
        client.connected()
        for _ in range(40):
            client.call("publish", channel="open:unread", data="x" * 50_000)
        # One alone fills what the kernel takes; each spends of the message budget, which others need whole.
        client.say("history", channel="open:unread", limit=40)
        answers: list[Response] = []
        while not answers or answers[-1].status == 204:
            assert len(answers) < 60, "1 MiB is bounded"
            command = {"id": 50 + len(answers), "publish": {"channel": "open:other", "data": "x" * 60_000}}
            answer = client.write(client.encoded(command))
            assert answer is not None
            answers.append(answer)
        assert answers[-1].status == 429
        assert json.loads(answers[-1].body)["error"]["code"] == 111
        # The session goes on once the client reads: what was taken is carried out, and the refused id is free.
        refused = 50 + len(answers) - 1
        for number in range(50, refused):
            reply = client.reply(number)
            assert reply.get("publish") == {}, reply
        assert client.write(client.encoded({"id": refused, "ping": {}})) == (204, b"")
        assert client.reply(refused)["ping"] == {}


def test_guesses_of_sessions_cost_other_nodes_little_and_a_live_session_goes_on(pods: list[Starling]) -> None:
    with Conversation("http_stream", pods[0].port) as client:
        client.connected()
        # An address of the loopback network for this test alone, and one connection, so one worker.
        sender = HTTPConnection("127.0.0.1", pods[1].port, timeout=SECONDS, source_address=("127.0.0.19", 0))

        def send(session: str, number: int = 2) -> int:
            body = {"session": session, "node": client.node, "data": json.dumps({"id": number, "ping": {}})}
            sender.request("POST", "/emulation", json.dumps(body))
            response = sender.getresponse()
            response.read()
            return response.status

        with closing(sender):
            assert send(client.session) == 204
            # The same one again needs no other node to be refused.
            assert {send("gone.secret") for _ in range(150)} == {404}
            guessed = [404]
            while guessed[-1] == 404 and len(guessed) < 1000:
                guessed.append(send(f"guess.{len(guessed)}"))
            assert guessed[-1] == 429
            assert len(guessed) >= 100
            assert send("gone.secret") == 404
            assert send(client.session, 3) == 204
            assert client.reply(3)["ping"] == {}
    assert pods[1].reported("commands_refused", reason="emulation_flood")


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_only_post_is_taken(pods: list[Starling], method: str) -> None:
    with Stream(pods[0].port, post("/emulation", b"", method=method)) as response:
        assert (response.status, response.headers["allow"]) == (405, "POST, OPTIONS")
