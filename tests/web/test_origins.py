"""The grammar of allowed origins, and which pages may connect."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from starling.settings import SettingsError, load_settings
from starling.web.origins import developer_origin_allowed, normal_pattern, origin_allowed, surprises


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("*", "*"),
        ("https://app.example.com", "https://app.example.com"),
        ("https://app.example.com/", "https://app.example.com"),
        ("HTTPS://App.Example.COM", "https://app.example.com"),
        ("https://app.example.com:443", "https://app.example.com"),
        ("https://app.example.com:", "https://app.example.com"),
        ("http://app.example.com:80/", "http://app.example.com"),
        ("https://app.example.com:80", "https://app.example.com:80"),
        ("https://app.example.com:00443", "https://app.example.com"),
        ("https://app.example.com:08443", "https://app.example.com:8443"),
        ("https://*.example.com", "https://*.example.com"),
        ("https://*.example.com:*", "https://*.example.com:*"),
        ("http://localhost:*", "http://localhost:*"),
        ("http://127.0.0.1:3000", "http://127.0.0.1:3000"),
        ("http://[0:0::1]:3000", "http://[::1]:3000"),
        ("https://bücher.example", "https://xn--bcher-kva.example"),
        ("https://*.bücher.example", "https://*.xn--bcher-kva.example"),
        ("capacitor://localhost", "capacitor://localhost"),
        ("chrome-extension://abcdefghijklmnop", "chrome-extension://abcdefghijklmnop"),
    ],
)
def test_a_pattern_is_taken_as_browsers_write_origins(written: str, normal: str) -> None:
    assert normal_pattern(written) == normal
    assert normal_pattern(normal) == normal


@pytest.mark.parametrize(
    "pattern",
    [
        "app.example.com",
        "app.example.com:8000",
        "//app.example.com",
        "://app.example.com",
        "localhost",
        "null",
        "*.example.com",
        "*example.com",
        "*://app.example.com",
        "http*://app.example.com",
        "https://",
        "https:///",
        "https://*",
        "https://*:443",
        "https://*example.com",
        "https://*.*.example.com",
        "https://app.*.com",
        "https://app.example.*",
        "https://app.example.com*",
        "https://*.",
        "https://.example.com",
        "https://app..example.com",
        "https://app.example.com/path",
        "https://app.example.com?x",
        "https://app.example.com#x",
        "https://user@app.example.com",
        "https://app.example.com:port",
        "https://app.example.com:0",
        "https://app.example.com:65536",
        "https://app.example.com:44*",
        "https://app.example.com:²",
        "https://app.exa mple.com",
        "https://[::1",
        "https://[nothing]:3000",
        "https://[*]",
        "http://[fe80::1%25eth0]:3000",
        "http://127.1",
        "http://2130706433",
        "http://0x7f.0.0.1",
        "http://127.0.0.01:3000",
        "http://256.0.0.1",
        "http://*.0.0.1",
        f"https://{'a' * 64}.example.com",
        f"https://{'a.' * 130}com",
    ],
)
def test_what_no_origin_or_more_than_it_seems_fits_is_refused_with_the_remedy(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"write it as SCHEME://HOST"):
        normal_pattern(pattern)
    with pytest.raises(SettingsError) as refused:
        load_settings({"STARLING_DEV": "true", "STARLING_ALLOWED_ORIGINS": f"https://good.example,{pattern}"})
    assert "STARLING_ALLOWED_ORIGINS" in str(refused.value)
    assert repr(pattern) in str(refused.value)


@pytest.mark.parametrize(
    ("pattern", "remedy"),
    [
        ("wss://app.example.com", "write https:// in place of wss://"),
        ("WS://localhost:*", "write http:// in place of ws://"),
        ("https://faß.example", "in ASCII"),
        ("https://*.ες.example", "in ASCII"),
        ("https://a\u200db.example", "in ASCII"),
    ],
)
def test_what_browsers_write_in_another_way_is_refused_with_that_way(pattern: str, remedy: str) -> None:
    with pytest.raises(ValueError, match=remedy):
        normal_pattern(pattern)


@pytest.mark.parametrize(
    ("patterns", "count"),
    [
        ("https://*.co.uk,https://*.github.io,http://*.localhost", 3),
        ("https://*.company.uk,https://*.me.github.io", 0),
        ("*", 1),
        ("https://*.com", 1),
        ("https://*.com,*", 2),
        ("https://*.example.com", 0),
        ("https://a.example", 0),
    ],
)
def test_what_pages_of_strangers_fit_is_warned_of(patterns: str, count: int) -> None:
    settings = load_settings({"STARLING_DEV": "true", "STARLING_ALLOWED_ORIGINS": patterns})
    assert len([warning for warning in settings.warnings() if "ALLOWED_ORIGINS" in warning]) == count
    assert len(surprises(settings.allowed_origins)) == count


@pytest.mark.parametrize(
    ("origin", "pattern", "allowed"),
    [
        ("https://app.example.com", "https://app.example.com", True),
        ("https://app.example.com", "https://app.example.com/", True),
        ("http://app.example.com", "https://app.example.com", False),
        ("https://app.example.com:8443", "https://app.example.com", False),
        ("https://app.example.com:8443", "https://app.example.com:*", True),
        ("https://app.example.com", "https://app.example.com:*", True),
        ("https://app.example.com.evil.com", "https://app.example.com:*", False),
        ("https://evilexample.com", "https://*.example.com", False),
        ("https://example.com", "https://*.example.com", False),
        ("https://a.b.example.com", "https://*.example.com", True),
        ("https://.example.com", "https://*.example.com", False),
        ("https://evil.com/.example.com", "https://*.example.com", False),
        ("https://evil.com:1.example.com", "https://*.example.com", False),
        ("https://evil.com#.example.com", "https://*.example.com", False),
        ("https://user@a.example.com", "https://*.example.com", False),
        ("https://a.example.com:8443", "https://*.example.com", False),
        ("https://a.example.com:8443", "https://*.example.com:*", True),
        ("http://[::1]:3000", "http://[::1]:*", True),
        ("null", "https://*.example.com", False),
        ("null", "*", True),
        ("", "https://*.example.com", False),
    ],
)
def test_an_origin_fits_a_pattern_by_scheme_host_and_port(origin: str, pattern: str, allowed: bool) -> None:
    assert origin_allowed(origin, "", (normal_pattern(pattern),)) is allowed


@pytest.mark.parametrize(
    ("origin", "host", "secure", "allowed"),
    [
        ("https://example.com", "example.com", True, True),
        ("https://example.com", "example.com:443", True, True),
        ("https://example.com", "EXAMPLE.com", False, True),
        ("https://example.com", "example.com", False, True),
        ("http://example.com", "example.com:80", False, True),
        ("http://example.com", "example.com", True, False),
        ("http://example.com:8000", "example.com:8000", False, True),
        ("https://example.com", "example.com:80", True, False),
        ("https://example.com:8443", "example.com", True, False),
        ("https://evil.com", "example.com", True, False),
        ("http://[::1]:8000", "[::1]:8000", False, True),
        ("null", "example.com", False, False),
        ("http://", "", False, False),
    ],
)
def test_without_a_list_the_page_is_of_the_requests_own_host(
    origin: str, host: str, secure: bool, allowed: bool
) -> None:
    assert origin_allowed(origin, host, (), secure=secure) is allowed


@given(st.from_regex(r"\A[a-z]{1,5}(\.[a-z]{1,5}){0,3}(:[0-9]{1,4})?\Z"), st.text(alphabet=".:/@#?[]*-a1", max_size=8))
def test_no_wildcard_reaches_beyond_the_domain_that_follows_it(host: str, more: str) -> None:
    origin = f"https://{host}{more}"
    if origin_allowed(origin, "", ("https://*.example.com:*",)):
        assert host.partition(":")[0].endswith(".example.com") or more.partition(":")[0].endswith(".example.com")


@pytest.mark.parametrize(
    ("origin", "host", "may"),
    [
        ("http://localhost:5173", "localhost:8000", True),
        ("http://127.0.0.1:3000", "localhost:8000", True),
        ("http://[::1]:3000", "localhost:8000", True),
        ("http://app.localhost:3000", "localhost:8000", True),
        ("http://192.168.1.5:8000", "192.168.1.5:8000", True),
        ("http://mymac.local:8000", "mymac.local:8000", True),
        ("https://evil.example", "localhost:8000", False),
        ("null", "localhost:8000", False),
        # A name whose owner let it point to this machine.
        ("http://evil.example:8000", "evil.example:8000", False),
        ("http://192.168.1.6:8000", "192.168.1.5:8000", False),
        ("http://localhost.evil.example", "localhost:8000", False),
        ("http://localhost:5173/path", "localhost:8000", False),
    ],
)
def test_in_developer_mode_pages_of_this_machine_may_connect_and_foreign_ones_not(
    origin: str, host: str, may: bool
) -> None:
    assert developer_origin_allowed(origin, host) is may
