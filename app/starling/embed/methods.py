"""The server API's methods as functions in this process: the same requests, rights and errors, without HTTP."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, Unpack

import msgspec
from msgspec import Raw, Struct
from pydantic import TypeAdapter

from starling.embed import method_options as options_of
from starling.protocol.codes import ERROR_BAD_REQUEST, Error
from starling.web import api_results as results
from starling.web.api_methods import ApiMethods
from starling.web.api_publishing import BroadcastResponse, PublishResponse

_Result = TypeVar("_Result", bound=Struct)
_ANYTHING = TypeAdapter(Any)


class MethodFailed(Exception):
    """A method that was refused or failed, with the code and the message of the server API."""

    def __init__(self, error: Error) -> None:
        super().__init__(f"{error.code}: {error.message}")
        self.code = error.code
        self.message = error.message


class ServerMethods:
    """Each method raises MethodFailed; the fields mean what they mean in the server API (docs/publish.md)."""

    _methods: ApiMethods

    async def publish(
        self, channel: str, data: Any, **options: Unpack[options_of.PublicationFields]
    ) -> PublishResponse:
        """Send `data` (any JSON) to everyone in a channel; `options` are further fields of PublishBody."""
        return await self._call("publish", PublishResponse, channel=channel, data=data, **options)

    async def broadcast(
        self, channels: Sequence[str], data: Any, **options: Unpack[options_of.PublicationFields]
    ) -> BroadcastResponse:
        """Send the same `data` to many channels; the answer has a result or an error for each of them."""
        return await self._call("broadcast", BroadcastResponse, channels=list(channels), data=data, **options)

    async def subscribe(self, user: str, channel: str, **options: Unpack[options_of.SubscribeFields]) -> None:
        """Subscribe a user's connections to a channel."""
        await self._call("subscribe", results.EmptyResponse, user=user, channel=channel, **options)

    async def unsubscribe(self, user: str, channel: str, **options: Unpack[options_of.UnsubscribeFields]) -> None:
        """Unsubscribe a user's connections from a channel."""
        await self._call("unsubscribe", results.EmptyResponse, user=user, channel=channel, **options)

    async def disconnect(self, user: str, **options: Unpack[options_of.DisconnectFields]) -> None:
        """Close a user's connections."""
        await self._call("disconnect", results.EmptyResponse, user=user, **options)

    async def refresh(self, user: str, **options: Unpack[options_of.RefreshFields]) -> None:
        """Give a user's connections another end."""
        await self._call("refresh", results.EmptyResponse, user=user, **options)

    async def presence(self, channel: str) -> Mapping[str, results.PresentClient]:
        """The clients in a channel, by client id."""
        return (await self._call("presence", results.PresenceResponse, channel=channel)).presence

    async def presence_stats(self, channel: str) -> results.PresenceStatsResponse:
        """How many connections are in a channel, and of how many users."""
        return await self._call("presence_stats", results.PresenceStatsResponse, channel=channel)

    async def history(
        self, channel: str, *, limit: int = 0, **options: Unpack[options_of.HistoryFields]
    ) -> results.HistoryResponse:
        """Read what a channel keeps: at most `limit` publications, -1 for all, 0 for the position alone."""
        return await self._call("history", results.HistoryResponse, channel=channel, limit=limit, **options)

    async def history_remove(self, channel: str) -> None:
        """Delete what a channel keeps."""
        await self._call("history_remove", results.EmptyResponse, channel=channel)

    async def channels(
        self, pattern: str = "", **options: Unpack[options_of.ChannelsFields]
    ) -> results.ChannelsResponse:
        """The channels that have subscribers."""
        return await self._call("channels", results.ChannelsResponse, pattern=pattern, **options)

    async def connections(self, **options: Unpack[options_of.ConnectionsFields]) -> results.ConnectionsResponse:
        """Who is connected, over all nodes: all, or those of `user`; `limit` and `cursor` as in the server API."""
        return await self._call("connections", results.ConnectionsResponse, **options)

    async def can(
        self, user: str, verb: str, channel: str, *, token: str = "", subscribed: bool = False
    ) -> results.CanResponse:
        """Whether a user may do `verb` in a channel, and by which rule."""
        return await self._call(
            "can", results.CanResponse, user=user, verb=verb, channel=channel, token=token, subscribed=subscribed
        )

    async def presence_set(self, channel: str, user: str, **options: Unpack[options_of.PresenceSetFields]) -> None:
        """Show a user without a connection in a channel's presence, for `ttl` seconds; once more renews it."""
        await self._call("presence_set", results.EmptyResponse, channel=channel, user=user, **options)

    async def presence_unset(self, channel: str, user: str) -> None:
        """Take a user out of a channel's presence that `presence_set` has shown there."""
        await self._call("presence_unset", results.EmptyResponse, channel=channel, user=user)

    async def ticket(self, user: str, **options: Unpack[options_of.TicketFields]) -> results.TicketResponse:
        """Make a ticket, which opens one session of a user, once."""
        return await self._call("ticket", results.TicketResponse, user=user, **options)

    async def info(self) -> results.InfoResponse:
        """Every node of the service."""
        return await self._call("info", results.InfoResponse)

    async def top(self, *, limit: int = 10) -> results.TopResponse:
        """What every node does, and the busiest channels."""
        return await self._call("top", results.TopResponse, limit=limit)

    async def revoke_token(
        self, uid: str, **options: Unpack[options_of.RevocationFields]
    ) -> results.RevocationResponse:
        """Refuse one token (its `jti`) from now on."""
        return await self._call("revoke_token", results.RevocationResponse, uid=uid, **options)

    async def revoke_session(
        self, session: str, **options: Unpack[options_of.RevocationFields]
    ) -> results.RevocationResponse:
        """Refuse the tokens of one session from now on."""
        return await self._call("revoke_session", results.RevocationResponse, session=session, **options)

    async def invalidate_user_tokens(
        self, user: str, **options: Unpack[options_of.InvalidationFields]
    ) -> results.InvalidateUserTokensResponse:
        """Refuse a user's tokens that were issued before now."""
        return await self._call("invalidate_user_tokens", results.InvalidateUserTokensResponse, user=user, **options)

    async def _call(self, name: str, result: type[_Result], **fields: Any) -> _Result:
        request = self._methods.by_name[name].request
        if unknown := sorted(fields.keys() - set(request.__struct_fields__)):
            known = ", ".join(request.__struct_fields__)
            raise TypeError(f"{name}() has no option {unknown[0]!r}: its options are {known}")
        for field in ("data", "info"):
            if field in fields and field in request.__struct_fields__:
                fields[field] = _as_json(field, fields[field])
        try:
            body = msgspec.convert(fields, request)
        except msgspec.ValidationError as error:
            raise MethodFailed(Error(ERROR_BAD_REQUEST.code, f"bad request: {error}")) from error
        outcome = await self._methods.call(name, body)
        if isinstance(outcome, Error):
            raise MethodFailed(outcome)
        if not isinstance(outcome, result):
            raise TypeError(f"{name} answered {type(outcome).__name__}")
        return outcome


def _as_json(field: str, value: Any) -> Raw:
    """A value of the caller's as JSON. Raises TypeError, naming the field."""
    try:
        return Raw(msgspec.json.encode(value, enc_hook=_as_plain))
    except (TypeError, ValueError) as error:
        raise TypeError(f"{field}: {error}: give what is JSON, or a Pydantic model") from error


def _as_plain(value: Any) -> Any:
    """What msgspec cannot encode, such as a Pydantic model, as plain JSON values."""
    return _ANYTHING.dump_python(value, mode="json")
