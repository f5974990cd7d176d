"""The servers that are measured side by side: how each is started, and how its clients speak to it."""

import json
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from starling.auth.issue import issue_connection_token
from tests.bench.load_generator import LoadGenerator, Target
from tests.bench.process import Cores, ServerProcess
from tests.bench.workshop import PEERS, ROOT, Workshop, search_path
from tests.support.services import free_port

CHANNELS = """
default:
  allow_subscribe_for_client: true
  allow_publish_for_client: true
namespaces:
  history:
    allow_subscribe_for_client: true
    allow_publish_for_client: true
    history_size: 1000
    history_ttl: 300s
    force_recovery: true
"""
# More clients than in any scenario, and the one that publishes.
TOKENS = 15_002
TOKEN_SECONDS = 4 * 3600
REST_SECONDS = 30.0
REST_STEP = 0.2


@dataclass(frozen=True, slots=True)
class Room:
    """What every start needs: the programs, a directory for files and logs, the CPUs, the tokens."""

    workshop: Workshop
    directory: Path
    cores: Cores
    secret: str
    tokens: Path

    @classmethod
    def make(cls, workshop: Workshop, directory: Path, cores: Cores, secret: str, clients: int = TOKENS) -> "Room":
        """Write the tokens, a different one for each of `clients`, and the channels' options."""
        tokens = directory / "tokens"
        tokens.write_text(
            "".join(issue_connection_token(secret, f"user-{n}", TOKEN_SECONDS) + "\n" for n in range(clients))
        )
        (directory / "channels.yaml").write_text(CHANNELS)
        return cls(workshop, directory, cores, secret, tokens)


@dataclass(slots=True)
class Running:
    """A started server with what it is measured by."""

    process: ServerProcess
    target: Target
    store: ServerProcess | None
    room: Room

    def load(self, clients: int) -> LoadGenerator:
        """A generator for it; `clients` is the most there will be."""
        return LoadGenerator(self.room.workshop.generator, self.target, clients, self.process.cpu_seconds)

    def await_rest(self) -> None:
        """Return when the server has dealt with what clients did before: it uses a tenth of its core at most.

        Raises RuntimeError if it is busy for longer than REST_SECONDS.
        """
        deadline = time.monotonic() + REST_SECONDS
        before = self.process.cpu_seconds()
        while True:
            time.sleep(REST_STEP)
            used = self.process.cpu_seconds() - before
            if used < REST_STEP / 10:
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"the server is busy for {REST_SECONDS:g} s after its clients have left")
            before += used

    def store_seconds(self) -> float:
        """CPU time of the store so far; 0 without one."""
        return self.store.cpu_seconds() if self.store else 0.0


Start = Callable[[Room, int, ServerProcess | None], ServerProcess]


@dataclass(frozen=True, slots=True)
class Server:
    """One that is measured. `start` gets the room, a free port, and a Redis if `redis` is set."""

    name: str
    title: str
    start: Start
    target: Mapping[str, object] = field(default_factory=dict)
    redis: bool = False
    tokens: bool = False
    needs: str = ""
    """The part of the workshop without which it cannot run."""

    @contextmanager
    def run(self, room: Room, **target: object) -> Iterator[Running]:
        """Run it, with a Redis of its own where it has one; `target` differs from how its clients usually speak."""
        with ExitStack() as stack:
            store = stack.enter_context(start_redis(room)) if self.redis else None
            port = free_port()
            process = stack.enter_context(self.start(room, port, store))
            options: dict[str, object] = {**self.target, **target}
            if self.tokens:
                options["tokens"] = room.tokens
            yield Running(process, Target(port=port, **options), store, room)  # type: ignore[arg-type]


def start_redis(room: Room) -> ServerProcess:
    """A Redis that keeps nothing on disk."""
    port = free_port()
    options = ("--bind", "127.0.0.1", "--port", str(port), "--save", "", "--dir", str(room.directory))
    return ServerProcess(["redis-server", *options], port, room.directory / f"redis-{port}.log", core=room.cores.store)


def redis_url(store: ServerProcess) -> str:
    """For a client."""
    return f"redis://127.0.0.1:{store.port}/0"


# Starling


def start_starling(
    room: Room,
    port: int,
    store: ServerProcess | None,
    *,
    workers: int = 1,
    records: bool = True,
    compression: bool = False,
    hook: bool = False,
) -> ServerProcess:
    """`starling serve` with tokens required and its settings left as they are, but for the rate of one client, since
    here one publishes for many, and for admission by lag: the generator does not reconnect after a 503, as clients do.
    With `hook` a hook authenticates clients without a token.
    """
    internal_port = free_port()
    environment = {
        "STARLING_HOST": "127.0.0.1",
        "STARLING_INTERNAL_HOST": "127.0.0.1",
        "STARLING_PORT": str(port),
        "STARLING_INTERNAL_PORT": str(internal_port),
        "STARLING_WORKERS": str(workers),
        "STARLING_COMPRESSION": str(compression).lower(),
        "STARLING_BROKER_URL": redis_url(store) if store else "memory://",
        "STARLING_TOKEN_HMAC_SECRET": room.secret,
        "STARLING_CHANNELS_FILE": str(room.directory / "channels.yaml"),
        "STARLING_RUNTIME_DIR": tempfile.mkdtemp(prefix="runtime-", dir=room.directory),
        "STARLING_MAX_LAG_SECONDS": "0",
    }
    if hook:
        environment |= {"STARLING_HOOKS": "tests.bench.authenticating_hook", "STARLING_HOOKS_PATH": str(ROOT)}
    command = [str(Path(sys.executable).with_name("starling")), "serve"]
    if not records:
        command = [sys.executable, "-m", "tests.bench.without_records"]

    def is_ready() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{internal_port}/readyz", timeout=5) as answer:
                return bool(sum(worker["ready"] for worker in json.load(answer)["workers"]) == workers)
        except (urllib.error.URLError, OSError):
            return False

    log = room.directory / f"starling-{port}.log"
    return ServerProcess(
        command, port, log, core=room.cores.server, environment=environment, directory=ROOT, is_ready=is_ready
    )


# Peers


def start_uvicorn(
    room: Room, port: int, store: ServerProcess | None, *, app: str, python: bool = False, deflate: bool = False
) -> ServerProcess:
    """A Python peer, quieter than by default, in its favour; `python`: in the peers' own environment."""
    interpreter = room.workshop.python if python else Path(sys.executable)
    options = ["--host", "127.0.0.1", "--port", str(port), "--backlog", "4096", "--log-level", "warning"]
    if not deflate:
        options += ["--ws-per-message-deflate", "false"]
    environment = {"BROADCAST_URL": redis_url(store) if store else "memory://"}
    return ServerProcess(
        [str(interpreter), "-m", "uvicorn", app, *options],
        port,
        room.directory / f"uvicorn-{port}.log",
        core=room.cores.server,
        environment=environment,
        directory=PEERS,
    )


def start_node(room: Room, port: int, store: ServerProcess | None, *, script: str, mode: str = "") -> ServerProcess:
    """A Node.js peer."""
    command = ["node", script, str(port), *filter(None, (redis_url(store) if store else mode,))]
    log = room.directory / f"node-{port}.log"
    return ServerProcess(command, port, log, core=room.cores.server, directory=room.workshop.node)


def start_nginx(room: Room, port: int, _store: ServerProcess | None) -> ServerProcess:
    """Nginx with nchan."""
    directory = Path(tempfile.mkdtemp(prefix="nginx-", dir=room.directory))
    configuration = (PEERS / "nginx.conf").read_text().replace("@PORT@", str(port))
    (directory / "nginx.conf").write_text(configuration.replace("@DIRECTORY@", str(directory)))
    command = ["nginx", "-c", str(directory / "nginx.conf")]
    environment = {"PATH": search_path()}
    return ServerProcess(command, port, directory / "log", core=room.cores.server, environment=environment)


def start_baseline(room: Room, port: int, _store: ServerProcess | None, *, mode: str) -> ServerProcess:
    """The C program."""
    command = [str(room.workshop.baseline), str(port), mode]
    return ServerProcess(command, port, room.directory / f"baseline-{port}.log", core=room.cores.server)


def start_centrifugo(room: Room, port: int, store: ServerProcess | None) -> ServerProcess:
    """Centrifugo 6 with its memory engine, or over Redis, and the channels of CHANNELS."""
    configuration = room.directory / f"centrifugo-{port}.json"
    allowed = {"allow_subscribe_for_client": True, "allow_publish_for_client": True}
    kept = {"name": "history", "history_size": 1000, "history_ttl": "300s", "force_recovery": True}
    document: dict[str, object] = {
        "client": {"token": {"hmac_secret_key": room.secret}},
        "channel": {"without_namespace": allowed, "namespaces": [{**kept, **allowed}]},
        "http_server": {"address": "127.0.0.1", "port": str(port)},
    }
    if store is not None:
        document["engine"] = {"type": "redis", "redis": {"address": redis_url(store)}}
    configuration.write_text(json.dumps(document))
    command = [str(room.workshop.centrifugo), "--config", str(configuration)]
    environment = {"GOMAXPROCS": "1"}
    log = room.directory / f"centrifugo-{port}.log"
    return ServerProcess(command, port, log, core=room.cores.server, environment=environment)


REALTIME: Mapping[str, object] = {"dialect": "realtime", "path": "/connection/websocket", "channel": "bench"}
SOCKETIO: Mapping[str, object] = {"dialect": "socketio", "path": "/socket.io/?EIO=4&transport=websocket"}
CHAT: Mapping[str, object] = {"path": "/ws/*"}
ROOM: Mapping[str, object] = {"path": "/ws/room"}
ECHO: Mapping[str, object] = {"path": "/ws"}

tutorial = partial(start_uvicorn, app="tutorial:app")
broadcaster = partial(start_uvicorn, app="broadcaster_chat:app", python=True)
python_socketio = partial(start_uvicorn, app="socketio_chat:app", python=True)

SERVERS = {
    server.name: server
    for server in (
        Server("starling", "Starling, client protocol", start_starling, REALTIME, tokens=True),
        Server("starling-chat", "Starling, chat endpoint", start_starling, CHAT, tokens=True),
        Server("starling-redis", "Starling over Redis", start_starling, REALTIME, redis=True, tokens=True),
        Server(
            "starling-redis-2",
            "Starling over Redis, 2 workers",
            partial(start_starling, workers=2),
            REALTIME,
            redis=True,
            tokens=True,
        ),
        Server("starling-echo", "Starling, echo endpoint", start_starling, ECHO, tokens=True),
        Server(
            "starling-deflate",
            "Starling, compression on",
            partial(start_starling, compression=True),
            {**REALTIME, "deflate": True},
            tokens=True,
        ),
        Server("starling-hook", "Starling, a hook authenticates", partial(start_starling, hook=True), REALTIME),
        Server(
            "starling-null",
            "Starling without records",
            partial(start_starling, records=False),
            REALTIME,
            tokens=True,
        ),
        Server("tutorial", "tutorial, compression off", tutorial, CHAT),
        Server(
            "tutorial-deflate",
            "tutorial, uvicorn's default",
            partial(tutorial, deflate=True),
            {**CHAT, "deflate": True},
        ),
        Server("tutorial-echo", "tutorial's echo", tutorial, ECHO),
        Server("broadcaster", "broadcaster idiom, memory", broadcaster, ROOM, needs="python"),
        Server("broadcaster-redis", "broadcaster idiom, Redis", broadcaster, ROOM, redis=True, needs="python"),
        Server("python-socketio", "python-socketio", python_socketio, SOCKETIO, needs="python"),
        Server("ws", "Node ws", partial(start_node, script="ws.js"), needs="node"),
        Server("ws-echo", "Node ws, echo", partial(start_node, script="ws.js", mode="echo"), needs="node"),
        Server("socketio", "Socket.IO", partial(start_node, script="socketio.js"), SOCKETIO, needs="node"),
        Server(
            "socketio-redis",
            "Socket.IO, Redis adapter",
            partial(start_node, script="socketio.js"),
            SOCKETIO,
            redis=True,
            needs="node",
        ),
        Server("nchan", "nginx + nchan", start_nginx, {"path": "/channel?id=bench"}, needs="nchan"),
        Server(
            "centrifugo",
            "Centrifugo",
            start_centrifugo,
            {**REALTIME, "token_in_connect": True},
            tokens=True,
            needs="centrifugo",
        ),
        Server(
            "centrifugo-redis",
            "Centrifugo over Redis",
            start_centrifugo,
            {**REALTIME, "token_in_connect": True},
            redis=True,
            tokens=True,
            needs="centrifugo",
        ),
        Server("c-single", "C, one send() a message", partial(start_baseline, mode="single")),
        Server("c-joined", "C, joined", partial(start_baseline, mode="joined")),
        Server("c-echo", "C, echo", partial(start_baseline, mode="echo")),
    )
}
