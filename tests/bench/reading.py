"""What a client's reads cost a worker for each byte that the client sends: `python -m tests.bench.reading`.

One worker over a real Redis: `presence` of 600 members and `history` of 100 publications of 1 KB, each where nothing
has changed since the read before, and where something has. The CPU time is of all threads of the worker.
"""

import json
import statistics
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.request import Request, urlopen

from rich.console import Console
from websockets.sync.client import ClientConnection, connect

from starling.auth.issue import issue_connection_token
from tests.bench.process import cpu_seconds
from tests.support.running import Starling
from tests.support.services import RedisServer

MEMBERS = 600
PUBLICATIONS = 100
READS = 20
ROUNDS = 3
WANTED = 20.0
KEY = "a key of the benchmark's own"
SECRET = "a secret of the benchmark's own, long enough"
CHANNELS_FILE = """
namespaces:
  room: {allow_subscribe_for_client: true, presence: true, allow_presence_for_client: true}
  kept: {allow_subscribe_for_client: true, history_size: 100, history_ttl: 600s, allow_history_for_client: true}
"""
PRESENCE = {"id": 9, "presence": {"channel": "room:all"}}
HISTORY = {"id": 9, "history": {"channel": "kept:news", "limit": PUBLICATIONS}}


class Api:
    """The server API of the service that is measured."""

    def __init__(self, port: int) -> None:
        self._address = f"http://127.0.0.1:{port}/api"

    def call(self, method: str, body: object) -> None:
        """Call a method. Raises urllib.error.HTTPError where it is refused."""
        headers = {"X-API-Key": KEY, "Content-Type": "application/json"}
        with urlopen(Request(f"{self._address}/{method}", json.dumps(body).encode(), headers)) as response:
            answer = json.load(response)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")

    def member(self, number: int, name: str) -> None:
        """Show a member in the channel."""
        info = {"name": name}
        self.call("presence_set", {"channel": "room:all", "user": f"user{number}", "info": info, "ttl": 3600})

    def publish(self, text: str) -> None:
        """Publish 1 KB."""
        self.call("publish", {"channel": "kept:news", "data": text.ljust(1000, "x")})


def read(client: ClientConnection, command: object, field: str, expected: int) -> None:
    """Send a command, and wait for an answer that holds as many as expected."""
    client.send(json.dumps(command, separators=(",", ":")))
    while True:
        for line in str(client.recv()).split("\n"):
            reply = json.loads(line)
            if reply.get("id") == 9:
                (result,) = (value for name, value in reply.items() if name != "id")
                if len(result[field]) != expected:
                    raise RuntimeError(f"an answer of {len(result[field])} {field}")
                return


def cost(worker: int, reading: Callable[[], None], change: Callable[[], None] | None) -> float:
    """CPU seconds of a read."""
    spent = 0.0
    for _ in range(READS):
        if change is not None:
            change()
        before = cpu_seconds(worker)
        reading()
        spent += cpu_seconds(worker) - before
    return spent / READS


def main() -> None:
    """Print the CPU time of each read and what that is for each byte of its command."""
    console = Console(highlight=False, soft_wrap=True)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(TemporaryDirectory()))
        channels = directory / "channels.yaml"
        channels.write_text(CHANNELS_FILE)
        settings = {
            "STARLING_BROKER_URL": stack.enter_context(RedisServer()).url,
            "STARLING_WORKERS": "1",
            "STARLING_CHANNELS_FILE": str(channels),
            "STARLING_API_KEYS": KEY,
            "STARLING_TOKEN_HMAC_SECRET": SECRET,
        }
        service = stack.enter_context(Starling(settings))
        (worker,) = service.workers
        api = Api(service.port)
        for number in range(MEMBERS):
            api.member(number, f"User number {number}")
        for number in range(PUBLICATIONS):
            api.publish(str(number))
        client = stack.enter_context(connect(f"{service.url}/connection/websocket", max_size=None))
        client.send(json.dumps({"id": 1, "connect": {"token": issue_connection_token(SECRET, "reader", 3600)}}))
        client.recv()
        serial = count()
        cases = {
            "presence": (PRESENCE, "presence", MEMBERS, None),
            "presence, changed": (PRESENCE, "presence", MEMBERS, lambda: api.member(0, f"User {next(serial)}")),
            "history": (HISTORY, "publications", PUBLICATIONS, None),
            "history, changed": (HISTORY, "publications", PUBLICATIONS, lambda: api.publish(f"{next(serial)}")),
        }
        found: dict[str, list[float]] = {}
        for _ in range(ROUNDS):
            for name, (command, field, expected, change) in cases.items():
                reading = partial(read, client, command, field, expected)
                found.setdefault(name, []).append(cost(worker, reading, change))
        for name, seconds in found.items():
            micros = statistics.median(seconds) * 1e6
            size = len(json.dumps(cases[name][0], separators=(",", ":")))
            verdict = "reached" if micros / size <= WANTED else "not reached"
            console.print(
                f"{name}: {micros:.0f} µs of CPU, {micros / size:.1f} a byte sent, wanted {WANTED:.0f}: {verdict}"
            )


if __name__ == "__main__":
    main()
