"""Addresses of peers: IPv4 in whatever form it comes, and nothing else changed."""

from ipaddress import IPv4Network, ip_address, ip_network

import pytest

from starling.engine.peer_address import trusted_networks, unmap_forwarded, unmapped, unmapped_network


@pytest.mark.parametrize(
    ("address", "form"),
    [
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("::FFFF:c000:207", "192.0.2.7"),
        ("0:0:0:0:0:ffff:192.0.2.7", "192.0.2.7"),
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8::ffff:1", "2001:db8::ffff:1"),
        ("ffff:no address", "ffff:no address"),
        ("", ""),
    ],
)
def test_a_mapped_address_is_that_of_ipv4(address: str, form: str) -> None:
    assert unmapped(address) == form


@pytest.mark.parametrize(
    ("value", "form"),
    [
        (b"::ffff:192.0.2.7", b"192.0.2.7"),
        (b"[::ffff:192.0.2.7]:4711, 10.0.0.1", b"192.0.2.7:4711, 10.0.0.1"),
        (b"[::ffff:192.0.2.7]", b"192.0.2.7"),
        (b"2001:db8::1,  ::ffff:10.0.0.1", b"2001:db8::1,  10.0.0.1"),
        (b"2001:db8::ffff:1", b"2001:db8::ffff:1"),
        (b"_hidden, ffff:\xe9", b"_hidden, ffff:\xe9"),
        (b"10.0.0.1", b"10.0.0.1"),
    ],
)
def test_what_proxies_report_gets_the_form_of_a_peer(value: bytes, form: bytes) -> None:
    headers = [(b"host", b"::ffff:192.0.2.7"), (b"x-forwarded-for", value)]
    unmap_forwarded(headers)

    assert headers == [(b"host", b"::ffff:192.0.2.7"), (b"x-forwarded-for", form)]


@pytest.mark.parametrize(
    ("network", "form"),
    [
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("::ffff:0:0/95", "::ffff:0:0/95"),
        ("2001:db8::/32", "2001:db8::/32"),
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("no/network", "no/network"),
    ],
)
def test_a_network_of_mapped_addresses_is_one_of_ipv4(network: str, form: str) -> None:
    assert unmapped_network(network) == form


def test_a_star_trusts_every_address_and_a_name_none() -> None:
    assert trusted_networks(["unix", "10.0.0.1/8"]) == (IPv4Network("10.0.0.0/8"),)
    everywhere = trusted_networks(["*"])
    assert everywhere == (ip_network("0.0.0.0/0"), ip_network("::/0"))
    assert any(ip_address("2001:db8::1") in network for network in everywhere if network.version == 6)
