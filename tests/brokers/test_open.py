"""A broker URL is taken, or refused with the remedy and without its password."""

from pathlib import Path

import pytest

from starling.brokers.memory.broker import MemoryBroker
from starling.brokers.open import open_broker
from starling.brokers.postgres import PostgresBroker
from starling.brokers.redis.address import parse_address
from starling.brokers.redis.broker import RedisBroker


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("memory://", MemoryBroker),
        ("redis://localhost", RedisBroker),
        ("redis://user:p%40ss@localhost:6380/3", RedisBroker),
        ("redis://[::1]:6379/0", RedisBroker),
        ("rediss://redis.example:6379", RedisBroker),
        ("rediss://redis.example:6379?ssl_cert_reqs=none", RedisBroker),
        ("redis+sentinel://one:26379,two,[::1]:26380/main?db=3", RedisBroker),
        ("rediss+sentinel://u:p@one/main?sentinel_username=w&sentinel_password=p%40ss", RedisBroker),
        ("postgresql://localhost", PostgresBroker),
        ("postgresql://user:password@localhost:5432/database?sslmode=require", PostgresBroker),
    ],
)
def test_the_scheme_chooses_the_broker(url: str, kind: type) -> None:
    assert type(open_broker(url)) is kind


@pytest.mark.parametrize(
    ("url", "remedy"),
    [
        ("", "it must start with memory://, redis://"),
        ("redis", "it must start with memory://, redis://"),
        ("localhost:6379", "it must start with memory://, redis://"),
        ("kafka://user:sesame@host", "it must start with memory://, redis://"),
        ("redis://", "the host is missing; write it like redis://user:password@redis.example:6379/0"),
        ("redis://user:sesame@:6379/0", "the host is missing"),
        ("rediss:///0", "the host is missing; write it like rediss://user:password@"),
        ("redis+cluster://one:7000/1", "a cluster has one database only, so no path"),
        ("postgresql://[::1", "host or port cannot be read; write it like postgresql://"),
        ("postgresql://", "the host is missing; write it like postgresql://user:password@localhost:5432/database"),
        ("redis://user:sesame@localhost:port", "host or port cannot be read"),
        ("redis://localhost:99999", "host or port cannot be read"),
        ("redis://[::1", "host or port cannot be read"),
        ("redis://user:sesame@localhost/zero", "after the host stands a database number"),
        ("redis://localhost/0/1", "after the host stands a database number"),
        ("redis://localhost/0?decode_responses=true", "unknown option decode_responses; known are ssl_ca_certs"),
        ("redis://localhost/0?ssl_cert_reqs=none", "ssl options need rediss://"),
        ("redis://one,two/0", "names one server; for several write redis+sentinel:// or redis+cluster://"),
        ("redis+sentinel://:sesame@one:26379", "after the hosts stands the name that Sentinel knows the master by"),
        (
            "redis+sentinel:///main",
            "the host is missing; write it like redis+sentinel://user:password@one.example:26379,",
        ),
        ("redis+sentinel://one:26379,two:port/main", "host or port cannot be read; write it like redis+sentinel://"),
        ("redis+sentinel://one/main?db=first", "db is the number of a database"),
        ("redis+sentinel://one/main?master=x", "unknown option master; known are db, sentinel_password, sentinel_use"),
        ("rediss+sentinel://one/main?ssl_check_hostname=perhaps", "ssl_check_hostname is true or false"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_with_the_remedy(url: str, remedy: str) -> None:
    with pytest.raises(ValueError, match="broker_url: ") as refusal:
        open_broker(url)
    assert remedy in str(refusal.value)
    assert "sesame" not in str(refusal.value)
    assert refusal.value.__cause__ is None
    assert refusal.value.__suppress_context__ or refusal.value.__context__ is None


@pytest.mark.parametrize("prefix", ["", "a b", "a:b", "{a}", "x" * 41, "ü"])
def test_a_prefix_that_some_server_could_not_carry_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match="broker_prefix: 1 to 40"):
        open_broker("memory://", prefix=prefix)


def test_a_timeout_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="broker_timeout_seconds"):
        open_broker("memory://", timeout=0)


def test_a_ca_file_must_exist_and_have_a_use(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no file"):
        open_broker("rediss://localhost", ca_file=tmp_path / "missing.crt")
    with pytest.raises(ValueError, match="for rediss:// only"):
        open_broker("redis://localhost", ca_file=tmp_path / "missing.crt")


def test_a_client_certificate_needs_its_key(tmp_path: Path) -> None:
    certificate = tmp_path / "client.crt"
    certificate.touch()
    with pytest.raises(ValueError, match="broker_key_file: it is missing and broker_cert_file is set"):
        open_broker("rediss://localhost", cert_file=certificate)
    with pytest.raises(ValueError, match="broker_key_file: there is no file"):
        open_broker("rediss://localhost", cert_file=certificate, key_file=tmp_path / "missing.key")
    with pytest.raises(ValueError, match="for rediss:// only"):
        open_broker("redis+sentinel://localhost/main", cert_file=certificate, key_file=certificate)


def test_an_address_is_read_in_all_its_parts_and_reported_without_what_is_secret() -> None:
    address = parse_address(
        "rediss+sentinel://me:p%40ss@one,[::1]:7/main?db=3&sentinel_username=w&sentinel_password=se"
    )
    assert address.hosts == (("one", 26379), ("::1", 7))
    assert (address.service, address.database, address.tls) == ("main", 3, True)
    assert (address.username, address.password) == ("me", "p@ss")
    assert (address.sentinel_username, address.sentinel_password) == ("w", "se")
    assert str(address) == "rediss+sentinel://one:26379,[::1]:7/main"
    assert "p@ss" not in repr(address)
