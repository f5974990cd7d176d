"""Who may enter Redis, and how: users with few rights, TLS with an authority of one's own, client certificates."""

import datetime as dt
import ipaddress
import re
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from structlog.typing import EventDict

import starling.brokers.redis
from starling.brokers.open import open_broker
from starling.brokers.redis.rights import acl_rule
from starling.engine.broker import BrokerUnavailable
from tests.brokers.conftest import Opener
from tests.brokers.party import Party
from tests.support.configured_redis import ConfiguredServer
from tests.support.services import RedisServer, documented_user, free_port
from tests.support.waiting import until

pytestmark = pytest.mark.processes

SOURCES = Path(starling.brokers.redis.__file__).parent


def events(logs: list[EventDict], name: str) -> list[EventDict]:
    return [line for line in logs if line["event"] == name]


async def acl(server: RedisServer, *rule: str) -> None:
    """Make or change a user of the server."""
    async with redis.asyncio.from_url(server.url) as client:
        await client.execute_command("ACL", "SETUSER", *rule)  # type: ignore[no-untyped-call]


def test_the_documented_users_are_the_ones_that_are_asked_for() -> None:
    assert " ".join(documented_user()) == f"starling on >PASSWORD {acl_rule('starling')}"
    page = (Path(__file__).parents[2] / "docs" / "redis.md").read_text()
    assert f"\nACL SETUSER starling on >PASSWORD {acl_rule('starling', cluster=True)}\n" in page


def test_no_right_is_asked_for_that_nothing_uses() -> None:
    """That the rights are enough, every other test shows: they run as the documented users."""
    scripts = "".join(path.read_text() for path in SOURCES.glob("*.lua"))
    code = "".join(path.read_text() for path in SOURCES.glob("*.py"))
    words = re.findall(r"redis\.call\('(\w+)'", scripts) + re.findall(r"['\"]([A-Z]{4,})['\"]", scripts + code)
    asked = set(re.findall(r"\+(\S+)", acl_rule("starling", cluster=True)))
    # redis-py names its connections and chooses the database.
    used = {word.lower() for word in words} | {"client|setname", "select"}
    assert {name for name in asked if not set(name.split("|")) <= used and name not in used} == set()


async def test_a_user_whose_password_needs_escaping_is_let_in(redis_server: RedisServer, opener: Opener) -> None:
    await acl(redis_server, "app", "on", ">p@ss:w/rd", *acl_rule("starling").split())
    await acl(redis_server, "default", "off")
    with structlog.testing.capture_logs() as logs:
        here = await opener(f"redis://app:p%40ss%3Aw%2Frd@127.0.0.1:{redis_server.port}/3")
        await here.broker.subscribe("room")
        await here.publish("room", b"1")
        await until(lambda: here.received("room") == [b"1"], "the message arrives")
        await here.broker.stop()
    assert [line["event"] for line in logs] == ["broker_link_up"]
    assert "p@ss" not in str(logs)
    assert "p%40ss" not in str(logs)


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        ("-xadd", ["xadd"]),
        ("-evalsha", ["eval", "evalsha"]),
        ("-hset -time -info", ["info", "time", "hset"]),
        ("resetkeys ~other:*", None),
    ],
)
async def test_a_right_that_is_missing_is_reported_at_the_start_with_the_remedy(
    redis_server: RedisServer, opener: Opener, change: str, missing: list[str] | None
) -> None:
    await acl(redis_server, "app", "on", ">pw", *acl_rule("starling").split(), *change.split())
    with structlog.testing.capture_logs() as logs:
        await opener(f"redis://app:pw@127.0.0.1:{redis_server.port}/0")
        await until(lambda: events(logs, "redis_rights_missing"), "the missing right is reported")
    (line,) = events(logs, "redis_rights_missing")
    if missing is None:
        assert len(line["commands"]) > 20
    else:
        assert line["commands"] == missing
    assert line["log_level"] == "error"
    # Given to Redis as it stands, the remedy fixes.
    await acl(redis_server, *line["remedy"].removeprefix("ACL SETUSER ").split())
    with structlog.testing.capture_logs() as logs:
        again = await opener(f"redis://app:pw@127.0.0.1:{redis_server.port}/0")
        await again.broker.stop()
    assert events(logs, "redis_rights_missing") == []


def denied(plain: redis.Redis) -> int:
    """How many times Redis refused a password."""
    counted: dict[str, dict[str, int]] = plain.info("errorstats")
    return counted.get("errorstat_WRONGPASS", {}).get("count", 0)


async def test_a_wrong_password_is_reported_once_without_it(redis_server: RedisServer, opener: Opener) -> None:
    with structlog.testing.capture_logs() as logs:
        here = await opener(f"redis://someone:sesame@127.0.0.1:{redis_server.port}/0", up=False)
        await until(lambda: here.down, "the refusal is reported")
        with redis.Redis.from_url(redis_server.url) as plain:
            await until(lambda: denied(plain) >= 3, "it was refused again")
    (line,) = events(logs, "broker_link_down")
    assert "password" in line["reason"]
    assert "sesame" not in str(logs)


async def test_a_user_who_may_not_publish_is_never_up_and_the_reason_is_reported(
    redis_server: RedisServer, opener: Opener
) -> None:
    await acl(redis_server, "reader", "on", ">pw", "allchannels", "+@all", "-publish")
    with structlog.testing.capture_logs() as logs:
        here = await opener(f"redis://reader:pw@127.0.0.1:{redis_server.port}/0", up=False)
        await until(lambda: here.down, "the missing right is reported")
        with pytest.raises(BrokerUnavailable, match="Redis refused: NOPERM"):
            await here.publish("room", b"1")
    assert not here.broker.stats.up
    line = events(logs, "broker_link_down")[0]
    assert "no permissions to run the 'publish' command" in line["reason"]
    assert line["remedy"] == f"ACL SETUSER reader {acl_rule('starling')}"


class Authority:
    """Makes certificates, and their keys, in a directory."""

    def __init__(self, directory: Path, name: str = "authority") -> None:
        self.directory = directory
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.file = directory / f"{name}.crt"
        basic = x509.BasicConstraints(ca=True, path_length=0)
        self.file.write_bytes(self._sign(self.name, self._key, (basic, True)))

    def issue(self, name: str, *places: x509.GeneralName) -> tuple[Path, Path]:
        """A certificate for `places` and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        extensions = [(x509.SubjectAlternativeName(places), False)] if places else []
        certificate, key_file = self.directory / f"{name}.crt", self.directory / f"{name}.key"
        certificate.write_bytes(self._sign(subject, key, *extensions))
        key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return certificate, key_file

    def _sign(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *extensions: tuple[x509.ExtensionType, bool]
    ) -> bytes:
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(hours=1))
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical=critical)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


HERE = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))


def tls_server(
    authority: Authority, *places: x509.GeneralName, clients: str = "no", **options: str
) -> tuple[RedisServer, str]:
    """A server that speaks TLS next to its plain port, and its URL."""
    certificate, key = authority.issue("server", *places)
    port = free_port()
    server = RedisServer(
        tls_port=str(port),
        tls_cert_file=str(certificate),
        tls_key_file=str(key),
        tls_ca_cert_file=str(authority.file),
        tls_auth_clients=clients,
        **options,
    )
    return server, f"rediss://starling:PASSWORD@127.0.0.1:{port}/0"


async def reason_of_refusal(url: str, **files: Any) -> str:
    party = Party(open_broker(url, **files))
    with structlog.testing.capture_logs() as logs:
        await party.broker.start(party)
        await until(lambda: party.down, "the connection is refused")
    await party.broker.stop()
    reason: str = events(logs, "broker_link_down")[0]["reason"]
    return reason.lower()


async def receives(url: str, **files: Any) -> None:
    party = Party(open_broker(url, **files))
    await party.broker.start(party)
    await until(lambda: party.up, "the link comes up")
    await party.broker.subscribe("room")
    await party.publish("room", b"1")
    await until(lambda: party.received("room") == [b"1"], "the message arrives")
    await party.broker.stop()


async def test_rediss_checks_the_server_against_the_authority_that_is_named(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    server, url = tls_server(authority, HERE)
    with server:
        await receives(url, ca_file=authority.file)
        assert "certificate verify failed" in await reason_of_refusal(url)
        assert "certificate verify failed" in await reason_of_refusal(url, ca_file=Authority(tmp_path, "other").file)


async def test_rediss_refuses_a_certificate_of_another_host(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    server, url = tls_server(authority, x509.DNSName("redis.example"))
    with server:
        assert "ip address mismatch" in await reason_of_refusal(url, ca_file=authority.file)
        await receives(f"{url}?ssl_check_hostname=false", ca_file=authority.file)


async def test_a_server_that_asks_for_a_certificate_is_shown_one(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    server, url = tls_server(authority, HERE, clients="yes")
    with server:
        certificate, key = authority.issue("client")
        await receives(url, ca_file=authority.file, cert_file=certificate, key_file=key)
        # TLS 1.3 has no words for it that always arrive before the end.
        assert await reason_of_refusal(url, ca_file=authority.file)


async def test_behind_sentinel_everything_speaks_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    server, url = tls_server(authority, HERE)
    certificate, key = authority.issue("sentinel", HERE)
    port = free_port()
    sentinel = ConfiguredServer(
        [
            *(f"tls-port {port}", f"tls-cert-file {certificate}", f"tls-key-file {key}"),
            *(f"tls-ca-cert-file {authority.file}", "tls-auth-clients no", "tls-replication yes"),
            f"sentinel monitor main 127.0.0.1 {url.rpartition(':')[2].removesuffix('/0')} 1",
        ],
        sentinel=True,
    )
    with server, sentinel:
        named = f"rediss+sentinel://starling:PASSWORD@127.0.0.1:{port}/main"
        await receives(named, ca_file=authority.file)
        assert "certificate verify failed" in await reason_of_refusal(named)


async def test_a_cluster_speaks_tls(tmp_path: Path) -> None:
    """A cluster of one node, which has all slots."""
    authority = Authority(tmp_path)
    options = {"cluster_enabled": "yes", "tls_cluster": "yes", "cluster_port": str(free_port())}
    server, url = tls_server(authority, HERE, **options)
    with server:
        async with redis.asyncio.from_url(server.url) as client:
            await client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)  # type: ignore[no-untyped-call]
        named = url.replace("rediss://starling:PASSWORD@", "rediss+cluster://").removesuffix("/0")
        await receives(named, ca_file=authority.file)
        assert "certificate verify failed" in await reason_of_refusal(named)
