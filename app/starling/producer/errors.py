"""What a writer of an append-only stream may raise."""


class StreamError(Exception):
    """The stream takes nothing more of this writer; the message says why."""


class Cancelled(StreamError):
    """A reader or a backend cancelled the stream; `reason` is what was given with it."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason or "the stream was cancelled")
        self.reason = reason


class StreamClosed(StreamError):
    """The stream is closed already, or was deleted."""


class ProducerReplaced(StreamError):
    """Another process opened the stream as the same producer, so this one is over."""


class StreamFull(StreamError):
    """The stream holds as much as `stream_max_bytes` of its namespace allows."""


class StreamUnavailable(StreamError):
    """The service did not take what was written within the time that it was retried."""


class ServiceAway(Exception):
    """The service did not answer, or its broker did not: the same request may be sent again."""
