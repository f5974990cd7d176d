"""The container image, built from this tree and run as a restricted pod would run it."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.utils import canonicalize_name
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from starling import __version__
from starling.cli.live import ANSWERED
from tests.chart.rendering import channels_file, environment_of, render_exactly
from tests.support.containers import ABOUT, IMAGES, OWNER, ROOT, Container, ContainersUnavailableError, Podman
from tests.support.running import Starling
from tests.support.waiting import DEADLINE

# The first test of a machine makes the base image, the first of a run builds the image.
pytestmark = pytest.mark.timeout(600)

DEVELOPER_MODE = {"STARLING_DEV": "true", "STARLING_LOG_FORMAT": "json", "STARLING_DRAIN_DELAY_SECONDS": "0"}


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Podman:
    """Podman with a base image, or a skip that says what is missing."""
    try:
        podman = Podman(tmp_path_factory.mktemp("podman"))
        podman.ensure_base()
    except ContainersUnavailableError as unavailable:
        pytest.skip(f"no container can run here: {unavailable}")
    return podman


@pytest.fixture(scope="module")
def image(podman: Podman) -> Iterator[str]:
    """The image's name."""
    yield podman.build(version=__version__, revision="0123abcd")
    podman.remove_image()


@pytest.fixture(scope="module")
def container(podman: Podman, image: str) -> Iterator[Container]:
    """One container in developer mode, shared by the tests that do not stop it."""
    with Container(podman, image, DEVELOPER_MODE) as container:
        yield container


def test_the_image_says_what_it_is_and_how_to_run_it(podman: Podman, image: str) -> None:
    description = podman.inspect(image)
    configuration = description["Config"]
    labels = {name.removeprefix("org.opencontainers.image."): text for name, text in configuration["Labels"].items()}
    assert labels["version"] == __version__
    assert labels["revision"] == "0123abcd"
    assert labels["licenses"] == "Apache-2.0"
    assert labels["title"] == "Starling"
    assert labels["source"] == labels["url"] == ABOUT["PROJECT_URL"]
    assert labels["documentation"].startswith(ABOUT["PROJECT_URL"])
    assert labels["created"] == ABOUT["CREATED"]
    assert labels["base.name"] == podman.ensure_base()
    assert labels["base.digest"] == ABOUT["BASE_DIGEST"]
    assert all(labels.values())
    assert configuration["User"] == "10001:10001"
    assert configuration["StopSignal"] == "SIGTERM"
    assert configuration["Entrypoint"] == ["starling"]
    assert configuration["Cmd"] == ["serve", "--trial"]
    assert set(configuration["ExposedPorts"]) == {"8000/tcp", "9090/tcp"}
    assert description["Healthcheck"]["Test"][0] == "CMD", "a health check in shell form needs a shell"


def test_the_image_adds_less_than_130_mb_to_its_base(podman: Podman, image: str) -> None:
    size = podman.inspect(image)["Size"]
    added = size - podman.inspect(podman.ensure_base())["Size"]
    print(f"image: {size / 1e6:.0f} MB, of which Starling with its environment: {added / 1e6:.0f} MB")
    assert added < 130e6


def test_the_image_holds_the_runtime_lock_and_nothing_of_the_build(container: Container) -> None:
    listed = "import json, importlib.metadata as m; print(json.dumps([d.name for d in m.distributions()]))"
    installed = {canonicalize_name(name) for name in json.loads(container.python(listed))}
    pins = [line.partition("==") for line in (ROOT / "requirements/otel.txt").read_text().splitlines() if "==" in line]
    wanted = {canonicalize_name(name) for name, _, rest in pins if ";" not in rest}
    allowed = {canonicalize_name(name) for name, _, _ in pins}
    assert wanted <= installed <= allowed | {"starling-realtime"}
    left = "import pathlib; print(*pathlib.Path('/').glob('run/secrets/*'), *pathlib.Path('/').glob('src/*'))"
    assert container.python(left) == ""


def test_the_image_has_no_pip_and_no_file_that_changes_its_user(podman: Podman, image: str) -> None:
    listed = (
        "import os, pathlib, stat\n"
        "for top, folders, files in os.walk('/'):\n"
        "    if top in ('/proc', '/sys', '/dev'): folders.clear(); continue\n"
        "    for name in folders + files:\n"
        "        path = pathlib.Path(top, name)\n"
        "        mode = path.lstat().st_mode\n"
        "        if stat.S_ISREG(mode) and mode & 0o6000: print('setuid', path)\n"
        "        if name in ('pip', 'ensurepip') or name.startswith('pip-'): print('pip', path)\n"
    )
    found = podman("run", "--rm", "--user", "0", "--entrypoint", "python", image, "-c", listed)
    assert found == ""


def test_the_service_compiles_nothing_when_it_starts(podman: Podman, image: str) -> None:
    """On a read-only root what has no bytecode is compiled at every start."""
    with Container(podman, image, DEVELOPER_MODE | {"PYTHONVERBOSE": "1"}) as container:
        lines = container.logs.splitlines()
    assert any(line.startswith("# code object from '") for line in lines), "Python tells where its bytecode comes from"
    assert [line for line in lines if line.startswith("# code object from /")] == []


def test_it_runs_as_a_plain_user_without_capabilities_on_a_read_only_root(container: Container) -> None:
    status = container.python("print(open('/proc/1/status').read())")
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["Uid"].split() == ["10001"] * 4
    assert fields["Gid"].split() == ["10001"] * 4
    assert int(fields["CapEff"], 16) == 0
    assert fields["NoNewPrivs"] == "1"
    written = container.podman.run("exec", container.name, "python", "-c", "open('/opt/venv/x', 'w')")
    assert "Read-only file system" in written.stderr


def test_gunicorn_is_the_first_process(container: Container) -> None:
    """Signals of the container runtime go to process 1: a shell there would keep them."""
    assert container.python("print(open('/proc/1/cmdline').read().split(chr(0))[1:3])") == str(
        ["/opt/venv/bin/starling", "serve"]
    )
    assert container.python("print(len(open('/proc/1/task/1/children').read().split()) > 0)") == "True"


async def test_the_echo_endpoint_answers_text_and_binary(container: Container) -> None:
    async with connect(f"{container.url}/ws") as client:
        await client.send("hello")
        assert await client.recv() == "Message text was: hello"
        await client.send(b"\x00\x01")
        assert await client.recv() == b"\x00\x01"


async def test_the_items_endpoint_takes_a_token(container: Container) -> None:
    async with connect(f"{container.url}/items/foo/ws?token=abc&q=3") as client:
        await client.send("hello")
        answers = [await client.recv() for _ in range(3)]
    assert answers == [
        "Session cookie or query token value is: abc",
        "Query parameter q is: 3",
        "Message text was: hello, for item ID: foo",
    ]


async def test_two_clients_chat(container: Container) -> None:
    async with connect(f"{container.url}/ws/1") as one, connect(f"{container.url}/ws/2") as two:
        await one.send("hi")
        assert [await one.recv(), await one.recv()] == ["You wrote: hi", "Client #1 says: hi"]
        assert await two.recv() == "Client #1 says: hi"
        await one.close()
        assert await two.recv() == "Client #1 left the chat"


def test_the_probes_answer_on_both_ports(container: Container) -> None:
    answers = {
        (path, internal): container.status(path, internal=internal)
        for path in ("/livez", "/startupz", "/readyz")
        for internal in (True, False)
    }
    assert set(answers.values()) == {200}, answers
    assert container.status("/metrics") == 200
    assert container.status("/metrics", internal=False) == 404


def test_the_health_check_passes(container: Container) -> None:
    checked = container.podman.run("healthcheck", "run", container.name)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_health_check_asks_the_address_that_the_internal_port_is_on() -> None:
    """The command of the Dockerfile, run here: inside a container no other address could be asked from outside."""
    (line,) = re.findall(r'^    CMD (\["/opt/venv/bin/python".*\])$', (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    starling = Starling({"STARLING_DEV": "true", "STARLING_INTERNAL_HOST": "127.0.0.2"}, wait_ready=False)
    command = [sys.executable, *json.loads(line)[1:]]
    with starling:
        deadline = time.monotonic() + DEADLINE
        while subprocess.run(command, env=starling.environment, capture_output=True, check=False).returncode != 0:
            assert time.monotonic() < deadline, starling.output
            time.sleep(0.2)
        elsewhere = starling.environment | {"STARLING_INTERNAL_HOST": "127.0.0.1"}
        assert subprocess.run(command, env=elsewhere, capture_output=True, check=False).returncode != 0


async def test_the_image_is_extended_with_hooks_as_the_page_says(podman: Podman, image: str, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "hooks.md").read_text()
    (recipe,) = re.findall(r"```dockerfile\n(.*?)```", page, re.DOTALL)
    first, _, rest = recipe.partition("\n")
    assert first == "FROM starling"
    (tmp_path / "Dockerfile").write_text(f"FROM {image}\n{rest}")
    shutil.copy(ROOT / "docs" / "examples" / "hooks_example.py", tmp_path / "my_hooks.py")
    extended = f"{image}-with-hooks"
    podman("build", "--format", "docker", "--layers=false", "--tag", extended, str(tmp_path), timeout=120)
    try:
        with Container(podman, extended, DEVELOPER_MODE) as container:
            async with connect(f"{container.url}/connection/websocket") as client:
                await client.send('{"id": 1, "connect": {}}')
                assert json.loads(await client.recv())["connect"]["data"] == {"greeting": "hello stranger"}
                await client.send('{"id": 2, "rpc": {"method": "add", "data": {"a": 1, "b": 2}}}')
                assert json.loads(await client.recv())["rpc"] == {"data": {"sum": 3}}
    finally:
        podman.run("image", "rm", "--force", extended)


def test_the_pod_of_the_chart_s_defaults_starts_and_its_test_passes(podman: Podman, image: str, tmp_path: Path) -> None:
    """The server's container and that of `helm test`, as the chart renders them and a restricted pod runs them."""
    objects = render_exactly({"channels": {"namespaces": {"news": {"allow_subscribe_for_client": True}}}})
    file = tmp_path / "channels.yaml"
    file.write_text(channels_file(objects))
    file.chmod(0o644)
    options = ["--tmpfs", "/run/starling:rw,noexec,nosuid,size=64m,mode=1777"]
    options += ["--volume", f"{file}:{objects.environment['STARLING_CHANNELS_FILE']}:ro"]
    command, *arguments = objects.container["command"]
    assert command == "starling"
    with Container(podman, image, environment_of(objects), arguments, options) as container:
        (test,) = objects.one("Pod", "starling-round-trip")["spec"]["containers"]
        own_address = ["ws://127.0.0.1:8000" if part.startswith("ws://") else part for part in test["command"]]
        assert ANSWERED in podman("exec", container.name, *own_address)
        assert container.status("/metrics") == 200


def test_a_container_whose_tests_were_killed_is_removed_by_the_next_ones(
    podman: Podman, image: str, tmp_path: Path
) -> None:
    with subprocess.Popen(["true"]) as process:
        pass
    left, kept = (podman("create", "--label", f"{OWNER}={pid}", image) for pid in (process.pid, os.getpid()))
    podman("tag", image, f"{IMAGES}:{process.pid}")

    Podman(tmp_path)

    assert podman.run("container", "exists", left).returncode == 1
    assert podman.run("image", "exists", f"{IMAGES}:{process.pid}").returncode == 1
    assert podman.run("image", "exists", image).returncode == 0
    podman("rm", kept)


async def test_stopping_disconnects_clients_with_1012_and_ends_with_0(podman: Podman, image: str) -> None:
    with Container(podman, image, DEVELOPER_MODE | {"STARLING_DRAIN_SECONDS": "1"}) as container:
        print(f"from `podman run` to ready: {container.seconds_to_ready:.2f} s")
        clients = [await connect(f"{container.url}/ws/{number}") for number in range(3)]
        stopping = asyncio.create_task(asyncio.to_thread(podman, "stop", "--time", "30", container.name))
        codes = [await asyncio.wait_for(_close_code(client), DEADLINE) for client in clients]
        await stopping
        assert codes == [1012, 1012, 1012]
        assert container.exit_code == 0


async def test_a_container_without_any_setting_is_a_trial_that_prints_its_keys_once(podman: Podman, image: str) -> None:
    with Container(podman, image, {}) as container:
        tokens = re.findall(r"^  Token +(\S+)$", container.logs, re.MULTILINE)
        assert len(tokens) == 1
        async with connect(f"{container.url}/connection/websocket") as client:
            await client.send(json.dumps({"id": 1, "connect": {"token": tokens[0]}}))
            assert "demo" in json.loads(await client.recv())["connect"]["subs"]
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"{container.url}/ws")
        assert refused.value.response.status_code == 403, "a trial is not developer mode"


def test_a_container_that_is_given_a_broker_and_no_key_says_what_to_set_and_ends_with_2(
    podman: Podman, image: str
) -> None:
    settings = ("--env", "STARLING_BROKER_URL=redis://redis:6379")
    done = podman.run("run", "--rm", "--read-only", "--tmpfs", "/tmp", *settings, image)
    assert done.returncode == 2
    assert "STARLING_TOKEN_HMAC_SECRET" in done.stderr


async def _close_code(client: Any) -> int | None:
    """Read until the server closes."""
    try:
        while True:
            await client.recv()
    except ConnectionClosed as closed:
        return closed.rcvd.code if closed.rcvd else None
