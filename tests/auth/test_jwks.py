"""An issuer's key set, fetched over real HTTP: new keys arrive, outages pass unnoticed, nothing blocks the loop."""

import asyncio
import json
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from structlog.testing import capture_logs

from starling.auth.claims import TokenRules
from starling.auth.jwks import Jwks, parse_jwks
from starling.auth.jwks_download import JwksError
from starling.auth.jwt import JwtVerifier
from starling.auth.keys import VerificationKey
from starling.auth.tokens import KeyNotLoaded, RefusalReason, TokenRefused
from tests.auth.forge import SECRET, sign
from tests.auth.issuer import Issuer, SigningKey, send
from tests.support.waiting import DEADLINE, until

RULES = TokenRules(audience="starling")
LONG = 3600.0


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the requests of these tests on loopback whatever proxies the machine uses."""
    monkeypatch.setenv("no_proxy", "127.0.0.1,127.0.0.2")


@pytest.fixture
def key() -> SigningKey:
    return SigningKey("first")


@pytest.fixture
def issuer(key: SigningKey) -> Iterator[Issuer]:
    with Issuer(key) as running:
        yield running


@asynccontextmanager
async def following(issuer: Issuer, **options: Any) -> AsyncIterator[tuple[JwtVerifier, Jwks]]:
    """A verifier that follows the issuer; by default it would fetch again after an hour only."""
    jwks = Jwks(issuer.url, **{"refresh_seconds": LONG, **options})
    jwks.start()
    try:
        yield JwtVerifier([], RULES, jwks), jwks
    finally:
        await jwks.stop()


def held(issuer: Issuer, key: SigningKey) -> threading.Event:
    """Have the issuer publish `key` only when the event is set."""
    released = threading.Event()

    def hold(handler: BaseHTTPRequestHandler) -> None:
        released.wait(20)
        send(handler, json.dumps({"keys": [key.jwk]}).encode())

    issuer.answer = hold
    return released


def token_of(key: SigningKey, **claims: Any) -> str:
    return key.token(aud="starling", **claims)


async def refused(verifier: JwtVerifier, token: str) -> TokenRefused:
    with pytest.raises(TokenRefused) as refusal:
        await verifier.connection(token)
    return refusal.value


async def test_the_first_token_waits_for_the_first_fetch(issuer: Issuer, key: SigningKey) -> None:
    released = held(issuer, key)
    async with following(issuer) as (verifier, jwks):
        with pytest.raises(KeyNotLoaded) as early:
            verifier.connection_now(token_of(key))
        assert early.value.reason is RefusalReason.KEYS_UNAVAILABLE
        waiting = asyncio.create_task(verifier.connection(token_of(key)))
        await until(lambda: len(issuer.requests) == 1)
        assert not jwks.loaded
        released.set()
        assert (await waiting).user == "alice"
        assert jwks.loaded
        assert jwks.age_seconds is not None
        assert verifier.connection_now(token_of(key)).user == "alice"
    assert len(issuer.requests) == 1


async def test_subscription_tokens_follow_the_issuer_too(issuer: Issuer, key: SigningKey) -> None:
    async with following(issuer) as (verifier, _):
        assert (await verifier.subscription(token_of(key, channel="$news"))).channel == "$news"


async def test_a_slow_issuer_does_not_hold_up_the_event_loop(issuer: Issuer, key: SigningKey) -> None:
    released = held(issuer, key)
    async with following(issuer) as (verifier, jwks):
        both = JwtVerifier([VerificationKey.from_secret(SECRET)], RULES, jwks)
        waiting = asyncio.create_task(verifier.connection(token_of(key)))
        await until(lambda: len(issuer.requests) == 1)
        # The issuer answers only after this loop has turned often and judged other tokens: blocked, it would never.
        for _ in range(100):
            await asyncio.sleep(0)
            assert (await both.connection(sign({"sub": "bob", "aud": "starling"}))).user == "bob"
        assert not waiting.done()
        released.set()
        assert (await waiting).user == "alice"


async def test_the_last_keys_serve_while_the_issuer_is_away(issuer: Issuer, key: SigningKey) -> None:
    with capture_logs() as logs:
        async with following(issuer, refresh_seconds=0.05) as (verifier, jwks):
            assert (await verifier.connection(token_of(key))).user == "alice"
            issuer.stop()
            away = len(logs)
            await until(lambda: [line["event"] for line in logs[away:]].count("jwks_unreachable") >= 3)
            assert (await verifier.connection(token_of(key))).user == "alice"
            assert {line["kept_keys"] for line in logs if line["event"] == "jwks_unreachable"} == {1}
            issuer.start()
            back = len(logs)
            await until(lambda: "jwks_refreshed" in [line["event"] for line in logs[back:]])
            assert len(jwks.keys) == 1


async def test_with_the_issuer_away_from_the_start_a_token_is_refused_for_now_only(
    issuer: Issuer, key: SigningKey
) -> None:
    issuer.stop()
    async with following(issuer) as (verifier, jwks):
        refusal = await refused(verifier, token_of(key))
        assert isinstance(refusal, KeyNotLoaded)
        assert refusal.reason is RefusalReason.KEYS_UNAVAILABLE
        issuer.start()
        await until(lambda: jwks.loaded)
        assert (await verifier.connection(token_of(key))).user == "alice"


async def test_a_new_key_is_fetched_when_its_first_token_comes(issuer: Issuer, key: SigningKey) -> None:
    async with following(issuer) as (verifier, _):
        assert (await verifier.connection(token_of(key))).user == "alice"
        new = SigningKey("second")
        issuer.keys = [new]
        with pytest.raises(KeyNotLoaded) as early:
            verifier.connection_now(token_of(new))
        assert early.value.reason is RefusalReason.UNKNOWN_KEY
        assert (await verifier.connection(token_of(new))).user == "alice"
    assert len(issuer.requests) == 2


async def test_a_key_the_issuer_does_not_know_is_asked_for_once_only(issuer: Issuer, key: SigningKey) -> None:
    async with following(issuer) as (verifier, _):
        assert (await verifier.connection(token_of(key))).user == "alice"
        strangers = [SigningKey(f"stranger-{number}") for number in range(20)]
        refusals = await asyncio.gather(*(refused(verifier, token_of(stranger)) for stranger in strangers))
        assert {refusal.reason for refusal in refusals} == {RefusalReason.UNKNOWN_KEY}
        # All of them waited for the same fetch, which answers for good.
        assert not any(isinstance(refusal, KeyNotLoaded) for refusal in refusals)
        assert len(issuer.requests) == 2
        for stranger in strangers:
            # Nobody may ask again so soon, so whether the key is new stays open.
            assert isinstance(await refused(verifier, token_of(stranger)), KeyNotLoaded)
        assert len(issuer.requests) == 2


async def test_after_the_cooldown_the_issuer_is_asked_again(issuer: Issuer, key: SigningKey) -> None:
    async with following(issuer, cooldown_seconds=0.05) as (verifier, jwks):
        assert await jwks.look_again()
        await refused(verifier, token_of(SigningKey("stranger")))
        assert len(issuer.requests) == 2
        new = SigningKey("second")
        await asyncio.sleep(0.06)
        issuer.keys = [key, new]
        assert (await verifier.connection(token_of(new))).user == "alice"


async def test_an_unknown_key_is_refused_for_now_while_the_issuer_is_away(issuer: Issuer, key: SigningKey) -> None:
    async with following(issuer) as (verifier, _):
        assert (await verifier.connection(token_of(key))).user == "alice"
        issuer.stop()
        assert isinstance(await refused(verifier, token_of(SigningKey("second"))), KeyNotLoaded)


async def test_keys_come_and_go_with_the_regular_refresh(issuer: Issuer, key: SigningKey) -> None:
    async with following(issuer, refresh_seconds=0.05) as (verifier, jwks):
        assert (await verifier.connection(token_of(key))).user == "alice"
        new = SigningKey("second")
        issuer.keys = [new]
        await until(lambda: [known.key_id for known in jwks.keys] == ["second"])
        assert verifier.connection_now(token_of(new)).user == "alice"
        assert (await refused(verifier, token_of(key))).reason is RefusalReason.UNKNOWN_KEY


async def test_a_known_key_id_with_another_key_behind_it_is_a_bad_signature(issuer: Issuer, key: SigningKey) -> None:
    async with following(issuer) as (verifier, _):
        assert (await refused(verifier, token_of(SigningKey("first")))).reason is RefusalReason.BAD_SIGNATURE
        secret_of_public_key = sign(
            {"sub": "alice", "aud": "starling"},
            header={"alg": "HS256", "kid": "first"},
            secret=json.dumps(key.jwk),
        )
        assert (await refused(verifier, secret_of_public_key)).reason is RefusalReason.WRONG_ALGORITHM
    assert len(issuer.requests) == 1


@pytest.mark.parametrize("header", [{"alg": "none"}, {"alg": "HS256"}, {"alg": "HS256", "kid": "x"}, {"alg": "XX"}])
async def test_tokens_no_issuer_could_have_signed_do_not_make_it_asked(issuer: Issuer, header: dict[str, str]) -> None:
    async with following(issuer) as (verifier, jwks):
        await jwks.look_again()
        refusal = await refused(verifier, sign({"sub": "alice", "aud": "starling"}, header=header))
        assert refusal.reason is RefusalReason.WRONG_ALGORITHM
    assert len(issuer.requests) == 1


async def test_a_token_may_leave_out_the_key_id_while_only_one_key_is_meant(issuer: Issuer, key: SigningKey) -> None:
    async with following(issuer, cooldown_seconds=0) as (verifier, jwks):
        unnamed = jwt.encode({"sub": "alice", "aud": "starling"}, key.private, algorithm="ES256")
        assert (await verifier.connection(unnamed)).user == "alice"
        issuer.keys.append(SigningKey("second"))
        await jwks.look_again()
        refusal = await refused(verifier, unnamed)
        assert refusal.reason is RefusalReason.UNKNOWN_KEY
        assert "kid" in refusal.sentence


def drip(handler: BaseHTTPRequestHandler, cut: threading.Event, *, head: bytes) -> None:
    """Write `head`, then a byte now and then, until the other side cuts the connection."""
    try:
        handler.wfile.write(head)
        for _ in range(400):
            handler.wfile.write(b"x")
            time.sleep(0.05)
    except OSError:
        cut.set()


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nX-Slow: ",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;",
    ],
    ids=["status", "header", "body", "chunk"],
)
async def test_an_issuer_that_answers_drop_by_drop_is_cut_off(issuer: Issuer, key: SigningKey, head: bytes) -> None:
    cut = threading.Event()
    issuer.answer = lambda handler: drip(handler, cut, head=head)
    with capture_logs() as logs:
        async with following(issuer, timeout_seconds=0.5) as (verifier, _):
            assert isinstance(await refused(verifier, token_of(key)), KeyNotLoaded)
            assert await asyncio.to_thread(cut.wait, 15)
    assert "no whole answer within 0.5 s" in [line.get("error") for line in logs]


async def test_stopping_ends_a_fetch_under_way_and_answers_those_who_wait(issuer: Issuer, key: SigningKey) -> None:
    cut = threading.Event()
    issuer.answer = lambda handler: drip(handler, cut, head=b"")
    async with following(issuer, timeout_seconds=60) as (verifier, jwks):
        waiting = asyncio.create_task(refused(verifier, token_of(key)))
        await until(lambda: len(issuer.requests) == 1)
        async with asyncio.timeout(DEADLINE):
            await jwks.stop()
            assert isinstance(await waiting, KeyNotLoaded)
        assert await asyncio.to_thread(cut.wait, 15)
        assert not await jwks.look_again()
        await jwks.stop()


HOSTILE_BODIES: dict[str, bytes] = {
    "nothing": b"",
    "a page": b"<html>log in first</html>",
    "a list": b"[]",
    "no list of keys": b'{"keys": {"kty": "RSA"}}',
    "no keys": b'{"keys": []}',
    "keys that are no keys": b'{"keys": [null, 1, "x", [], {}]}',
    "only a secret": b'{"keys": [{"kty": "oct", "k": "' + b"c2VjcmV0" * 8 + b'", "kid": "first"}]}',
    "keys twice": b'{"keys": [], "keys": []}',
    "not UTF-8": b'{"keys": ["\xff"]}',
    "not a number": b'{"keys": [NaN]}',
    "nested deep": b'{"keys": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "digits without end": b'{"keys": [' + b"9" * 100_000 + b"]}",
    "ten thousand keys": b'{"keys": [' + b",".join([b"{}"] * 10_000) + b"]}",
    "a million bytes": b'{"keys": [], "x": "' + b"x" * 1_000_000 + b'"}',
}


@pytest.mark.parametrize("body", HOSTILE_BODIES.values(), ids=HOSTILE_BODIES.keys())
async def test_a_body_without_usable_keys_leaves_the_last_ones_in_use(
    issuer: Issuer, key: SigningKey, body: bytes
) -> None:
    with capture_logs() as logs:
        async with following(issuer, cooldown_seconds=0) as (verifier, jwks):
            assert (await verifier.connection(token_of(key))).user == "alice"
            issuer.answer = lambda handler: send(handler, body)
            assert not await jwks.look_again()
            assert (await verifier.connection(token_of(key))).user == "alice"
    (line,) = [line for line in logs if line["event"] == "jwks_unreachable"]
    assert line["kept_keys"] == 1
    assert len(line["error"]) < 300


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda handler: send(handler, b"", status=404), "the issuer answered 404"),
        (lambda handler: send(handler, b"", status=503), "the issuer answered 503"),
        (lambda handler: send(handler, b"", status=204), "the issuer answered 204"),
        (
            lambda handler: send(handler, b"", status=302, Location="http://127.0.0.2:9/keys"),
            "a redirect, which is not followed: give the final address",
        ),
        (lambda handler: send(handler, b"", status=307, Location="file:///etc/passwd"), "the issuer answered 307"),
        (lambda handler: handler.wfile.write(b"\x00\x01\x02\r\n\r\n"), "broke off or was no HTTP"),
        (lambda handler: handler.close_connection, "broke off or was no HTTP"),
        (lambda handler: send(handler, b"x" * 300_000), "larger than 262144 bytes"),
    ],
)
async def test_an_answer_that_is_no_key_set_is_reported_in_words(
    issuer: Issuer, answer: Callable[[BaseHTTPRequestHandler], None], words: str
) -> None:
    issuer.answer = answer
    with capture_logs() as logs:
        async with following(issuer) as (_, jwks):
            assert not await jwks.look_again()
    (line,) = [line for line in logs if line["event"] == "jwks_unreachable"]
    assert words in line["error"]


def test_unusable_keys_of_a_set_are_passed_over_and_named() -> None:
    key = SigningKey("first")
    members = [{"kty": "oct", "k": "c2VjcmV0"}, key.jwk, {**key.jwk, "use": "enc"}, {"kty": "RSA"}]
    usable, skipped = parse_jwks(json.dumps({"keys": members}).encode())
    assert [known.key_id for known in usable] == ["first"]
    assert [line.partition(":")[0] for line in skipped] == ["key 1", "key 3", "key 4"]
    with pytest.raises(JwksError, match="its kty is not RSA, EC or OKP"):
        parse_jwks(json.dumps({"keys": members[:1]}).encode())


def certificate(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """A certificate for 127.0.0.1, signed by itself: its file, and a server's context with it."""
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "issuer of a test")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(days=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(private, hashes.SHA256())
    )
    chain, secret = folder / "certificate.pem", folder / "key.pem"
    chain.write_bytes(made.public_bytes(Encoding.PEM))
    secret.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, secret)
    return chain, context


async def test_over_tls_only_an_issuer_with_a_trusted_certificate_is_believed(
    key: SigningKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain, context = certificate(tmp_path)
    with Issuer(key, tls=context) as issuer, capture_logs() as logs:
        assert issuer.url.startswith("https://")
        async with following(issuer) as (verifier, jwks):
            assert not await jwks.look_again()
        assert "CERTIFICATE_VERIFY_FAILED" in logs[0]["error"]
        assert issuer.requests == []
        monkeypatch.setenv("SSL_CERT_FILE", str(chain))
        async with following(issuer) as (verifier, _):
            assert (await verifier.connection(token_of(key))).user == "alice"


async def test_a_proxy_of_the_environment_is_asked(
    issuer: Issuer, key: SigningKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The issuer of these tests stands in for the proxy; the host behind it is never looked up."""
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{issuer.port}")
    jwks = Jwks("http://issuer.invalid/keys")
    jwks.start()
    try:
        assert await jwks.look_again()
    finally:
        await jwks.stop()
    assert issuer.requests[0]["Host"] == "issuer.invalid"


async def test_credentials_in_the_address_are_sent_and_never_logged(issuer: Issuer, key: SigningKey) -> None:
    address = issuer.url.replace("http://", "http://svc%40x:p%3Ass-canary@") + "?apikey=query-canary"
    with capture_logs() as logs:
        jwks = Jwks(address, refresh_seconds=0.05)
        jwks.start()
        try:
            assert await jwks.look_again()
            issuer.stop()
            await until(lambda: any(line["event"] == "jwks_unreachable" for line in logs))
        finally:
            await jwks.stop()
    # base64 of "svc@x:p:ss-canary"
    assert issuer.requests[0]["Authorization"] == "Basic c3ZjQHg6cDpzcy1jYW5hcnk="
    assert "canary" not in repr(logs)
    assert {line["host"] for line in logs} == {"127.0.0.1"}


@pytest.mark.parametrize(
    "address", ["", "issuer.example/keys", "file:///etc/passwd", "ftp://issuer.example", "https://"]
)
def test_an_address_that_cannot_be_a_key_sets_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="starts with https://"):
        Jwks(address)


async def test_an_open_address_beyond_this_machine_is_warned_of() -> None:
    with capture_logs() as logs:
        jwks = Jwks("http://127.0.0.2:9/keys")
        jwks.start()
        await jwks.stop()
    assert "jwks_insecure" in [line["event"] for line in logs]


def test_an_issuer_without_an_audience_is_warned_of(issuer: Issuer) -> None:
    with capture_logs() as logs:
        JwtVerifier([], TokenRules(), Jwks(issuer.url))
        assert [line["event"] for line in logs] == ["token_audience_unset"]
        JwtVerifier([], RULES, Jwks(issuer.url))
        JwtVerifier([VerificationKey.from_secret(SECRET)], TokenRules())
        assert len(logs) == 1


async def test_a_key_set_is_started_once(issuer: Issuer) -> None:
    async with following(issuer) as (_, jwks):
        with pytest.raises(RuntimeError, match="already"):
            jwks.start()
