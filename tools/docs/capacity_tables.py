"""The tables of docs/capacity.md, made from the constants of the model."""

from starling.cli import capacity

MESSAGE_BYTES = 128
LIMITS = (256, 512, 1024)


def capacity_tables() -> str:
    """What a pod and Redis carry, and each constant as the model has it."""
    frame = MESSAGE_BYTES + capacity.ENVELOPE_BYTES
    delivery = capacity.DELIVERY_SECONDS + frame * capacity.DELIVERY_BYTE_SECONDS
    rows = ["| memory limit of a pod with one worker | idle connections, each in a channel |", "|---|---|"]
    for limit in LIMITS:
        free = capacity.MEMORY_SHARE * limit * capacity.MIB - capacity.MASTER_BYTES - capacity.WORKER_BYTES
        rows.append(f"| {limit} MiB | {_round(free / capacity.CONNECTION_BYTES)} |")
    rows += ["", "| one CPU | a second |", "|---|---|"]
    rows += [
        f"| deliveries of {MESSAGE_BYTES} bytes | {_round(1 / delivery)} |",
        f"| publications through the API, without history | {_round(1 / capacity.PUBLISH_SECONDS)} |",
        f"| publications through the API, with history | {_round(1 / capacity.PUBLISH_KEPT_SECONDS)} |",
        f"| clients that connect with a token and subscribe | {_round(1 / capacity.CONNECT_SECONDS)} |",
    ]
    rows += ["", "| Redis, for each publication | without history | with history |", "|---|---|---|"]
    kept = (capacity.REDIS_PUBLISH_KEPT_SECONDS, capacity.REDIS_RECEIVER_KEPT_SECONDS)
    plain = (capacity.REDIS_PUBLISH_SECONDS, capacity.REDIS_RECEIVER_SECONDS)
    for what, one, other in zip(("to accept it", "for each worker that receives it"), plain, kept, strict=True):
        rows.append(f"| {what} | {_microseconds(one)} | {_microseconds(other)} |")
    entry = MESSAGE_BYTES + capacity.REDIS_ENTRY_BYTES
    rows.append(f"| to store {MESSAGE_BYTES} bytes | none | {entry:.0f} bytes |")
    rows += ["", f"Measured by `make capacity` on {capacity.MEASURED} at its end."]
    if lost := _lost_in_noise():
        rows.append(f"Below the measurement noise there, and counted as zero: {', '.join(lost)}.")
    return "\n".join(rows) + "\n"


def _lost_in_noise() -> list[str]:
    """The constants that are below the measurement noise."""
    return [f"`{name}`" for name, value in vars(capacity).items() if isinstance(value, float) and value == 0]


def _microseconds(seconds: float) -> str:
    return f"{seconds * 1e6:.0f} µs" if seconds else "below measurement noise"


def _round(value: float) -> str:
    """Rounded to two significant digits."""
    digits = max(0, len(str(int(value))) - 2)
    return f"{round(value, -digits):,.0f}"
