"""The broker over Redis."""

from app.brokers.broadcast import BroadcastBroker
from app.brokers.redis_backend import RedisBackend


class RedisBroker(BroadcastBroker):
    """Implements app.core.broker.Broker over Redis Pub/Sub."""

    def __init__(self, backend: RedisBackend) -> None:
        super().__init__(backend)
