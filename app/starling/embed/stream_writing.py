"""Writing append-only streams in the process of the service, as `starling.open_stream` does from elsewhere."""

from typing import Any

import msgspec

from starling.producer.errors import ServiceAway
from starling.producer.writer import StreamWriter, WriterOptions
from starling.protocol.codes import ERROR_BAD_REQUEST, ERROR_INTERNAL, Error
from starling.web.api_methods import ApiMethods


class StreamWriting:
    """The part of a Starling that writes streams."""

    _methods: ApiMethods

    def open_stream(self, channel: str, **options: Any) -> StreamWriter:
        """Write the append-only stream of `channel`: `async with realtime.open_stream("answers:42") as answer`.

        `options` are the fields of starling.producer.writer.WriterOptions. Raises TypeError for others.
        """
        return StreamWriter(self._stream_call, channel, WriterOptions(**options))

    async def _stream_call(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        try:
            request = msgspec.convert(body, self._methods.by_name[name].request)
        except msgspec.ValidationError as error:
            return {"error": {"code": ERROR_BAD_REQUEST.code, "message": f"bad request: {error}"}}
        outcome = await self._methods.call(name, request)
        if isinstance(outcome, Error) and outcome.code == ERROR_INTERNAL.code:
            raise ServiceAway(outcome.message)
        kind = "error" if isinstance(outcome, Error) else "result"
        answer: dict[str, Any] = msgspec.json.decode(msgspec.json.encode({kind: outcome}))
        return answer
