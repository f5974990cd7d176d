"""FastAPI dependencies of a user's routes: who asks, and whether that user may do something in a channel."""

import re
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Protocol

from fastapi import Depends, HTTPException, WebSocketException, status
from starlette.requests import HTTPConnection

from starling.auth.tokens import Credentials, KeyNotLoaded, RefusalReason, TokenRefused
from starling.engine.rights import Verb
from starling.engine.upgrade import Upgrade
from starling.protocol.codes import CommandRefused
from starling.settings import Settings
from starling.web.dependencies import WebContext
from starling.web.permission_check import Permission

_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_STATE_KEY = "starling"
_POLICY = status.WS_1008_POLICY_VIOLATION


class User(str):
    """The id of the user who asks, empty for nobody; `credentials` hold what the token says, None without one."""

    __slots__ = ("credentials", "token")

    credentials: Credentials | None
    token: str

    def __new__(cls, identifier: str, credentials: Credentials | None = None, token: str = "") -> "User":
        """A user with what its token says."""
        user = super().__new__(cls, identifier)
        user.credentials = credentials
        user.token = token
        return user

    @property
    def id(self) -> str:
        """The same as plain text."""
        return str.__str__(self)


class UserSource(Protocol):
    """What the dependencies need of a Starling."""

    settings: Settings

    async def user_of(self, connection: HTTPConnection) -> User | None:
        """The user of the request's token."""

    async def require_user(self, connection: HTTPConnection) -> User:
        """The same, refusing a request without one."""

    def permission_of(self, user: User, verb: str, channel: str) -> Permission:
        """Whether the user of a request may do `verb` in a channel. Raises CommandRefused for one that cannot be."""


def find_starling(connection: HTTPConnection) -> UserSource:
    """The Starling of the application that serves `connection`. Raises RuntimeError with the remedy."""
    application = connection.scope.get("app")
    installed = getattr(getattr(application, "state", None), "starlings", ())
    if len(installed) > 1:
        raise RuntimeError(
            "this application has several Starlings: take CurrentUser, OptionalUser and require from the one that you "
            "mean, as in `user: realtime.CurrentUser`"
        )
    found = installed[0] if installed else connection.scope.get("state", {}).get(_STATE_KEY)
    if found is None:
        found = _included(application)
    if found is None:
        raise RuntimeError(
            "this application has no Starling: call realtime.install(app), or give FastAPI(lifespan=realtime.lifespan)"
            " and app.include_router(realtime.router)"
        )
    starling: UserSource = found
    return starling


def _included(application: Any) -> UserSource | None:
    routers = (getattr(route, "original_router", None) for route in getattr(application, "routes", ()))
    return next((found for router in routers if (found := getattr(router, "starling", None)) is not None), None)


async def optional_user_of(context: WebContext, connection: HTTPConnection) -> User | None:
    """The user of the token in a request or a handshake; None where it brings none.

    Raises HTTPException: 401 for a token that is refused, 503 for one that cannot be checked now.
    """
    presented = context.presented_token(_upgrade(connection))
    if presented is None:
        return None
    try:
        credentials = await context.verifier.connection(presented.token)
    except KeyNotLoaded as unknown:
        raise HTTPException(503, "the token cannot be checked now; try again", {"Retry-After": "5"}) from unknown
    except TokenRefused as refused:
        if context.options.dev:
            return None
        context.engine.metrics.refused["invalid_token"] += 1
        detail = "the token has expired" if refused.reason is RefusalReason.EXPIRED else "the token is not valid"
        raise HTTPException(401, detail, {"WWW-Authenticate": 'Bearer error="invalid_token"'}) from refused
    return User(credentials.user, credentials, presented.token)


async def user_of(context: WebContext, connection: HTTPConnection) -> User:
    """As `optional_user_of`; in developer mode nobody in particular without a token.

    Raises HTTPException 401 without one, on a WebSocket WebSocketException 1008.
    """
    user = await optional_user_of(context, connection)
    if user is not None:
        return user
    if context.options.dev:
        return User("")
    if connection.scope["type"] == "websocket":
        raise WebSocketException(_POLICY, "a token is needed")
    raise HTTPException(401, "a token is needed", {"WWW-Authenticate": "Bearer"})


async def _current_user(connection: HTTPConnection) -> User:
    return await find_starling(connection).require_user(connection)


async def _optional_user(connection: HTTPConnection) -> User | None:
    return await find_starling(connection).user_of(connection)


CurrentUser = Annotated[User, Depends(_current_user)]
OptionalUser = Annotated[User | None, Depends(_optional_user)]


def require(verb: str, channel: str) -> Callable[[HTTPConnection], Awaitable[User]]:
    """A dependency that lets pass who may do `verb` in `channel`, and returns the user: `Depends(require(…))`.

    `{name}` in `channel` is the path parameter of that name. The rules are those of the channel's namespace. Others get
    403, on a WebSocket 1008, which is 403 before the upgrade; a channel that there cannot be is 404, or 1008. Raises
    ValueError for a verb that there is not.
    """
    return requirement(find_starling, verb, channel)


def requirement(
    find: Callable[[HTTPConnection], UserSource], verb: str, channel: str
) -> Callable[[HTTPConnection], Awaitable[User]]:
    """As `require`, of the Starling that `find` returns."""
    if verb not in set(Verb):
        raise ValueError(f"require({verb!r}, …): the verbs are {', '.join(Verb)}")

    async def required(connection: HTTPConnection) -> User:
        return await allowed_user(find(connection), connection, verb, channel)

    return required


async def allowed_user(starling: UserSource, connection: HTTPConnection, verb: str, channel: str) -> User:
    """The user of `connection`, who may do `verb` in `channel`. Raises as `require` says."""
    name = _PLACEHOLDER.sub(lambda found: _parameter(connection, found[1], channel), channel)
    user = await starling.user_of(connection) or User("")
    if starling.settings.dev:
        return user
    try:
        answer = starling.permission_of(user, verb, name)
    except CommandRefused:
        status_code, problem = status.HTTP_404_NOT_FOUND, "there is no such channel"
    else:
        if answer.allowed:
            return user
        status_code, problem = status.HTTP_403_FORBIDDEN, answer.sentence
    if not user and not starling.settings.allow_anonymous:
        return await starling.require_user(connection)
    if connection.scope["type"] == "websocket":
        raise WebSocketException(_POLICY, problem[:120])
    raise HTTPException(status_code, problem)


def _parameter(connection: HTTPConnection, name: str, channel: str) -> str:
    if name not in connection.path_params:
        raise RuntimeError(f"require(…, {channel!r}): the path of this route has no parameter {{{name}}}")
    return str(connection.path_params[name])


def _upgrade(connection: HTTPConnection) -> Upgrade:
    scope = connection.scope
    return Upgrade(
        query=scope.get("query_string", b""),
        headers=scope["headers"],
        subprotocols=scope.get("subprotocols", ()),
        address=connection.client.host if connection.client else "",
        path=scope["path"],
    )
