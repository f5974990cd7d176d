"""What a load costs: CPU, memory and Redis, from constants that `make bench ONLY=size` measures and checks."""

import math
from dataclasses import dataclass

from starling.engine.options import AdmissionOptions, RecoveryOptions
from starling.protocol.options import PingOptions
from starling.server.options import SHORTEST_DRAIN_SECONDS, DrainOptions

# Every constant was measured by `make bench ONLY=size`, which prints each of them anew by its name here, and checks
# this model against a run of another load. Seconds are CPU seconds; memory is what the kernel cannot give up,
# as docs/limits.md counts it.

MEASURED = "2 CPUs, load average 0.4"

# A pod without clients: the master with the internal port, and each worker over Redis.
MASTER_BYTES = 54000000.0
WORKER_BYTES = 55000000.0
IDLE_CORES = 0.006
# An authenticated connection in one channel that others are in too, a further channel of it, and a channel's own part.
CONNECTION_BYTES = 5000.0
SUBSCRIPTION_BYTES = 460.0
CHANNEL_BYTES = 1700.0
# One publication kept in a worker for clients that reconnect, without its payload.
RECENT_BYTES = 140.0
# Coming in with a token and entering a channel; a ping with its answer.
CONNECT_SECONDS = 0.00033
PING_SECONDS = 3.3e-05
# A publication: accepted by the API (with and without history), received by a worker, and sent to one client.
PUBLISH_SECONDS = 0.00066
PUBLISH_KEPT_SECONDS = 0.00072
RECEIVE_SECONDS = 8e-05
RECEIVE_KEPT_SECONDS = 8e-05
DELIVERY_SECONDS = 6.8e-06
DELIVERY_BYTE_SECONDS = 7.4e-10
# Redis: a publication without history and with it, a worker that receives it, an idle worker, and history's memory.
REDIS_PUBLISH_SECONDS = 7e-05
REDIS_PUBLISH_KEPT_SECONDS = 0.00016
REDIS_RECEIVER_SECONDS = 5.3e-06
REDIS_RECEIVER_KEPT_SECONDS = 0.0
REDIS_IDLE_CORES = 0.0017
REDIS_BYTES = 1200000.0
REDIS_ENTRY_BYTES = 26.0
REDIS_CHANNEL_BYTES = 5600.0
# TLS at the proxy, without its other work: a handshake (ECDSA P-256, X25519) and each byte (AES-128-GCM).
TLS_HANDSHAKE_SECONDS = 8.1e-05
TLS_BYTE_SECONDS = 5.5e-10

# Not measured: what is wanted, and the defaults of settings.
PING_INTERVAL = PingOptions().ping_seconds
# A frame around the payload: {"push":{"channel":"…","pub":{"data":…}}} and its head.
ENVELOPE_BYTES = 70
RECENT_MOST_BYTES = 64 * 2**20
RECOVERY_LIMIT = RecoveryOptions().recovery_limit
TARGET_SHARE = 0.6
# With one pod away, until another has taken its place.
STRAINED_SHARE = 0.85
REDIS_SHARE = 0.6
CONNECTIONS_OF_A_WORKER = 20_000
FEWEST_PODS = 2
# Of the memory limit: a worker that has more turns new clients away.
MEMORY_SHARE = AdmissionOptions().max_memory_share
MOST_PODS = 1_000
# Clients that reconnect a second while a pod drains.
DRAIN_RATE = int(DrainOptions().drain_rate)
SHORTEST_DRAIN = int(SHORTEST_DRAIN_SECONDS)
DRAIN_DELAY = int(DrainOptions().drain_delay_seconds)
GRACE_AFTER_DRAIN = 35
MIB = 2**20


class TooLargeError(Exception):
    """No number of pods carries the load; the message says what stands in the way."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked of a cluster. `rate` is publications a second over all channels, `message_bytes` their payload.

    `subscribers` are those of each channel. `connects` a second come and go. `history_size` 0 keeps none.
    """

    connections: int
    rate: float
    channels: int
    message_bytes: int
    subscribers: float
    history_size: int = 0
    tls: bool = False
    connects: float = 0.0

    @property
    def deliveries(self) -> float:
        """Messages to single clients a second."""
        return self.rate * self.subscribers


@dataclass(frozen=True, slots=True)
class PodUse:
    """What one pod of `pods` alike holds and uses."""

    connections: float
    cores: float
    memory_bytes: float


@dataclass(frozen=True, slots=True)
class Redis:
    """What Redis uses; it runs commands on one CPU."""

    cores: float
    memory_bytes: float


def reached_workers(load: Load, workers: int) -> float:
    """How many of `workers` a publication reaches: those with a subscriber, where clients are spread at random."""
    return workers * (1 - math.pow(1 - 1 / workers, load.subscribers))


def pod_of(load: Load, pods: int, workers: int) -> PodUse:
    """A pod of `workers` processes, one of `pods`."""
    everywhere = pods * workers
    reached = reached_workers(load, everywhere)
    frame = load.message_bytes + ENVELOPE_BYTES
    seconds = everywhere * IDLE_CORES
    seconds += load.connections / PING_INTERVAL * PING_SECONDS + load.connects * CONNECT_SECONDS
    seconds += load.rate * (PUBLISH_KEPT_SECONDS if load.history_size else PUBLISH_SECONDS)
    seconds += load.rate * reached * (RECEIVE_KEPT_SECONDS if load.history_size else RECEIVE_SECONDS)
    seconds += load.deliveries * (DELIVERY_SECONDS + frame * DELIVERY_BYTE_SECONDS)
    subscriptions = load.channels * load.subscribers
    channels = load.channels * reached / everywhere
    kept = min(load.history_size, RECOVERY_LIMIT) * (load.message_bytes + RECENT_BYTES)
    memory = MASTER_BYTES + workers * (WORKER_BYTES + channels * CHANNEL_BYTES)
    memory += workers * min(channels * kept, RECENT_MOST_BYTES)
    memory += load.connections / pods * CONNECTION_BYTES
    memory += max(0.0, subscriptions - load.connections) / pods * SUBSCRIPTION_BYTES
    return PodUse(load.connections / pods, seconds / pods, memory)


def redis_of(load: Load, workers: int) -> Redis:
    """The Redis behind `workers` processes in all."""
    publish = REDIS_PUBLISH_KEPT_SECONDS if load.history_size else REDIS_PUBLISH_SECONDS
    receiver = REDIS_RECEIVER_KEPT_SECONDS if load.history_size else REDIS_RECEIVER_SECONDS
    cores = workers * REDIS_IDLE_CORES + load.rate * (publish + reached_workers(load, workers) * receiver)
    memory = REDIS_BYTES
    if load.history_size:
        entry = load.message_bytes + REDIS_ENTRY_BYTES
        memory += load.channels * (REDIS_CHANNEL_BYTES + load.history_size * entry)
    return Redis(cores, memory)


def proxy_tls_cores(load: Load) -> float:
    """The CPUs that TLS takes at the proxy."""
    if not load.tls:
        return 0.0
    sent = load.deliveries * (load.message_bytes + ENVELOPE_BYTES) * TLS_BYTE_SECONDS
    return sent + load.connects * TLS_HANDSHAKE_SECONDS


@dataclass(frozen=True, slots=True)
class Plan:
    """How many pods carry a load, and what each needs. Drain and grace in seconds."""

    load: Load
    pods: int
    workers: int
    pod: PodUse
    redis: Redis

    @property
    def max_connections(self) -> int:
        """Of a worker: what it holds while a pod is away, and half as much again for an uneven spread."""
        away = self.load.connections / max(1, self.pods - 1) / self.workers
        return max(100, math.ceil(1.5 * away / 100) * 100)

    @property
    def drain_seconds(self) -> int:
        """The time in which a full pod disconnects its clients at the cluster's drain rate."""
        return max(SHORTEST_DRAIN, math.ceil(self.max_connections * self.workers / DRAIN_RATE))

    @property
    def grace_seconds(self) -> int:
        """From SIGTERM to SIGKILL, as the chart computes it."""
        return DRAIN_DELAY + self.drain_seconds + GRACE_AFTER_DRAIN

    @property
    def memory_request(self) -> int:
        """MiB: a fifth more than it takes, in steps of 32."""
        return math.ceil(1.2 * self.pod.memory_bytes / MIB / 32) * 32

    @property
    def memory_limit(self) -> int:
        """MiB: room for a full pod and for slow readers, in steps of 64."""
        full = self.pod.memory_bytes + (
            max(0.0, self.max_connections * self.workers - self.pod.connections) * CONNECTION_BYTES
        )
        return math.ceil(1.25 * full / MIB / 64 + 1) * 64

    def values(self) -> dict[str, object]:
        """The chart's values."""
        return {
            "replicaCount": self.pods,
            "settings": {
                "workers": self.workers,
                "maxConnections": self.max_connections,
                "drainSeconds": self.drain_seconds,
            },
            "resources": {
                "requests": {
                    "cpu": f"{max(50, math.ceil(self.pod.cores / TARGET_SHARE * 1000 / 50) * 50)}m",
                    "memory": f"{self.memory_request}Mi",
                },
                "limits": {"memory": f"{self.memory_limit}Mi"},
            },
        }

    def warnings(self) -> list[str]:
        """The problems that this plan does not solve."""
        warnings = []
        if self.redis.cores > REDIS_SHARE:
            warnings.append(
                f"Redis needs {self.redis.cores:.2f} of the one CPU that it uses: publish less often, or spread "
                "channels over several clusters of Starling and Redis"
            )
        return warnings


def plan(load: Load, workers: int) -> Plan:
    """The fewest pods of `workers` processes that carry `load`, also while one is away. Raises TooLargeError."""
    for pods in range(FEWEST_PODS, MOST_PODS + 1):
        usual, strained = pod_of(load, pods, workers), pod_of(load, pods - 1, workers)
        if (
            usual.cores <= TARGET_SHARE * workers
            and strained.cores <= STRAINED_SHARE * workers
            and strained.connections <= CONNECTIONS_OF_A_WORKER * workers
        ):
            return Plan(load, pods, workers, usual, redis_of(load, pods * workers))
    raise TooLargeError(
        f"{MOST_PODS} pods of {workers} worker(s) do not carry it; each worker receives up to {load.rate:g} "
        "publications a second"
    )
