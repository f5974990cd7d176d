"""nginx with the configuration of `deploy/`, without TLS, in front of pods on this machine."""

import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.services import free_port
from tests.support.waiting import DEADLINE, await_listener

CONFIGURATION = Path(__file__).parents[2] / "deploy" / "nginx" / "starling.conf"


def write_nginx_configuration(directory: Path, servers: str) -> list[str]:
    """Write a configuration around `servers`, whose files are all in `directory`; returns the command that runs it."""
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"{kind}_temp_path {directory}/{kind};\n" for kind in kinds)
    (directory / "nginx.conf").write_text(
        f"daemon off; worker_processes 1; pid {directory}/pid; error_log {directory}/error.log;\n"
        f"events {{ worker_connections 1024; }}\nhttp {{ access_log off; {temporary} {servers} }}\n"
    )
    return ["nginx", "-p", str(directory), "-c", str(directory / "nginx.conf"), "-e", str(directory / "error.log")]


@contextmanager
def nginx_before(ports: Sequence[int], directory: Path, *, before: str = "") -> Iterator[int]:
    """The port of an nginx that passes requests on to those of `ports`; its files are in `directory`.

    `before`: what the configuration has before its `location /`.
    """
    if shutil.which("nginx") is None:
        pytest.skip("nginx is not installed; on Debian: apt-get install nginx-light")
    port = free_port()
    text = CONFIGURATION.read_text()
    servers = "\n".join(f"    server 127.0.0.1:{each} max_fails=0;" for each in ports)
    text, replaced = re.subn(r"(    server starling-\d:8000 max_fails=0;\n)+", servers + "\n", text)
    assert replaced == 1
    text, replaced = re.subn(r"listen 443 ssl http2\b.*;", f"listen 127.0.0.1:{port};", text)
    assert replaced == 1
    text = re.sub(r"    ssl_certificate.*\n", "", text)
    assert "    location / {" in text
    text = text.replace("    location / {", f"    {before}\n    location / {{")
    command = write_nginx_configuration(directory, text)
    process = subprocess.Popen(command, start_new_session=True)
    try:
        await_listener("127.0.0.1", port, process, directory / "error.log")
        yield port
    finally:
        process.terminate()
        process.wait(DEADLINE)
