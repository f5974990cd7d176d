"""nginx, HAProxy and Envoy with the configurations of `deploy/`, with TLS, in front of a Starling on this machine."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.nginx import write_nginx_configuration
from tests.support.running import Starling
from tests.support.waiting import DEADLINE, await_listener

DEPLOY = Path(__file__).parents[2] / "deploy"
# After this time the proxies cut what is silent, and give up clients that read nothing. Seconds.
PROXY_TIMEOUT = 4
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, kw_only=True)
class Front:
    """Where a proxy listens, at `host`, and which Starling it reaches at `upstream`; its files are in `directory`.

    `changes` are made in the configuration, by what stands in it.
    """

    starling: Starling
    certificates: Path
    directory: Path
    port: int
    host: str = LOOPBACK
    upstream: str = LOOPBACK
    changes: Mapping[str, str]


ProxyStart = Callable[[Front], list[str]]


def make_certificates(directory: Path) -> Path:
    """Run the script of the example deployment in `directory`; returns where its certificates are."""
    (directory / "deploy").mkdir()
    (directory / "tools" / "setup").mkdir(parents=True)
    script = shutil.copy(DEPLOY.parent / "tools" / "setup" / "compose-secrets.sh", directory / "tools" / "setup")
    subprocess.run([script], check=True, capture_output=True)
    secrets = directory / "deploy" / "secrets"
    (secrets / "tls.pem").write_text((secrets / "tls.crt").read_text() + (secrets / "tls.key").read_text())
    return secrets


def _changed(text: str, changes: Mapping[str, str]) -> str:
    """The example with this machine's addresses, each of which must stand in it."""
    for old, new in changes.items():
        assert old in text, f"{old!r} is not in the example"
        text = text.replace(old, new)
    return text


def start_nginx(front: Front) -> list[str]:
    """Write the configuration of nginx; returns the command that runs it."""
    starling, certificates, directory = front.starling, front.certificates, front.directory
    server = _changed(
        (DEPLOY / "nginx" / "starling.conf").read_text(),
        {
            "listen 443 ssl": f"listen {front.host}:{front.port} ssl",
            "server starling-1:8000 ": f"server {front.upstream}:{starling.port} ",
            "server starling-2:8000 ": f"server 127.0.0.2:{starling.port} down ",
            "/etc/nginx/certs": str(certificates),
            **front.changes,
        },
    )
    return write_nginx_configuration(directory, server)


def start_haproxy(front: Front) -> list[str]:
    """Write the configuration of HAProxy; returns the command that runs it."""
    starling, certificates, directory = front.starling, front.certificates, front.directory
    text = _changed(
        (DEPLOY / "haproxy" / "haproxy.cfg").read_text(),
        {
            "bind :443": f"bind {front.host}:{front.port}",
            "/etc/haproxy/certs": str(certificates),
            "starling-1:8000 check port 9090": f"{front.upstream}:{starling.port} check port {starling.internal_port}",
            "server starling-2 starling-2:8000 check port 9090 inter 2s fall 2 rise 1\n": "",
            "inter 2s": "inter 200ms",
            "maxconn 20000": "maxconn 1000",
            **front.changes,
        },
    )
    (directory / "haproxy.cfg").write_text(text + "\n")
    return ["haproxy", "-db", "-f", str(directory / "haproxy.cfg")]


def start_envoy(front: Front) -> list[str]:
    """Write the configuration of Envoy; returns the command that runs it."""
    starling, certificates, directory = front.starling, front.certificates, front.directory
    text = _changed(
        (DEPLOY / "envoy" / "envoy.yaml").read_text(),
        {
            "{address: 0.0.0.0, port_value: 443}": f"{{address: {front.host}, port_value: {front.port}}}",
            "/etc/envoy/certs": str(certificates),
            "{address: starling-1, port_value: 8000}": f"{{address: {front.upstream}, port_value: {starling.port}}}",
            "{address: starling-2, port_value: 8000}": f"{{address: {front.upstream}, port_value: {starling.port}}}",
            "port_value: 9090": f"port_value: {starling.internal_port}",
            "interval: 2s": "interval: 0.2s",
            **front.changes,
        },
    )
    (directory / "envoy.yaml").write_text(text)
    envoy = str(Path(sys.executable).with_name("envoy"))
    return [envoy, "-c", str(directory / "envoy.yaml"), "--concurrency", "1", "--use-dynamic-base-id", "-l", "warning"]


PROXIES: Mapping[str, ProxyStart] = {"nginx": start_nginx, "haproxy": start_haproxy, "envoy": start_envoy}
# What is silent is cut after PROXY_TIMEOUT.
LOWERED: Mapping[str, Mapping[str, str]] = {
    "nginx": {f"timeout {each}s": f"timeout {PROXY_TIMEOUT}s" for each in (60, 30)},
    "haproxy": {f"{each}s": f"{PROXY_TIMEOUT}s" for each in (60, 30)},
    "envoy": {"30s": f"{PROXY_TIMEOUT}s"},
}


@contextmanager
def running_proxy(name: str, front: Front, *, before: Sequence[str] = ()) -> Iterator[None]:
    """One of PROXIES while the context lasts; `before`: the command that runs its command."""
    if name != "envoy" and shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    log = (front.directory / "output").open("wb")
    process = subprocess.Popen(
        [*before, *PROXIES[name](front)], stdout=log, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        await_listener(front.host, front.port, process, front.directory / "output")
        yield
    finally:
        process.terminate()
        process.wait(DEADLINE)
        log.close()
