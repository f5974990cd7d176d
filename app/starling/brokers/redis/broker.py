"""The broker over Redis."""

from collections.abc import Callable, Sequence

from redis.exceptions import NoScriptError, ResponseError

from starling.brokers import envelope
from starling.brokers.broadcast import BroadcastBroker
from starling.brokers.redis.append_streams import RedisAppendStreams
from starling.brokers.redis.backend import RedisBackend
from starling.brokers.redis.calls import PUBLISH, PUBLISH_ONCE, Command, RedisNames, milliseconds, new_epoch
from starling.brokers.redis.cluster_backend import ClusterBackend
from starling.brokers.redis.cluster_calls import Answer
from starling.brokers.redis.drain_rate import RedisDrainRate
from starling.brokers.redis.history import RedisHistory
from starling.brokers.redis.occupancy import RedisOccupancy
from starling.brokers.redis.presence import RedisPresence
from starling.brokers.redis.publish_many import PublishMany
from starling.brokers.redis.refusal import refused
from starling.brokers.redis.revocations import RedisRevocations
from starling.brokers.redis.tickets import RedisTickets
from starling.engine.broker import BrokerUnavailable, PublishOptions, PublishOutcome, PublishRequest, StreamPosition
from starling.engine.history import DEFAULT_READ_TTL
from starling.engine.presence import DEFAULT_TTL
from starling.protocol.messages import Publication

# What one round trip carries of a publication in many channels.
_AT_ONCE = 256
_BYTES_AT_ONCE = 8 * 2**20


Arguments = tuple[bytes | str | int, ...]


class RedisBroker(BroadcastBroker):
    """Implements starling.engine.broker.Broker over Redis Pub/Sub, and keeps history, presence and occupancy there."""

    def __init__(
        self,
        backend: RedisBackend | ClusterBackend,
        *,
        presence_ttl: float = DEFAULT_TTL,
        read_ttl: float = DEFAULT_READ_TTL,
    ) -> None:
        """A client stays in presence for `presence_ttl` seconds, a position that was only read for `read_ttl`."""
        super().__init__(backend)
        names, prefix = backend.names, backend.names.prefix
        execute, read, query = backend.calls.execute, backend.reads.execute, backend.queries.execute
        self._calls = backend.calls
        self._names = names
        # In a cluster a script may have the keys of one slot only.
        self._many: PublishMany | None = None
        if isinstance(backend, RedisBackend):
            self._many = PublishMany(backend.calls, names, self._publish_all_in_task)
        self.history: RedisHistory = RedisHistory(read, names, read_ttl=read_ttl, querying=query)
        self.append_streams: RedisAppendStreams = RedisAppendStreams(
            execute, backend.calls.post, query, names, read_ttl=read_ttl
        )
        self.presence: RedisPresence = RedisPresence(execute, query, names, presence_ttl)
        self.revocations: RedisRevocations = RedisRevocations(execute, read, prefix)
        self.tickets: RedisTickets = RedisTickets(execute, prefix)
        self.occupancy: RedisOccupancy = RedisOccupancy(execute, prefix, presence_ttl)
        self.drain_rate: RedisDrainRate = RedisDrainRate(execute, prefix)

    async def publish(self, channel: str, publication: Publication, options: PublishOptions) -> StreamPosition:
        """Keep and send in one atomic step, or only send; returns the position. Raises BrokerUnavailable."""
        body, live = envelope.encode_bodies(publication, options.trace, delta=options.delta)
        execute, names = self._calls.execute, self._names
        if options.history_size > 0:
            keys, arguments = keeping(names, channel, body, options, new_epoch(), live)
            return read_position(await PUBLISH.run(execute, keys, *arguments, size=len(body)))
        message = envelope.encode_publication(live)
        if options.idempotency_key:
            keys, arguments = sending_once(names, channel, message, options)
            return read_position(await PUBLISH_ONCE.run(execute, keys, *arguments, size=len(message)))
        try:
            await execute(*names.publish(channel, message), size=len(message))
        except ResponseError as error:
            raise refused(error) from None
        return StreamPosition(0, "")

    def begin_publish(
        self, channel: str, publication: Publication, options: PublishOptions, done: Callable[[PublishOutcome], None]
    ) -> PublishOutcome | None:
        """As `publish`; `done` is called when Redis has answered."""
        body, live = envelope.encode_bodies(publication, options.trace, delta=options.delta)
        message = b"" if options.history_size > 0 else envelope.encode_publication(live)
        command = self._command(body, live, message, channel, options, _epoch(options))

        def answered(replies: Sequence[Answer] | Exception) -> None:
            if isinstance(replies, Exception):
                done(replies if isinstance(replies, BrokerUnavailable) else BrokerUnavailable(str(replies)))
            elif isinstance(reply := replies[0], list) and len(reply) == 2:
                done(read_position(reply))
            elif isinstance(reply, NoScriptError):
                # Redis forgets scripts when it restarts.
                self._publish_in_task(channel, publication, options, done)
            else:
                done(_outcome(reply))

        try:
            self._calls.post(command, len(body), answered)
        except BrokerUnavailable as unavailable:
            return unavailable
        return None

    def begin_publish_all(
        self, requests: Sequence[PublishRequest], done: Callable[[Sequence[PublishOutcome]], None]
    ) -> Sequence[PublishOutcome] | None:
        """Publish many with a call for dozens of them, in a cluster with a command for each."""
        if self._many is not None:
            return self._many.begin(requests, done)
        self._publish_all_in_task(requests, done)
        return None

    async def _publish_each(self, requests: Sequence[PublishRequest]) -> list[PublishOutcome]:
        outcomes: list[PublishOutcome] = []
        portion: list[PublishRequest] = []
        size = 0
        for request in requests:
            portion.append(request)
            size += len(request[1].data)
            if len(portion) == _AT_ONCE or size > _BYTES_AT_ONCE:
                outcomes += await self._publish_portion(portion, size)
                portion, size = [], 0
        return outcomes + await self._publish_portion(portion, size) if portion else outcomes

    async def _publish_portion(self, requests: Sequence[PublishRequest], size: int) -> list[PublishOutcome]:
        epoch = new_epoch()
        commands: list[Command] = []
        encoded: tuple[Publication, PublishOptions] | None = None
        for number, (channel, publication, options) in enumerate(requests):
            if encoded is None or publication is not encoded[0] or options is not encoded[1]:
                encoded = publication, options
                body, live = envelope.encode_bodies(publication, options.trace, delta=options.delta)
                message = b"" if options.history_size > 0 else envelope.encode_publication(live)
            commands.append(self._command(body, live, message, channel, options, f"{epoch}{number:x}"))
        try:
            replies = await self._calls.execute_all(commands, size=size)
        except BrokerUnavailable as unavailable:
            return [unavailable] * len(requests)
        outcomes: list[PublishOutcome] = []
        for request, reply in zip(requests, replies, strict=True):
            try:
                # Redis forgets scripts when it restarts.
                forgotten = isinstance(reply, NoScriptError)
                outcome = await self.publish(*request) if forgotten else _position(reply)
            except BrokerUnavailable as unavailable:
                outcome = unavailable
            outcomes.append(outcome)
        return outcomes

    def _command(
        self, body: bytes, live: bytes, message: bytes, channel: str, options: PublishOptions, epoch: str
    ) -> Command:
        if options.history_size > 0:
            keys, arguments = keeping(self._names, channel, body, options, epoch, live)
            return PUBLISH.call(keys, *arguments)
        if options.idempotency_key:
            keys, arguments = sending_once(self._names, channel, message, options)
            return PUBLISH_ONCE.call(keys, *arguments)
        return self._names.publish(channel, message)


def keeping(
    names: RedisNames, channel: str, body: bytes, options: PublishOptions, epoch: str, live: bytes | None = None
) -> tuple[list[bytes], Arguments]:
    """Keys and arguments of the script that keeps `body` and sends it, or `live` in its place, in one atomic step.

    `epoch` names the channel's stream if it is new: a text that was not used for it before.
    """
    name, *keys = names.stream_keys(channel)
    if options.idempotency_key:
        keys.append(_idempotency_key(names, channel, options))
    return keys, (
        name,
        body,
        options.history_size,
        milliseconds(options.history_ttl),
        milliseconds(options.history_meta_ttl),
        epoch,
        options.version,
        options.version_epoch,
        *(() if live is None or live is body else (live,)),
    )


def sending_once(
    names: RedisNames, channel: str, message: bytes, options: PublishOptions
) -> tuple[list[bytes], Arguments]:
    """Keys and arguments of the script that sends `message` unless its idempotency key was seen within 5 minutes."""
    return [_idempotency_key(names, channel, options)], (names.channel(channel), message)


def read_position(found: object) -> StreamPosition:
    """What a publish script answered. Raises BrokerUnavailable for anything else."""
    if isinstance(found, list) and len(found) == 2:
        offset, epoch = found
        if isinstance(offset, bytes) and isinstance(epoch, bytes):
            return StreamPosition(int(offset), epoch.decode())
    raise BrokerUnavailable("a publish script answered in another form than it should")


def _idempotency_key(names: RedisNames, channel: str, options: PublishOptions) -> bytes:
    (key,) = names.keys(channel, "idem")
    return b"%b:%b" % (key, options.idempotency_key.encode())


def _epoch(options: PublishOptions) -> str:
    return new_epoch() if options.history_size > 0 else ""


def _outcome(reply: Answer) -> PublishOutcome:
    try:
        return _position(reply)
    except BrokerUnavailable as unavailable:
        return unavailable


def _position(reply: object) -> PublishOutcome:
    if isinstance(reply, BrokerUnavailable):
        return reply
    if isinstance(reply, ResponseError):
        return refused(reply)
    # PUBLISH and SPUBLISH answer with the number of processes that it reached.
    return StreamPosition(0, "") if isinstance(reply, int) else read_position(reply)
