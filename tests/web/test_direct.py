"""The short way through a door asks what FastAPI asks, in its order, and refuses as it does."""

from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, WebSocket, WebSocketException
from fastapi.requests import HTTPConnection
from fastapi.testclient import TestClient
from starlette.testclient import WebSocketDenialResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from starling.web import chat, connection, echo, items
from starling.web.direct import DirectEndpoints

Calls = list[str]


async def calls(connection: HTTPConnection) -> Calls:
    found: Calls = connection.app.state.calls
    found.append("calls")
    return found


CallsDependency = Annotated[Calls, Depends(calls)]


async def first(connection: HTTPConnection, calls: CallsDependency) -> None:
    calls.append(f"first of {connection.url.path}")


async def name(websocket: WebSocket, calls: CallsDependency) -> str:
    calls.append("name")
    return websocket.headers.get("x-name", "nobody")


async def greeting(calls: CallsDependency, name: Annotated[str, Depends(name)]) -> str:
    calls.append("greeting")
    match name:
        case "full":
            raise HTTPException(503, "full", {"Retry-After": "7"})
        case "nameless":
            raise WebSocketException(1008, "say your name")
        case "broken":
            raise ValueError("broken")
    return f"Hello, {name}"


router = APIRouter(dependencies=[Depends(first)])


@router.websocket("/door")
async def door(
    websocket: WebSocket, greeting: Annotated[str, Depends(greeting)], name: Annotated[str, Depends(name)]
) -> None:
    await websocket.accept()
    await websocket.send_text(f"{greeting}! ({name})")
    await websocket.close()


def make() -> FastAPI:
    application = FastAPI()
    application.state.calls = []
    application.include_router(router)
    return application


def visit(asgi: ASGIApp, who: str) -> Any:
    """What a visitor of the door is told, or how it is refused."""
    with TestClient(asgi) as client:
        try:
            with client.websocket_connect("/door", headers={"x-name": who}) as session:
                return session.receive_text()
        except WebSocketDenialResponse as denial:
            return denial.status_code, denial.headers.get("retry-after"), denial.json()
        except WebSocketDisconnect as disconnect:
            return disconnect.code, disconnect.reason
        except ValueError as error:
            return repr(error)


@pytest.mark.parametrize("who", ["alice", "full", "nameless", "broken"])
def test_the_same_is_called_and_told_as_through_fastapi(who: str) -> None:
    application, short = make(), make()
    told = visit(application, who)
    assert visit(DirectEndpoints(short, [router]), who) == told
    assert short.state.calls == application.state.calls
    assert application.state.calls[:4] == ["calls", "first of /door", "name", "greeting"]


def test_a_dependency_that_is_overridden_is_the_one_that_is_asked() -> None:
    application = make()
    direct = DirectEndpoints(application, [router])
    application.dependency_overrides[name] = lambda: "somebody else"
    assert "Hello, somebody else" in visit(direct, "alice")


def test_middleware_sees_who_comes() -> None:
    seen: list[str] = []

    class Witness:
        def __init__(self, app: ASGIApp, word: str) -> None:
            self._app, self._word = app, word

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "websocket":
                seen.append(self._word)
            await self._app(scope, receive, send)

    application = make()
    direct = DirectEndpoints(application, [router])
    application.add_middleware(Witness, word="inner")
    application.add_middleware(Witness, word="outer")
    visit(direct, "alice")
    assert seen == ["outer", "inner"]


def test_what_asks_for_more_is_left_to_fastapi() -> None:
    more = APIRouter()

    async def with_header(x_name: Annotated[str, Header()]) -> str:
        return x_name

    def in_a_thread() -> None: ...

    async def that_ends() -> AsyncIterator[None]:
        yield

    asking: list[Callable[..., Any]] = [with_header, in_a_thread, that_ends]
    for number, dependency in enumerate(asking):

        @more.websocket(f"/{number}", dependencies=[Depends(dependency)])
        async def endpoint(websocket: WebSocket) -> None: ...

    @more.websocket("/anew")
    async def anew(websocket: WebSocket, calls: Annotated[Calls, Depends(calls, use_cache=False)]) -> None: ...

    @more.websocket("/{word}/with_query")
    async def with_query(websocket: WebSocket, word: str, number: int) -> None: ...

    assert DirectEndpoints(FastAPI(), [more, router]).paths == {"/door"}


def test_these_doors_have_a_short_way() -> None:
    routers = [echo.router, connection.router, items.router, chat.router]
    assert DirectEndpoints(FastAPI(), routers).paths == {"/ws", "/connection/websocket", "/ws/{client_id}"}


def test_what_a_path_tells_is_read_as_fastapi_reads_it() -> None:
    numbered = APIRouter()

    @numbered.websocket("/rooms/{room}/{rest:path}")
    async def enter(websocket: WebSocket, room: int, rest: str, name: Annotated[str, Depends(name)]) -> None:
        await websocket.accept()
        await websocket.send_text(f"{name} in {room + 1} at {rest}, {websocket.path_params}")
        await websocket.close()

    def visit(*, direct: bool, path: str) -> Any:
        application = make()
        application.include_router(numbered)
        with TestClient(DirectEndpoints(application, [numbered]) if direct else application) as client:
            try:
                with client.websocket_connect(path, headers={"x-name": "alice"}) as session:
                    return session.receive_text(), application.state.calls
            except WebSocketDisconnect as disconnect:
                return disconnect.code, application.state.calls

    for path in ("/rooms/7/left/door", "/rooms/x/left", "/rooms/7", "/rooms/%37/a%20b/", "/rooms/{room}/{rest:path}"):
        assert visit(direct=True, path=path) == visit(direct=False, path=path)
    assert visit(direct=True, path="/rooms/7/left/door")[0].startswith("alice in 8 at left/door")
