"""What a verified token grants: every claim of the protocol, with the times around it."""

import base64
import json
from typing import Any

import pytest

from starling.auth.claims import TokenRules
from starling.auth.jws import CompactToken
from starling.auth.jwt import JwtVerifier
from starling.auth.keys import VerificationKey
from starling.auth.tickets import IssuedTicket
from starling.auth.tokens import (
    Credentials,
    RefusalReason,
    SubscriptionGrant,
    SubscriptionOptions,
    TokenRefused,
)
from starling.engine.override import ChannelOverride
from starling.engine.receiver import TokenFacts
from tests.auth.forge import NOW, SECRET, sign


def verifier(rules: TokenRules | None = None, *, now: float = NOW) -> JwtVerifier:
    return JwtVerifier([VerificationKey.from_secret(SECRET)], rules or TokenRules(), clock=lambda: now)


async def connection(
    claims: dict[str, Any] | bytes, rules: TokenRules | None = None, *, now: float = NOW
) -> Credentials:
    return await verifier(rules, now=now).connection(sign(claims))


async def subscription(claims: dict[str, Any] | bytes) -> SubscriptionGrant:
    return await verifier().subscription(sign(claims))


async def test_a_connection_token_grants_all_that_its_claims_say() -> None:
    granted = await connection(
        {
            "sub": "alice",
            "exp": NOW + 60,
            "iat": NOW - 5,
            "nbf": NOW - 5,
            "jti": "t-1",
            "info": {"name": "Alice"},
            "meta": {"plan": 2},
            "channels": ["news", "sport"],
            "subs": {
                "news": {"info": {"role": "editor"}, "data": [1], "override": {"presence": {"value": True}}},
                "#alice": {},
            },
        }
    )
    assert granted == Credentials(
        token=TokenFacts("alice", "t-1", issued_at=NOW - 5),
        expires_at=NOW + 60,
        info=b'{"name":"Alice"}',
        meta=b'{"plan":2}',
        subs={
            "news": SubscriptionOptions(
                info=b'{"role":"editor"}', data=b"[1]", override=ChannelOverride(presence=True)
            ),
            "sport": SubscriptionOptions(),
            "#alice": SubscriptionOptions(),
        },
    )
    assert list(granted.subs) == ["news", "sport", "#alice"]


async def test_a_subscription_token_grants_all_that_its_claims_say() -> None:
    granted = await subscription(
        {
            "sub": "alice",
            "channel": "$chat:7",
            "exp": NOW + 60,
            "iat": NOW,
            "jti": "s-1",
            "info": {"role": "guest"},
            "data": "hello",
            "override": {"join_leave": {"value": False}, "force_recovery": True},
        }
    )
    assert granted == SubscriptionGrant(
        token=TokenFacts("alice", "s-1", issued_at=NOW, channel="$chat:7"),
        expires_at=NOW + 60,
        info=b'{"role":"guest"}',
        data=b'"hello"',
        override=ChannelOverride(join_leave=False, force_recovery=True),
    )


@pytest.mark.parametrize("claims", [{}, {"sub": ""}])
async def test_a_token_without_a_user_is_anonymous_and_needs_nothing_else(claims: dict[str, Any]) -> None:
    granted = await connection(claims)
    assert granted == Credentials()


@pytest.mark.parametrize(
    ("claims", "expires_at"),
    [
        ({}, None),
        ({"exp": NOW + 60}, NOW + 60),
        ({"exp": NOW + 60.5}, NOW + 60.5),
        ({"exp": NOW + 60, "expire_at": 0}, None),
        ({"exp": NOW + 60, "expire_at": NOW + 7200}, NOW + 7200),
        ({"exp": NOW + 7200, "expire_at": NOW + 60}, NOW + 60),
        ({"expire_at": NOW + 60}, NOW + 60),
    ],
)
async def test_the_end_of_a_connection_is_expire_at_or_else_exp(
    claims: dict[str, Any], expires_at: float | None
) -> None:
    assert (await connection(claims)).expires_at == expires_at
    assert (await subscription({**claims, "channel": "news"})).expires_at == expires_at


async def test_a_channel_of_a_token_may_end_before_the_connection() -> None:
    claims = {"exp": NOW + 600, "subs": {"timed": {"expire_at": NOW + 60}, "lasting": {"expire_at": 0}, "open": {}}}

    subs = (await connection(claims)).subs

    assert {channel: options.expires_at for channel, options in subs.items()} == {
        "timed": NOW + 60,
        "lasting": None,
        "open": None,
    }


@pytest.mark.parametrize(
    ("expire_at", "reason"),
    [
        (NOW, RefusalReason.EXPIRED),
        (NOW - 1, RefusalReason.EXPIRED),
        (NOW * 1000, RefusalReason.MALFORMED_CLAIM),
        (-1, RefusalReason.MALFORMED_CLAIM),
        ("soon", RefusalReason.MALFORMED_CLAIM),
    ],
)
async def test_a_channel_whose_end_is_past_or_no_time_refuses_the_token(expire_at: Any, reason: RefusalReason) -> None:
    with pytest.raises(TokenRefused) as refused:
        await connection({"exp": NOW + 600, "subs": {"timed": {"expire_at": expire_at}}})

    assert refused.value.reason is reason
    assert refused.value.claim.startswith("subs")


async def test_an_expired_token_is_refused_even_if_the_connection_may_last() -> None:
    with pytest.raises(TokenRefused) as refused:
        await connection({"exp": NOW - 1, "expire_at": 0})
    assert refused.value.reason is RefusalReason.EXPIRED


@pytest.mark.parametrize("claim", ["iat", "nbf"])
async def test_an_issuers_clock_may_be_ahead_by_the_leeway_and_no_more(claim: str) -> None:
    assert (await connection({claim: NOW + 30})).user == ""
    rules = TokenRules(leeway_seconds=2)
    assert (await connection({claim: NOW + 2}, rules)).user == ""
    for late, strict in ((NOW + 31, None), (NOW + 3, rules)):
        with pytest.raises(TokenRefused) as refused:
            await connection({claim: late}, strict)
        assert (refused.value.reason, refused.value.claim) == (RefusalReason.NOT_YET_VALID, claim)


async def test_an_end_has_no_leeway() -> None:
    assert (await connection({"exp": NOW}, now=NOW - 0.001)).expires_at == NOW
    with pytest.raises(TokenRefused, match="expired"):
        await connection({"exp": NOW}, now=NOW)


async def test_the_longest_lifetime_is_allowed() -> None:
    rules = TokenRules(max_lifetime_seconds=3600)
    assert (await connection({"exp": NOW + 3600}, rules)).expires_at == NOW + 3600
    with pytest.raises(TokenRefused) as refused:
        await connection({}, rules)
    assert (refused.value.reason, refused.value.claim) == (RefusalReason.MISSING_CLAIM, "exp")


@pytest.mark.parametrize("audience", ["starling", ["starling"], ["mail", "starling"]])
async def test_our_audience_may_be_one_of_several(audience: Any) -> None:
    assert (await connection({"sub": "a", "aud": audience}, TokenRules(audience="starling"))).user == "a"


async def test_audience_and_issuer_are_not_looked_at_unless_rules_name_them() -> None:
    assert (await connection({"sub": "a", "aud": "x", "iss": "y"})).user == "a"


@pytest.mark.parametrize("kind", ["JWT", "jwt", "at+jwt", "application/at+jwt", "application/JWT"])
async def test_types_of_tokens_for_services_are_accepted(kind: str) -> None:
    token = sign({"sub": "a"}, header={"alg": "HS256", "typ": kind})
    assert (await verifier().connection(token)).user == "a"


async def test_claims_nobody_knows_are_ignored() -> None:
    assert (await connection({"sub": "a", "roles": ["x"], "subs": {"n": {"later": 1}}})).subs.keys() == {"n"}


@pytest.mark.parametrize("number", ["18446744073709551616", "-9223372036854775809", "1e400", "1" * 300])
async def test_a_claim_nobody_knows_may_hold_any_number(number: str) -> None:
    token = sign(f'{{"sub":"a","number":{number}}}'.encode())
    assert (await verifier().connection(token)).user == "a"


async def test_info_is_put_on_one_line_and_otherwise_kept_as_it_came() -> None:
    """A line end inside would split a frame of the protocol in two."""
    payload = b'{"info": {\n  "price": 1.10,\r\n  "id": 12345678901234567890123, "text": "a\\nb \xc3\xa9"\n}}'
    granted = await connection(payload)
    assert granted.info == b'{"price":1.10,"id":12345678901234567890123,"text":"a\\nb \xc3\xa9"}'


async def test_null_info_is_no_info() -> None:
    granted = await connection({"info": None, "meta": None, "subs": {"n": {"data": None}}})
    assert (granted.info, granted.meta, granted.subs["n"].data) == (b"", b"", b"")


async def test_a_claim_that_is_null_is_one_that_is_not_there() -> None:
    names = ("iss", "sub", "aud", "exp", "nbf", "iat", "jti", "sid", "expire_at", "info", "meta", "channels", "channel")
    assert await connection(dict.fromkeys(names)) == await connection({})
    options = {"info": None, "data": None, "override": None, "expire_at": None}
    assert (await connection({"subs": {"n": options}})).subs == (await connection({"subs": {"n": {}}})).subs
    override = {"override": {"presence": None, "force_recovery": True}}
    assert (await connection({"subs": {"n": override}})).subs["n"].override.presence is None


@pytest.mark.parametrize(
    "name", ["presence", "join_leave", "force_push_join_leave", "force_positioning", "force_recovery"]
)
@pytest.mark.parametrize("value", [True, False])
async def test_every_override_is_read_bare_or_wrapped(name: str, value: bool) -> None:
    for written in (value, {"value": value}):
        granted = await connection({"subs": {"n": {"override": {name: written}}}})
        assert granted.subs["n"].override == ChannelOverride(**{name: value})


async def test_secrets_of_the_application_do_not_show_in_a_repr() -> None:
    granted = await connection({"info": "private-info", "meta": "private-meta"})
    assert "private" not in repr(granted)


async def test_the_claims_of_a_token_cannot_be_changed_afterwards() -> None:
    granted = await connection({"subs": {"n": {}}})
    with pytest.raises(TypeError):
        granted.subs["m"] = SubscriptionOptions()  # type: ignore[index]


async def test_the_waiting_and_the_immediate_call_agree() -> None:
    token = sign({"sub": "a", "channel": "n"})
    assert verifier().subscription_now(token) == await verifier().subscription(token)
    token = sign({"sub": "a"})
    assert verifier().connection_now(token) == await verifier().connection(token)


def test_a_token_whose_key_is_here_is_verified_without_yielding() -> None:
    call = verifier().connection(sign({"sub": "a"}))
    with pytest.raises(StopIteration) as returned:
        call.send(None)
    assert returned.value.value == Credentials(TokenFacts("a"))


@pytest.mark.parametrize(
    "rules",
    [
        {"leeway_seconds": 31},
        {"leeway_seconds": -1},
        {"max_lifetime_seconds": 0},
        {"audience": ""},
        {"issuer": ""},
    ],
)
def test_rules_that_cannot_be_meant_are_refused(rules: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(rules))):
        TokenRules(**rules)


def test_a_verifier_without_any_key_is_refused() -> None:
    with pytest.raises(ValueError, match="no key to check tokens with"):
        JwtVerifier([], TokenRules())


async def test_a_token_of_the_largest_size_passes() -> None:
    """8192 bytes are 8192 - 2 dots - 43 of the signature - the header, in base64."""
    claims = {"sub": "a", "info": ""}
    while len(sign(claims)) < 8189:
        claims["info"] += "x"
    assert 8189 <= len(sign(claims)) <= 8192
    assert len(json.loads((await connection(claims)).info)) == len(claims["info"])


def b64(text: bytes) -> str:
    return base64.b64encode(text).decode()


async def test_info_and_data_may_come_as_base64_and_then_go_before_their_twins() -> None:
    named = {"b64info": b64(b'{"name":\n"Alice"}'), "info": {"name": "Bob"}}
    both = {**named, "b64data": b64(b"[1]")}

    assert (await connection({"sub": "alice", **named})).info == b'{"name":"Alice"}'
    subs = (await connection({"sub": "alice", "subs": {"news": both}})).subs
    assert (subs["news"].info, subs["news"].data) == (b'{"name":"Alice"}', b"[1]")
    grant = await subscription({"sub": "alice", "channel": "news", **both})
    assert (grant.info, grant.data) == (b'{"name":"Alice"}', b"[1]")


@pytest.mark.parametrize(
    "encoded", ["no base64", b64(b"\xff"), b64(b"{"), b64(b"1" * 1001), b64(b'"\\ud800"'), 5, ["x"]]
)
async def test_base64_of_what_readers_cannot_take_refuses_the_token(encoded: Any) -> None:
    for claims in ({"b64info": encoded}, {"subs": {"news": {"b64data": encoded}}}):
        with pytest.raises(TokenRefused) as refused:
            await connection({"sub": "alice", **claims})
        assert refused.value.reason is RefusalReason.MALFORMED_CLAIM


@pytest.mark.parametrize("info", ["[" * 257 + "]" * 257, "1" * 1001, "[-1." + "0" * 1000 + "]"])
async def test_what_readers_cannot_take_refuses_the_token_as_its_base64_does(info: str) -> None:
    raw = f'{{"sub":"alice","info":{info}}}', f'{{"sub":"alice","subs":{{"news":{{"data":{info}}}}}}}'
    for claims in raw:
        with pytest.raises(TokenRefused) as refused:
            await connection(claims.encode())
        assert refused.value.reason is RefusalReason.MALFORMED_CLAIM
    with pytest.raises(TokenRefused):
        await subscription(f'{{"sub":"alice","channel":"news","info":{info}}}'.encode())


async def test_a_subscription_token_may_name_the_connection_it_is_for() -> None:
    assert (await subscription({"sub": "alice", "channel": "news", "client": "c-1"})).client == "c-1"


RED = {"key": "color", "cmp": "eq", "val": "red"}


async def test_a_token_may_force_a_filter_on_its_channels() -> None:
    granted = await subscription({"sub": "a", "channel": "news", "server_tags_filter": RED})
    assert granted.filter is not None
    assert granted.filter.matches({"color": "red"})
    assert not granted.filter.matches({"color": "blue"})

    subs = {"one": {"server_tags_filter": {"op": "not", "nodes": [RED]}}, "two": {"server_tags_filter": None}}
    connected = await connection({"sub": "a", "subs": subs, "channels": ["three"]})
    forced = connected.subs["one"].filter
    assert forced is not None
    assert forced.matches({"color": "blue"})
    assert not forced.matches({"color": "red"})
    assert connected.subs["two"].filter is connected.subs["three"].filter is None


@pytest.mark.parametrize(
    ("tree", "named"),
    [
        ({}, "server_tags_filter.cmp"),
        ({"op": "and", "nodes": []}, "server_tags_filter.nodes"),
        ({"op": "and", "nodes": [RED, {"op": "nor"}]}, "server_tags_filter.nodes[1].op"),
        ({**RED, "vals": ["red"]}, "server_tags_filter"),
        ({**RED, "vale": "red"}, "server_tags_filter"),
        ({**RED, "val": 7}, "server_tags_filter.val"),
        ([RED], "server_tags_filter"),
    ],
)
async def test_a_filter_that_is_invalid_refuses_the_token_and_names_the_field(tree: Any, named: str) -> None:
    with pytest.raises(TokenRefused) as alone:
        await subscription({"sub": "a", "channel": "news", "server_tags_filter": tree})
    with pytest.raises(TokenRefused) as among:
        await connection({"sub": "a", "subs": {"news": {"server_tags_filter": tree}}})
    for refused in (alone.value, among.value):
        assert refused.reason is RefusalReason.MALFORMED_CLAIM
        assert named in refused.sentence
    assert "subs" in among.value.sentence


@pytest.mark.parametrize(
    "kept",
    [
        IssuedTicket("canary", "session-1"),
        CompactToken("HS256", "key-1", b"canary", b"canary", b"canary"),
        SubscriptionGrant(TokenFacts("alice"), info=b"canary", data=b"canary"),
        Credentials(TokenFacts("alice"), info=b"canary"),
    ],
)
def test_what_holds_a_secret_does_not_show_it_in_its_repr(kept: object) -> None:
    assert "canary" not in repr(kept)
    assert type(kept).__name__ in repr(kept)
