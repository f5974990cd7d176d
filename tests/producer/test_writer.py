"""Writing streams with `open_stream`: in the service's process, and over HTTP to two pods on one Redis."""

import asyncio
import json
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect

import starling
from starling.auth.issue import issue_connection_token
from starling.embed.service import Starling
from starling.producer.content import Content
from starling.producer.errors import Cancelled, ProducerReplaced, StreamClosed, StreamError, StreamFull
from starling.producer.http import open_stream
from starling.producer.writer import StreamWriter, WriterOptions
from tests.support.running import SECRET
from tests.support.running import Starling as Served
from tests.support.services import RedisServer
from tests.support.waiting import DEADLINE

KEY = "the-key-of-a-test-long-enough"
CHANNELS = """
namespaces:
  answers: {stream: text, stream_max_bytes: 100000, allow_subscribe_for_client: true}
  events: {stream: json}
  files: {stream: bytes}
  short: {stream: text, producer_timeout: 600ms}
"""


def environment(folder: Path, **more: str) -> dict[str, str]:
    path = folder / "channels.yaml"
    path.write_text(CHANNELS)
    return {
        "STARLING_CHANNELS_FILE": str(path),
        "STARLING_API_KEYS": KEY,
        "STARLING_TOKEN_HMAC_SECRET": SECRET,
        **more,
    }


@pytest.fixture
async def realtime(tmp_path: Path) -> AsyncIterator[Starling]:
    service = Starling(environment=environment(tmp_path))
    async with service.running():
        yield service


async def contents(realtime: Starling, channel: str) -> list[Any]:
    return [bytes(each.data).decode() for each in (await realtime.history(channel, limit=-1)).publications]


async def info(realtime: Starling, channel: str) -> Any:
    return (await realtime._stream_call("stream_info", {"channel": channel}))["result"]


async def cancel(realtime: Starling, channel: str, reason: str = "") -> None:
    await realtime._stream_call("stream_cancel", {"channel": channel, "reason": reason})


async def test_what_is_written_in_a_window_is_one_publication_and_the_end_closes_it(realtime: Starling) -> None:
    async with realtime.open_stream("answers:1") as answer:
        for token in ("Once", " upon", " a", " time"):
            await answer.write(token)
        await answer.flush()
        assert answer.length == len("Once upon a time")
        await answer.write(", ün 😀")

    assert await contents(realtime, "answers:1") == ['{"text":"Once upon a time"}', '{"text":", ün 😀"}']
    assert (await info(realtime, "answers:1"))["status"] == "complete"


async def test_ten_thousand_tokens_are_no_more_publications_than_windows(realtime: Starling) -> None:
    started = time.monotonic()
    tokens = [f"{number} " for number in range(10_000)]
    async with realtime.open_stream("answers:tokens") as answer:
        for token in tokens:
            await answer.write(token)
            if token.endswith("00 "):
                await asyncio.sleep(0.005)
    seconds = time.monotonic() - started
    publications = (await realtime.history("answers:tokens", limit=-1)).publications

    assert "".join(bytes(each.data).decode()[9:-2] for each in publications) == "".join(tokens)
    # At the end there is one more than windows: what was left, with the close.
    assert len(publications) <= seconds / 0.04 + 2


async def test_an_exception_closes_it_as_failed_and_goes_on(realtime: Starling) -> None:
    with pytest.raises(LookupError):
        async with realtime.open_stream("answers:2") as answer:
            await answer.write("half an")
            raise LookupError("the model is gone")
    found = await info(realtime, "answers:2")
    assert (found["status"], found["reason"], found["length"]) == ("failed", "LookupError: the model is gone", 7)


async def test_json_and_bytes_are_written_as_they_are(realtime: Starling) -> None:
    async with realtime.open_stream("events:1") as events:
        await events.write({"a": [1]})
        await events.write([2])
        await events.close("complete", final={"items": 2})
    async with realtime.open_stream("files:1") as file:
        await file.write(b"\x00\xff")
        with pytest.raises(TypeError, match="bytes"):
            await file.write("text")
    assert await contents(realtime, "events:1") == ['{"json":[{"a":[1]},[2]]}']
    assert (await info(realtime, "events:1"))["final"] == {"items": 2}
    assert await contents(realtime, "files:1") == ['{"bytes":"AP8="}']


async def test_cancelling_interrupts_what_the_writer_waits_for(realtime: Starling) -> None:
    waiting = asyncio.Event()

    async def model() -> None:
        async with realtime.open_stream("answers:3") as answer:
            await answer.write("a")
            await answer.flush()
            waiting.set()
            await asyncio.Event().wait()

    writing = asyncio.create_task(model())
    await waiting.wait()
    await cancel(realtime, "answers:3", "enough")
    with pytest.raises(Cancelled, match="enough") as cancelled:
        await writing
    assert cancelled.value.reason == "enough"
    assert not writing.cancelled()
    assert (await info(realtime, "answers:3"))["status"] == "cancelled"


async def test_a_write_after_cancelling_raises_cancelled(realtime: Starling) -> None:
    with pytest.raises(Cancelled):
        async with realtime.open_stream("answers:4") as answer:
            await cancel(realtime, "answers:4")
            for _ in range(1000):
                try:
                    await asyncio.sleep(0.01)
                except asyncio.CancelledError:
                    with pytest.raises(Cancelled):
                        await answer.write("b")
                    raise


async def test_a_task_that_is_cancelled_otherwise_stays_cancelled_and_its_stream_failed(realtime: Starling) -> None:
    opened = asyncio.Event()

    async def write() -> None:
        async with realtime.open_stream("answers:5"):
            opened.set()
            await asyncio.Event().wait()

    writing = asyncio.create_task(write())
    await opened.wait()
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    found = await info(realtime, "answers:5")
    assert (found["status"], found["reason"]) == ("failed", "CancelledError")


async def test_another_process_of_the_same_producer_takes_over(realtime: Starling) -> None:
    with pytest.raises(ProducerReplaced):
        async with realtime.open_stream("answers:6") as first:
            await first.write("a")
            await first.flush()
            async with realtime.open_stream("answers:6") as second:
                await second.write("b")
                await second.flush()
                await first.write("lost")
                await first.flush()
    assert await contents(realtime, "answers:6") == ['{"text":"a"}', '{"text":"b"}', '{"text":""}']


async def test_a_closed_stream_is_refused_unless_it_is_replaced(realtime: Starling) -> None:
    async with realtime.open_stream("answers:7") as answer:
        await answer.write("first")
    with pytest.raises(StreamClosed, match="complete"):
        async with realtime.open_stream("answers:7"):
            pytest.fail("it is closed")
    async with realtime.open_stream("answers:7", replace=True) as answer:
        await answer.write("second")
    assert await contents(realtime, "answers:7") == ['{"text":"second"}']


async def test_a_deletion_that_was_delayed_and_sent_again_leaves_the_stream_that_replaced(realtime: Starling) -> None:
    async with realtime.open_stream("answers:10") as answer:
        await answer.write("first")
    deletions: list[dict[str, Any]] = []

    async def call(method: str, body: dict[str, Any]) -> dict[str, Any]:
        if method == "stream_delete":
            deletions.append(body)
        return await realtime._stream_call(method, body)

    async with StreamWriter(call, "answers:10", WriterOptions(replace=True)) as answer:
        await answer.write("second")
        await answer.flush()
        (deletion,) = deletions
        assert await call("stream_delete", deletion) == {"result": {"deleted": False}}
        await answer.write(" and more")
    assert "".join(json.loads(each)["text"] for each in await contents(realtime, "answers:10")) == "second and more"


async def test_the_first_stream_of_a_channel_replaces_none(realtime: Starling) -> None:
    async with realtime.open_stream("answers:11", replace=True) as answer:
        await answer.write("first")
    assert await contents(realtime, "answers:11") == ['{"text":"first"}']


async def test_a_full_stream_raises_and_is_closed_as_failed(realtime: Starling) -> None:
    with pytest.raises(StreamFull):
        async with realtime.open_stream("answers:8") as answer:
            for _ in range(3):
                await answer.write("x" * 50_000)
                await answer.flush()


@pytest.mark.parametrize("channel", ["nowhere:1", "answers:{}", "plain"])
async def test_a_channel_that_is_no_stream_is_an_error_in_words(realtime: Starling, channel: str) -> None:
    with pytest.raises(StreamError, match=r"unknown channel|bad request|not available"):
        async with realtime.open_stream(channel):
            pytest.fail("it is no stream")


async def test_a_writer_that_waits_for_its_model_is_not_silent(realtime: Starling) -> None:
    async with realtime.open_stream("short:1") as answer:
        await asyncio.sleep(1.2)
        assert answer.status == "open"
        assert (await info(realtime, "short:1"))["offset"] == 0


async def test_a_slow_service_widens_the_window_and_fails_nothing() -> None:
    # Stands in for a service under load, which is slow in its own time.
    sent: list[str] = []

    async def call(method: str, body: dict[str, Any]) -> dict[str, Any]:
        if method == "stream_info":
            await asyncio.Event().wait()
        if "text" in body:
            sent.append(body["text"])
            await asyncio.sleep(0.1)
        stream = {"type": "text", "status": "open", "length": 0, "producer_epoch": 0, "append_window": 0.01}
        return {"result": stream}

    tokens = [f"{number} " for number in range(300)]
    async with StreamWriter(call, "answers:slow", WriterOptions()) as answer:
        for token in tokens:
            await answer.write(token)
            await asyncio.sleep(0.001)
    assert "".join(sent) == "".join(tokens)
    # One request is under way at a time, and what is written meanwhile is in the next one.
    assert len(sent[1]) > 5 * len(sent[0])


def test_halves_of_a_character_are_sent_together() -> None:
    content = Content("text")
    content.add("a\ud83d")
    assert content.take(100) == {"text": "a"}
    assert not content
    content.add("\ude00b")
    assert content.take(100) == {"text": "😀b"}


# --- over HTTP ---


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="module")
def pods(redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, Served]]:
    """Two pods of one worker on one Redis."""
    variables = environment(tmp_path_factory.mktemp("pods"), STARLING_BROKER_URL=redis.url)
    with Served(variables) as one, Served(variables) as other:
        yield one, other


async def call(pod: Served, method: str, **body: Any) -> Any:
    from httpx2 import AsyncClient

    async with AsyncClient(headers={"X-API-Key": KEY}) as client:
        return (await client.post(f"{pod.http}/api/{method}", json=body)).json()["result"]


@pytest.mark.processes
async def test_a_cancellation_at_one_pod_reaches_the_writer_at_another(pods: tuple[Served, Served]) -> None:
    one, other = pods
    with pytest.raises(Cancelled, match="stop"):
        async with open_stream("answers:pods", url=one.http, key=KEY) as answer:
            await answer.write("partial")
            await answer.flush()
            await call(other, "stream_cancel", channel="answers:pods", reason="stop")
            await asyncio.Event().wait()
    assert (await call(one, "stream_info", channel="answers:pods"))["status"] == "cancelled"


@pytest.mark.processes
async def test_a_live_reader_gets_ten_thousand_tokens_in_thirty_publications_a_second(
    pods: tuple[Served, Served],
) -> None:
    channel, tokens = "answers:live", [f"{number} " for number in range(10_000)]
    text, pushed, started = "", 0, time.monotonic()
    async with connect(f"{pods[1].url}/connection/websocket") as reader:

        async def write() -> None:
            async with open_stream(channel, url=pods[0].http, key=KEY) as answer:
                await reader.send(json.dumps({"id": 1, "connect": {"token": issue_connection_token(SECRET, "a", 60)}}))
                await reader.send(json.dumps({"id": 2, "subscribe": {"channel": channel}}))
                for token in tokens:
                    await answer.write(token)
                    if token.endswith("50 "):
                        await asyncio.sleep(0.01)

        writing = asyncio.create_task(write())
        async for frame in reader:
            for reply in map(json.loads, str(frame).splitlines()):
                for publication in reply.get("subscribe", {}).get("publications", []):
                    text += publication["data"]["text"]
                if publication := reply.get("push", {}).get("pub"):
                    text += publication["data"]["text"]
                    pushed += 1
            if text.endswith(tokens[-1]):
                break
        await writing
    assert text == "".join(tokens)
    # It was there for some, and nothing came faster than windows end.
    assert 5 < pushed <= 30 * (time.monotonic() - started)


@pytest.mark.processes
async def test_a_writer_outlives_a_broker_that_stands_still(pods: tuple[Served, Served], redis: RedisServer) -> None:
    words = [f"{number} " for number in range(60)]
    async with open_stream("answers:away", url=pods[0].http, key=KEY) as answer:
        for number, word in enumerate(words):
            await answer.write(word)
            if number == 20:
                await answer.flush()
                redis.freeze()
            if number == 40:
                # Longer than a call to the broker may take.
                await asyncio.sleep(2.5)
                redis.thaw()
            await asyncio.sleep(0.01)
    history = await call(pods[1], "history", channel="answers:away", limit=-1)
    assert "".join(each["data"]["text"] for each in history["publications"]) == "".join(words)


@pytest.mark.processes
async def test_a_wrong_key_and_a_wrong_address_are_errors_in_words(pods: tuple[Served, Served]) -> None:
    with pytest.raises(StreamError, match="unauthorized"):
        async with open_stream("answers:key", url=pods[0].http, key="a-wrong-key-of-enough-length"):
            pytest.fail("it is refused")
    with pytest.raises(StreamError, match="http://"):
        async with open_stream("answers:key", url="localhost", key=KEY):
            pytest.fail("it is no address")


@pytest.mark.processes
async def test_a_writer_that_is_killed_leaves_its_stream_interrupted(pods: tuple[Served, Served]) -> None:
    program = f"""
        import asyncio, starling

        async def main():
            async with starling.open_stream("short:killed", url={pods[0].http!r}, key={KEY!r}) as answer:
                await answer.write("so far")
                await answer.flush()
                print("written", flush=True)
                await asyncio.Event().wait()

        asyncio.run(main())
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert await asyncio.to_thread(process.stdout.readline) == b"written\n"
    finally:
        process.kill()
        process.communicate()

    async def interrupted() -> bool:
        return bool((await call(pods[1], "stream_info", channel="short:killed"))["status"] == "interrupted")

    async with asyncio.timeout(DEADLINE):
        while not await interrupted():
            await asyncio.sleep(0.1)


@pytest.mark.processes
async def test_writing_loads_the_http_client_and_msgspec_and_nothing_else(pods: tuple[Served, Served]) -> None:
    allowed = (
        "anyio",
        "certifi",
        "h11",
        "httpcore2",
        "httpx2",
        "idna",
        "msgspec",
        "sniffio",
        "starling",
        "truststore",
        "typing_extensions",
    )
    program = f"""
        import sys

        ALLOWED = {{*sys.stdlib_module_names, *{allowed!r}}}

        class Guard:
            def find_spec(self, name, path=None, target=None):
                first, _, rest = name.partition(".")
                if first not in ALLOWED or (first == "starling" and rest and not rest.startswith("producer")):
                    raise ImportError(f"{{name}} must not be needed")

        sys.meta_path.insert(0, Guard())
        import asyncio, starling

        async def main():
            async with starling.open_stream("answers:alone", url={pods[0].http!r}, key={KEY!r}) as answer:
                await answer.write("alone")

        asyncio.run(main())
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert (await call(pods[1], "stream_info", channel="answers:alone"))["length"] == len("alone")


def test_the_public_names_are_there() -> None:
    assert (starling.open_stream, starling.Cancelled, starling.StreamError) == (open_stream, Cancelled, StreamError)
