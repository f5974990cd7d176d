"""The load generator, a C program of this directory: compiled, started on a core, and given its instructions."""

import json
import shutil
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests.support.waiting import DEADLINE

HERE = Path(__file__).parent
SOURCES = sorted((HERE / "generator").glob("*.c"))
COMPILE = ("gcc", "-O2", "-Wall", "-Wextra", "-std=gnu11")
COMPILE_SECONDS = 60


class LoadFailedError(Exception):
    """The generator could not do what it got; the message is its own."""


@dataclass(frozen=True, slots=True)
class Target:
    """What the generator connects to, and how it speaks to it.

    `*` stands for the client's number in `path` and `channel`. `dialect` is plain, realtime or socketio. `tokens` is a
    file with one token a line, given in the handshake's `Authorization`, or in the connect command. With `one_frame` a
    client sends the connect and the subscribe command in one frame, as SDK clients do that reconnect.
    """

    port: int
    dialect: str = "plain"
    path: str = "/"
    channel: str = ""
    tokens: Path | None = None
    token_in_connect: bool = False
    one_frame: bool = False
    deflate: bool = False
    publisher: bool = True

    def options(self) -> list[str]:
        """The generator's command line."""
        options = [f"port={self.port}", f"dialect={self.dialect}", f"path={self.path}", f"channel={self.channel}"]
        options += [f"deflate={self.deflate:d}", f"publisher={self.publisher:d}", f"one_frame={self.one_frame:d}"]
        if self.tokens is not None:
            options += [f"tokens={self.tokens}", f"token_in={'connect' if self.token_in_connect else 'handshake'}"]
        return options


@dataclass(frozen=True, slots=True)
class Window:
    """A measured stretch of a load: what it delivered, and the generator's and the server's CPU time in it.

    Seconds throughout; latencies in milliseconds, 0 where none were measured.
    """

    seconds: float
    deliveries: int
    messages: int
    generator_seconds: float
    server_seconds: float
    p50: float = 0.0
    p99: float = 0.0

    @property
    def per_cpu_second(self) -> float:
        """Deliveries for a second of the server's CPU time."""
        return self.deliveries / self.server_seconds if self.server_seconds > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Integrity:
    """What went wrong with what was delivered; all 0 where nothing did."""

    lost: int = 0
    duplicated: int = 0
    out_of_order: int = 0
    corrupted: int = 0
    refused: int = 0
    disconnected: int = 0
    trouble: str = ""

    @property
    def whole(self) -> bool:
        """Whether every client got everything once, in order, as it was sent."""
        return not any(getattr(self, name) for name in self.__slots__)

    def __add__(self, other: "Integrity") -> "Integrity":
        return Integrity(
            self.lost + other.lost,
            self.duplicated + other.duplicated,
            self.out_of_order + other.out_of_order,
            self.corrupted + other.corrupted,
            self.refused + other.refused,
            self.disconnected + other.disconnected,
            self.trouble or other.trouble,
        )

    @classmethod
    def of(cls, result: dict[str, Any]) -> Self:
        """Of the generator's result."""
        return cls(*(result[name] for name in cls.__slots__))


def compile_program(sources: Sequence[Path], into: Path, libraries: Sequence[str] = ()) -> Path:
    """Compile C sources, unless `into` is newer than all of them. Raises LoadFailedError with the compiler's words."""
    headers = [header for source in sources for header in source.parent.glob("*.h")]
    newest = max(path.stat().st_mtime for path in (*sources, *headers))
    if into.exists() and into.stat().st_mtime > newest:
        return into
    into.parent.mkdir(parents=True, exist_ok=True)
    command = [*COMPILE, "-o", str(into), *map(str, sources), *libraries]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=COMPILE_SECONDS)
    if done.returncode != 0:
        raise LoadFailedError(done.stderr)
    return into


def compiler_missing() -> str | None:
    """What is missing to compile the generator, or None."""
    if shutil.which("gcc") is None:
        return "gcc is not installed; on Debian: apt-get install gcc libc6-dev zlib1g-dev"
    if not Path("/usr/include/zlib.h").exists():
        return "zlib's header is not installed; on Debian: apt-get install zlib1g-dev"
    return None


class LoadGenerator:
    """A running generator; each method returns when it has done its part. Ends with the context."""

    def __init__(
        self, program: Path, target: Target, clients: int, server_seconds: Callable[[], float] = lambda: 0.0
    ) -> None:
        """`clients` is the most there will be; `server_seconds` reports the CPU time of the server so far."""
        self._command = [str(program), *target.options(), f"clients={clients}"]
        self._server_seconds = server_seconds
        self._process: subprocess.Popen[str]
        self.integrity = Integrity()

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, start_new_session=True
        )
        return self

    def __exit__(self, *_exc: object) -> None:
        self._process.kill()
        self._process.wait(DEADLINE)
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()

    # What it can do: see the beginning of generator/main.c

    def open(self, total: int, concurrency: int = 64) -> Window:
        """Open clients until there are `total`; `deliveries` of the window are the new ones."""
        return self._measure_whole(f"open {total} {concurrency}", total)

    def probe(self, size: int = 128) -> None:
        """Publish until every client has got one message."""
        self._send(f"probe {size}")
        self._await("result")

    def fan_out(self, size: int, *, in_flight: int = 2, batch: int = 0, warm: float = 0.3, seconds: float) -> Window:
        """Keep `in_flight` messages under way to everybody; or send `batch` at once when the last ones have come."""
        return self._require(self._measure(f"fanout {size} {in_flight} {batch} {warm} {seconds}"))

    def rate(self, size: int, per_second: float, *, warm: float = 0.5, seconds: float) -> Window:
        """Publish at an even rate, whatever returns; the window has latencies."""
        return self._measure(f"rate {size} {per_second} {warm} {seconds}")

    def own(self, size: int, *, in_flight: int, warm: float = 0.3, seconds: float) -> Window:
        """Let each client send what it alone gets back, `in_flight` in all at a time."""
        return self._require(self._measure(f"own {size} {in_flight} {warm} {seconds}"))

    def mute(self, count: int) -> None:
        """Let the first `count` clients read no more."""
        self._send(f"mute {count}")
        self._await("result")

    def drop(self, keep: int) -> None:
        """Cut all clients but the first `keep`."""
        self._send(f"drop {keep}")
        self._await("result")

    def publish(self, size: int, count: int, in_flight: int = 8) -> None:
        """Publish `count` messages to all clients."""
        self._send(f"publish {size} {count} {in_flight}")
        self._note(self._await("result"), only_trouble=True)

    def reconnect(self, size: int, per_second: float, concurrency: int) -> tuple[Window, int]:
        """Let those that were dropped return and ask for what they missed, while more is published.

        With `per_second` 0 nothing more is published. Returns the window until the last was back with all that it had
        missed, and how many were not given what they had missed.
        """
        before = self._server_seconds()
        self._send(f"return {concurrency} {size} {per_second}")
        result = self._await("result")
        self._note(result)
        return _window(result, {}, self._server_seconds() - before), int(result["unrecovered"])

    # The forms of its notification

    def _measure_whole(self, command: str, count: int) -> Window:
        before = self._server_seconds()
        self._send(command)
        result = self._await("result")
        self._note(result)
        return _window({**result, "deliveries": count}, {}, self._server_seconds() - before)

    def _measure(self, command: str) -> Window:
        self._send(command)
        begin = self._await("begin")
        before = self._server_seconds()
        end = self._await("end")
        used = self._server_seconds() - before
        result = self._await("result")
        self._note(result)
        latencies = {name: result[name] for name in ("p50_us", "p99_us")}
        return _window({**end, **latencies}, begin, used)

    def _require(self, window: Window) -> Window:
        if window.deliveries == 0:
            raise LoadFailedError(f"nothing was delivered in {window.seconds:.1f} s; is the machine busy?")
        return window

    def _note(self, result: dict[str, Any], *, only_trouble: bool = False) -> None:
        # Anyone who was cut before a publication misses it on purpose.
        self.integrity += Integrity.of({**result, "lost": 0} if only_trouble else result)

    def _send(self, command: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(command + "\n")
        except BrokenPipeError:
            raise LoadFailedError("the load generator has ended") from None

    def _await(self, event: str) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        reported: dict[str, Any] = json.loads(line) if line else {"event": "ended", "trouble": "the generator ended"}
        if reported["event"] != event:
            raise LoadFailedError(reported.get("trouble") or f"{reported['event']} came instead of {event}")
        return reported


def _window(end: dict[str, Any], begin: dict[str, Any], server_seconds: float) -> Window:
    return Window(
        seconds=end["seconds"] - begin.get("seconds", 0.0),
        deliveries=end["deliveries"] - begin.get("deliveries", 0),
        messages=end["messages"] - begin.get("messages", 0),
        generator_seconds=end["cpu_seconds"] - begin.get("cpu_seconds", 0.0),
        server_seconds=server_seconds,
        p50=end.get("p50_us", 0) / 1000,
        p99=end.get("p99_us", 0) / 1000,
    )
