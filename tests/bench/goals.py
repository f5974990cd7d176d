"""The numbers to reach: what is wanted of Starling next to the others, and whether a run reached it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.bench.results import Results, Series
from tests.bench.scenarios import (
    CONNECTS,
    KIB,
    P99,
    RATE,
    SECONDS,
    Scale,
    fan_out_case,
    one_channel_case,
    own_channels_case,
)


@dataclass(frozen=True, slots=True)
class Goal:
    """One number to reach. `measure` gives None where the run did not measure it."""

    scenario: str
    text: str
    wanted: float
    measure: Callable[[Results], float | None]
    at_least: bool = True
    unit: str = "x"

    def reached(self, measured: float) -> bool:
        """Whether `measured` is enough."""
        return measured >= self.wanted if self.at_least else measured <= self.wanted

    def show(self, value: float) -> str:
        """A value of this goal for a table."""
        return f"{value:.2f}x" if self.unit == "x" else f"{value:.1f} {self.unit}"


def _ratio(over: Series, under: Series) -> Callable[[Results], float | None]:
    return lambda results: results.ratio(over, under)


def _median(series: Series) -> Callable[[Results], float | None]:
    return lambda results: results.median(series)


def goals(scale: Scale) -> Iterator[Goal]:
    """All of them, in the cases that a run of this scale has."""
    yield from _fan_out_goals(scale)
    yield from _burst_goals(scale)
    yield from _redis_goals(scale)
    yield from _connection_goals(scale)
    yield from _latency_goals(scale)
    yield from _storm_goals(scale)
    yield from _record_goals(scale)


def _fan_out_goals(scale: Scale) -> Iterator[Goal]:
    def series(server: str, receivers: int) -> Series:
        return Series("fanout", server, fan_out_case(receivers, 128), RATE)

    next_to = {"tutorial": 2.0, "ws": 1.2, "nchan": 1.0, "c-single": 0.85}
    for receivers in (1_000, 5_000):
        for server, wanted in next_to.items():
            measure = _ratio(series("starling", receivers), series(server, receivers))
            yield Goal("fanout", f"fan-out to {receivers:,} vs {server}", wanted, measure)
    itself = _ratio(series("starling", 5_000), series("starling", 100))
    yield Goal("fanout", "fan-out to 5,000 vs its own to 100", 0.75, itself)


def _burst_goals(scale: Scale) -> Iterator[Goal]:
    case = f"{scale.receivers:,}, 16 in flight"
    for server, wanted in {"c-single": 4.0, "c-joined": 0.55, "ws": 5.0, "nchan": 3.0}.items():
        measure = _ratio(Series("burst", "starling", case, RATE), Series("burst", server, case, RATE))
        yield Goal("burst", f"16 in flight to {scale.receivers:,} vs {server}", wanted, measure)


def _redis_goals(scale: Scale) -> Iterator[Goal]:
    case = fan_out_case(1_000, 128)
    measure = _ratio(Series("fanout", "starling-redis-2", case, RATE), Series("fanout", "starling", case, RATE))
    yield Goal("fanout", "Redis and 2 workers vs memory, 1,000 receivers", 0.9, measure)
    case = f"{scale.channels:,} channels"
    over, under = (Series("channels", server, case, RATE) for server in ("starling-redis", "broadcaster-redis"))
    yield Goal("channels", f"{case} of one subscriber over Redis vs broadcaster", 3.0, _ratio(over, under))


def _connection_goals(scale: Scale) -> Iterator[Goal]:
    case = f"{scale.idle:,} connections"
    for server, text, wanted in (
        ("starling", "authenticated, one subscription", 10.0),
        ("starling-echo", "echo endpoint, handed off", 8.0),
    ):
        measure = _median(Series("memory", server, case, KIB))
        yield Goal("memory", f"idle connection: {text}", wanted, measure, at_least=False, unit="KiB")
    for server, next_to, wanted in (
        ("starling-echo", "tutorial", 1.5),
        ("starling-echo", "tutorial", 2.5),
        ("starling-echo", "ws", 1.0),
        ("starling", "tutorial", 1.5),
    ):
        over, under = (Series("connects", name, case, CONNECTS) for name in (server, next_to))
        endpoint = "echo endpoint" if server == "starling-echo" else "client protocol, subscribed"
        text = f"connects with JWT, {endpoint} vs {next_to} without"
        yield Goal("connects", text, wanted, _ratio(over, under))
    hook, token = (Series("connects", name, case, CONNECTS) for name in ("starling-hook", "starling"))
    yield Goal("connects", "connects with an authenticating hook vs with JWT", 0.8, _ratio(hook, token))


def _latency_goals(scale: Scale) -> Iterator[Goal]:
    case = fan_out_case(scale.receivers, scale.sizes[0])
    over, under = (Series("latency", server, case, P99) for server in ("starling", "ws"))
    text = "p99 at half of the own load vs ws"
    yield Goal("latency", text, 1.2, _ratio(over, under), at_least=False)
    slow, free = (Series("slow", "starling", name, P99) for name in ("one slow reader", "nobody"))
    text = "p99 of others with one slow reader vs without"
    yield Goal("slow", text, 1.2, _ratio(slow, free), at_least=False)


def _storm_goals(scale: Scale) -> Iterator[Goal]:
    for case in (one_channel_case(scale), own_channels_case(scale)):
        for suffix, text, wanted in (("", "in memory", 0.9), ("-redis", "over Redis", 1.0)):
            starling, centrifugo = (
                Series("storm", name + suffix, case, SECONDS) for name in ("starling", "centrifugo")
            )
            # The fewer seconds the faster, so the numerator is Centrifugo's.
            measure = _ratio(centrifugo, starling)
            yield Goal("storm", f"speed of a storm {text}, {case}, vs Centrifugo", wanted, measure)


def _record_goals(scale: Scale) -> Iterator[Goal]:
    for case, measure, text in (
        (fan_out_case(scale.receivers, scale.sizes[0]), RATE, "fan-out"),
        ("connects", CONNECTS, "connects"),
    ):
        kept, null = (Series("records", server, case, measure) for server in ("starling", "starling-null"))
        yield Goal("records", f"metrics and logs, {text}", 3.0, _cost(kept, null), at_least=False, unit="%")


def _cost(kept: Series, null: Series) -> Callable[[Results], float | None]:
    """Per cent of the CPU time of `kept` that `null` does without."""

    def cost(results: Results) -> float | None:
        ratio = results.ratio(kept, null)
        return None if ratio is None else 100 * (1 - ratio)

    return cost
