"""A network namespace at the end of a cable that can be cut: its hosts vanish without FIN, RST or acknowledgement."""

import ipaddress
import json
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import pytest

# Set aside for tests between hosts (RFC 2544). Documentation's addresses are real ones on some virtual machines.
NETWORKS = ipaddress.IPv4Network("198.18.0.0/15")


@dataclass(frozen=True)
class Cable:
    """A link between this machine and a namespace; `near` and `far` are the addresses of its ends."""

    namespace: str
    device: str
    near: str
    far: str

    def cut(self) -> None:
        """Let nothing through any more, in either direction."""
        _run("ip", "link", "set", self.device, "down")


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, timeout=20, text=True).stdout


def _unused_network() -> ipaddress.IPv4Network:
    """A network of two hosts that this machine has no route into, but for its default one."""
    reported = [route["dst"] for route in json.loads(_run("ip", "-j", "-4", "route", "show", "table", "all"))]
    routes = [ipaddress.IPv4Network(destination) for destination in reported if destination != "default"]
    for network in NETWORKS.subnets(new_prefix=30):
        if not any(network.overlaps(route) for route in routes):
            return network
    pytest.skip(f"every network of {NETWORKS} is in use here")


@contextmanager
def laid_cable() -> Iterator[Cable]:
    """A cable to a namespace of its own; the test is skipped where there can be none."""
    namespace = f"starling-{secrets.token_hex(3)}"
    try:
        _run("ip", "netns", "add", namespace)
        cable = _laid(namespace)
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        with suppress(FileNotFoundError, subprocess.CalledProcessError):
            _run("ip", "netns", "delete", namespace)
        pytest.skip(f"network namespaces cannot be made here: {error}")
    try:
        yield cable
    finally:
        _run("ip", "netns", "delete", namespace)


def second_cable(first: Cable) -> Cable:
    """Another cable to the namespace of `first`, which ends with that."""
    return _laid(first.namespace)


def _laid(namespace: str) -> Cable:
    near, far = map(str, _unused_network().hosts())
    name = secrets.token_hex(3)
    cable, far_device = Cable(namespace, f"st-{name}", near, far), f"far-{name}"
    _run("ip", "link", "add", cable.device, "type", "veth", "peer", "name", far_device, "netns", namespace)
    _run("ip", "address", "add", f"{near}/30", "dev", cable.device)
    _run("ip", "link", "set", cable.device, "up")
    _run("ip", "-n", namespace, "address", "add", f"{far}/30", "dev", far_device)
    _run("ip", "-n", namespace, "link", "set", far_device, "up")
    return cable
