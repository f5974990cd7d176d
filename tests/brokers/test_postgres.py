"""What is particular to PostgreSQL: the limit of a notice, hashed names, and strangers on its channels."""

import asyncio
import base64

import asyncpg
import pytest
import structlog
from msgspec import Raw

from starling.brokers import postgres
from starling.engine.broker import PublicationTooLarge, PublishOptions
from starling.protocol.messages import ClientInfo, Publication
from starling.telemetry.tracing import TraceContext
from tests.brokers.conftest import Opener
from tests.brokers.party import LIVE
from tests.support.services import PostgresServer
from tests.support.waiting import until


async def notify(server: PostgresServer, channel: str, payload: str) -> None:
    """Send a notice past the broker, to where it listens for `channel`."""
    client = await asyncpg.connect(server.url)
    await client.execute("SELECT pg_notify($1, $2)", postgres.identifier("starling", channel), payload)
    await client.close()


@pytest.mark.parametrize("channel", ["room", "ü" * 255])
@pytest.mark.parametrize("info", [None, ClientInfo(user="u", conn_info=Raw(b'{"name":"U"}'))])
async def test_the_limit_that_the_error_names_is_the_limit(
    postgres_server: PostgresServer, opener: Opener, channel: str, info: ClientInfo | None
) -> None:
    here = await opener(postgres_server.url)
    await here.broker.subscribe(channel)
    with pytest.raises(
        PublicationTooLarge, match=r"the data has 20000 bytes, and PostgreSQL carries at most \d+"
    ) as reported:
        await here.broker.publish(channel, Publication(Raw(b"x" * 20_000), info=info), LIVE)
    limit = int(str(reported.value).split("at most ")[1].split()[0])
    assert 5_000 < limit < 6_000
    with pytest.raises(PublicationTooLarge, match=f"the data has {limit + 1} bytes"):
        await here.broker.publish(channel, Publication(Raw(b"x" * (limit + 1)), info=info), LIVE)
    # Three digits of the place in the batch are the most there are, so the greatest goes in a full batch.
    greatest = bytes(range(256)) * 24
    sends = [here.publish(channel, b"%d" % number) for number in range(255)]
    await asyncio.gather(*sends, here.broker.publish(channel, Publication(Raw(greatest[:limit]), info=info), LIVE))
    await until(lambda: len(here.entries) >= 256, "all messages arrive")
    assert here.received(channel)[-1] == greatest[:limit]


async def test_what_is_too_large_with_its_trace_goes_without(postgres_server: PostgresServer, opener: Opener) -> None:
    here = await opener(postgres_server.url)
    await here.broker.subscribe("room")
    traced = PublishOptions(trace=TraceContext("00-" + "1" * 32 + "-" + "2" * 16 + "-01", "x" * 400))
    for size in (5_000, 5_900):
        await here.broker.publish("room", Publication(Raw(b"1" * size)), traced)
    await until(lambda: len(here.entries) == 2, "both arrive")
    assert [entry.trace for _, entry in here.entries] == [traced.trace, None]
    with pytest.raises(PublicationTooLarge):
        await here.broker.publish("room", Publication(Raw(b"1" * 6_100)), traced)


async def test_an_info_that_is_too_large_is_refused_in_words(postgres_server: PostgresServer, opener: Opener) -> None:
    here = await opener(postgres_server.url)
    info = ClientInfo(user="u", conn_info=Raw(b'"' + b"x" * 8000 + b'"'))
    with pytest.raises(PublicationTooLarge, match="PostgreSQL carries at most"):
        await here.broker.publish_join("room", info)


async def test_hostile_notices_are_dropped_and_the_link_goes_on(
    postgres_server: PostgresServer, opener: Opener
) -> None:
    here = await opener(postgres_server.url)
    await here.broker.subscribe("room")
    malformed = base64.b64encode(b"room\n" + b"\xff" * 40).decode()
    with structlog.testing.capture_logs() as logs:
        for payload in ("", "hello", "0.", "0.!!!!", "0.aGVsbG8=", "1.//8K", "é" * 100, f"0.{malformed}"):
            await notify(postgres_server, "room", payload)
        await here.publish("room", b'"honest"')
        await until(lambda: here.entries, "the honest message arrives")
    assert here.received("room") == [b'"honest"']
    assert here.broker.stats.dropped == {"malformed": 1}
    assert [line["event"] for line in logs] == ["broker_message_malformed"]


async def test_two_channels_of_one_identifier_are_distinguished(
    postgres_server: PostgresServer, opener: Opener
) -> None:
    here = await opener(postgres_server.url)
    await here.broker.subscribe("room")
    other = base64.b64encode(b"cellar\np - 0 0\n1 0\nx").decode()
    await notify(postgres_server, "room", f"0.{other}")
    await here.publish("room", b"1")
    await until(lambda: here.entries, "the own message arrives")
    assert [name for name, _ in here.entries] == ["room"]


def test_identifiers_fit_whatever_the_names() -> None:
    assert len(postgres.identifier("p" * 40, "c" * 10_000).encode()) <= 63
    assert postgres.identifier("a", "room") != postgres.identifier("a", "rooms")


async def test_connections_report_what_they_are(postgres_server: PostgresServer, opener: Opener) -> None:
    await opener(postgres_server.url)
    client = await asyncpg.connect(postgres_server.url)
    rows = await client.fetch("SELECT application_name FROM pg_stat_activity WHERE application_name LIKE 'starling%'")
    await client.close()
    assert sorted(row["application_name"] for row in rows) == ["starling-listener", "starling-publisher"]


async def test_a_wrong_database_is_reported_without_the_password(
    postgres_server: PostgresServer, opener: Opener
) -> None:
    url = f"postgresql://starling:sesame@127.0.0.1:{postgres_server.port}/nowhere"
    with structlog.testing.capture_logs() as logs:
        here = await opener(url, up=False)
        await until(lambda: here.down, "the refusal is reported")
    assert [line["reason"] for line in logs if line["event"] == "broker_link_down"] == [
        'database "nowhere" does not exist'
    ]
    assert "sesame" not in str(logs)


async def test_what_needs_a_store_is_refused_in_words(postgres_server: PostgresServer, opener: Opener) -> None:
    here = await opener(postgres_server.url)
    publication = Publication(Raw(b"1"))
    with pytest.raises(ValueError, match="history_size"):
        await here.broker.publish("room", publication, PublishOptions(history_size=10, history_ttl=60))
    with pytest.raises(ValueError, match="idempotency_key"):
        await here.broker.publish("room", publication, PublishOptions(idempotency_key="k"))
    assert here.broker.history is None
