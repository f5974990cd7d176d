"""This worker as a node among the others: its id, its age, the names it gives and how it describes itself."""

import os
import random
import secrets
import socket
import time

from starling import __version__
from starling.engine.control import NodeInfo
from starling.engine.hub import Hub
from starling.telemetry.metrics import Metrics


class Node:
    """A worker among the others. It has no id until `begin`, because the workers of a pod are forked from one process.

    `names` generates the ids of connections: identifiers, not secrets.
    """

    def __init__(self, hub: Hub, metrics: Metrics) -> None:
        self.id = ""
        self.names = random.SystemRandom()
        self._hub = hub
        self._metrics = metrics
        self._started_at = 0.0

    def begin(self) -> None:
        """Take an id and seed `names`, after the fork."""
        self.id = secrets.token_hex(8)
        self.names = random.SystemRandom()
        self._started_at = time.monotonic()

    @property
    def uptime(self) -> float:
        """Seconds since `begin`."""
        return time.monotonic() - self._started_at

    @property
    def name(self) -> str:
        """Host and process, as people read it."""
        return f"{socket.gethostname()}_{os.getpid()}"

    def describe(self) -> NodeInfo:
        """What the other nodes are sent about this one."""
        return NodeInfo(
            uid=self.id,
            name=self.name,
            version=__version__,
            num_clients=len(self._hub.connections),
            num_users=len(self._hub.users),
            num_subs=self._metrics.subscriptions.total(),
            num_channels=len(self._hub.subscribers.channels),
            uptime=int(self.uptime),
        )
