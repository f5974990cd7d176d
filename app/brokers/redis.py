"""The broker over Redis."""

import time

from app.brokers import envelope
from app.brokers.broadcast import BroadcastBroker
from app.brokers.redis_backend import RedisBackend
from app.brokers.redis_history import RedisHistory
from app.brokers.redis_occupancy import RedisOccupancy
from app.brokers.redis_presence import RedisPresence
from app.brokers.redis_revocations import RedisRevocations
from app.core.broker import PublishOptions, StreamPosition
from app.core.presence import DEFAULT_TTL
from app.protocol.messages import Publication


class RedisBroker(BroadcastBroker):
    """Implements app.core.broker.Broker over Redis Pub/Sub, and keeps history, presence and occupancy there."""

    keeps_history = True

    def __init__(self, backend: RedisBackend, *, presence_ttl: float = DEFAULT_TTL) -> None:
        super().__init__(backend)
        self.history: RedisHistory = RedisHistory(backend.execute, backend.reads.execute, backend.prefix)
        self.presence: RedisPresence = RedisPresence(
            backend.execute, backend.reads.execute, backend.prefix, presence_ttl
        )
        self.revocations: RedisRevocations = RedisRevocations(backend.execute, backend.reads.execute, backend.prefix)
        self.occupancy: RedisOccupancy = RedisOccupancy(backend.execute, backend.prefix, presence_ttl)

    async def publish(self, channel: str, publication: Publication, options: PublishOptions) -> StreamPosition:
        """Keep and send in one atomic step, or only send; returns the position. Raises BrokerUnavailable."""
        body = envelope.encode_body(publication, int(time.time() * 1000))
        if options.history_size > 0:
            return await self.history.publish(channel, body, options)
        message = envelope.encode_publication(body)
        if options.idempotency_key:
            return await self.history.publish_once(channel, message, options.idempotency_key)
        await self._backend.publish(channel, message)
        return StreamPosition(0, "")
