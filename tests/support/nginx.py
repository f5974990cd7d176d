"""nginx with the configuration of `deploy/`, without TLS, in front of pods on this machine."""

import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.services import free_port
from tests.support.waiting import DEADLINE

CONFIGURATION = Path(__file__).parents[2] / "deploy" / "nginx" / "starling.conf"


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
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"{kind}_temp_path {directory}/{kind};\n" for kind in kinds)
    (directory / "nginx.conf").write_text(
        f"daemon off; worker_processes 1; pid {directory}/pid; error_log {directory}/error.log;\n"
        f"events {{ worker_connections 1024; }}\nhttp {{ access_log off; {temporary} {text} }}\n"
    )
    command = ["nginx", "-p", str(directory), "-c", str(directory / "nginx.conf"), "-e", str(directory / "error.log")]
    process = subprocess.Popen(command, start_new_session=True)
    try:
        deadline = time.monotonic() + DEADLINE
        while not _listens(port):
            assert process.poll() is None, (directory / "error.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(DEADLINE)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
