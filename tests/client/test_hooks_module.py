"""Hooks of a Python module: what they are given, what they decide, and how they fail."""

import asyncio
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from msgspec import Raw
from pydantic import BaseModel, field_validator
from structlog.testing import capture_logs

from starling.client.hook_answers import Accept
from starling.client.hook_function import HooksError
from starling.client.hooks_module import ModuleHooks, load_hooks
from starling.engine.hook_request import CookiesNotChecked, Request
from starling.engine.hooks import Client, Refuse
from starling.protocol.codes import CommandRefused, Disconnect, Error
from tests.support.waiting import DEADLINE

ALICE = Client(user="alice", client="c1")


class NodeCommand(BaseModel):
    """A payload with a shape."""

    id: int
    note: str = ""


def hooks(**functions: Any) -> ModuleHooks:
    module = ModuleType("a_test")
    vars(module).update(functions)
    return ModuleHooks(module, seconds=0.2)


async def refusal(work: Any) -> Error | Disconnect:
    with pytest.raises(CommandRefused) as caught:
        await work
    return caught.value.reason


async def test_a_method_gets_the_client_and_its_payload_as_a_model() -> None:
    async def get_order(client: Client, data: NodeCommand) -> NodeCommand:
        return NodeCommand(id=data.id + 1, note=client.user)

    result = await hooks(rpc={"order.get": get_order}).call(ALICE, "order.get", Raw(b'{"id": 41}'))

    assert bytes(result) == b'{"id":42,"note":"alice"}'


async def test_an_unknown_method_is_104() -> None:
    reason = await refusal(hooks().call(ALICE, "nothing", Raw(b"{}")))

    assert reason.code == 104


async def test_a_payload_of_another_shape_is_107_and_names_the_field() -> None:
    async def get_order(client: Client, data: NodeCommand) -> None:
        raise AssertionError("called")

    reason = await refusal(hooks(rpc={"get": get_order}).call(ALICE, "get", Raw(b'{"id": "x"}')))

    assert isinstance(reason, Error)
    assert reason.code == 107
    assert "data.id" in reason.message


async def test_a_hook_may_refuse_with_a_code_of_its_own() -> None:
    async def on_subscribe(client: Client, channel: str) -> None:
        raise Refuse("not on weekends", 400)

    reason = await refusal(hooks(on_subscribe=on_subscribe).subscribe(ALICE, "room", Raw()))

    assert reason == Error(400, "not on weekends")


@pytest.mark.parametrize("code", [3000, 3507, 4000, 4999])
async def test_a_hook_may_disconnect_with_a_code_of_that_range(code: int) -> None:
    async def on_connect(client: Client) -> None:
        raise Refuse("ü" * 100, code)

    reason = await refusal(hooks(on_connect=on_connect).connect(ALICE, Request(), Raw()))

    # A close frame holds 123 bytes.
    assert reason == Disconnect(code, "ü" * 61)


@pytest.mark.parametrize("code", [400, 4000])
async def test_a_refusal_may_hold_half_of_a_character_that_a_client_sent(code: int) -> None:
    async def on_subscribe(client: Client, channel: str) -> None:
        raise Refuse("no \ud800", code)

    reason = await refusal(hooks(on_subscribe=on_subscribe).subscribe(ALICE, "room", Raw()))

    assert (reason.code, reason.message if isinstance(reason, Error) else reason.reason) == (code, "no \\ud800")


async def test_a_hook_that_raises_is_100() -> None:
    async def on_publish(client: Client, channel: str, data: Any) -> None:
        raise KeyError("a mistake")

    reason = await refusal(hooks(on_publish=on_publish).publish(ALICE, "room", Raw(b"1")))

    assert reason.code == 100


@pytest.mark.parametrize(("message", "code"), [("no", 50), (404, 103), ("no", 403.0), (None, 4000), ("no", True)])
async def test_a_hook_that_refuses_with_what_clients_cannot_read_is_100(message: Any, code: Any) -> None:
    async def on_subscribe(client: Client, channel: str) -> None:
        raise Refuse(message, code)

    reason = await refusal(hooks(on_subscribe=on_subscribe).subscribe(ALICE, "room", Raw()))

    assert reason.code == 100


@pytest.mark.parametrize("method", ["connect", "publish", "call"])
async def test_a_hook_whose_answer_cannot_be_reported_is_100(method: str) -> None:
    async def hook(client: Client, *_: str) -> object:
        return object()

    known = hooks(on_connect=hook, on_publish=hook, rpc={"get": hook})
    asked = {"connect": (Request(),), "publish": ("room",), "call": ("get",)}[method]
    with capture_logs() as lines:
        reason = await refusal(getattr(known, method)(ALICE, *asked, Raw()))

    assert reason.code == 100
    assert [line["event"] for line in lines] == ["hook_failed"]


def raise_(error: BaseException) -> None:
    raise error


EXITS: list[BaseException] = [
    SystemExit(3),
    KeyboardInterrupt(),
    asyncio.CancelledError(),
    GeneratorExit(),
    BaseException("a panic of a library"),
    BaseExceptionGroup("of a task group", [SystemExit(3)]),
]


@pytest.mark.parametrize("error", EXITS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("method", ["connect", "subscribe", "publish", "cancel", "message", "call", "validated"])
async def test_a_hook_that_ends_by_what_is_no_exception_is_100(method: str, error: BaseException) -> None:
    class Model(BaseModel):
        id: int

        @field_validator("id")
        @classmethod
        def check(cls, value: int) -> int:
            raise_(error)
            return value

    async def hook(client: Client, *_: str) -> None:
        raise_(error)

    async def validated(client: Client, data: Model) -> None:
        pass

    events = {f"on_{event}": hook for event in ("connect", "subscribe", "publish", "cancel", "message")}
    known = hooks(**events, rpc={"get": hook, "check": validated})
    asked: tuple[Any, ...] = {
        "connect": (Request(), Raw()),
        "message": (Raw(),),
        "call": ("get", Raw()),
        "validated": ("check", Raw(b'{"id":1}')),
        "cancel": ("room", "why"),
    }.get(method, ("room", Raw()))
    with capture_logs() as lines:
        reason = await refusal(getattr(known, method.replace("validated", "call"))(ALICE, *asked))

    assert reason.code == 100
    assert [line["event"] for line in lines] == ["hook_failed"]


async def test_a_hook_is_cancelled_with_its_client() -> None:
    begun = asyncio.Event()

    async def on_publish(client: Client, channel: str) -> None:
        begun.set()
        await asyncio.Event().wait()

    task = asyncio.ensure_future(hooks(on_publish=on_publish).publish(ALICE, "room", Raw()))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("info", [b"\xff", b"[" * 257 + b"]" * 257, b"1" * 1001, b'"\\ud800"', 10**1000])
async def test_what_others_could_not_read_of_a_client_is_a_fault_of_the_hook(info: object) -> None:
    async def hook(client: Client, *_: str) -> Accept:
        return Accept(info=info)

    known = hooks(on_connect=hook, on_subscribe=hook)
    with capture_logs() as lines:
        assert (await refusal(known.connect(ALICE, Request(), Raw()))).code == 100
        assert (await refusal(known.subscribe(ALICE, "room", Raw()))).code == 100
    assert [line["event"] for line in lines] == ["hook_failed"] * 2


async def test_a_slow_hook_is_bounded() -> None:
    async def on_connect(client: Client) -> None:
        await asyncio.Event().wait()

    async with asyncio.timeout(DEADLINE):
        reason = await refusal(hooks(on_connect=on_connect).connect(ALICE, Request(), Raw()))

    assert reason.code == 100


async def test_what_on_connect_returns_goes_to_the_client() -> None:
    async def on_connect(client: Client, data: Any) -> dict[str, Any]:
        return {"hello": client.user, "sent": data}

    result = await hooks(on_connect=on_connect).connect(ALICE, Request(), Raw(b'{"a":1}'))

    assert bytes(result.data) == b'{"hello":"alice","sent":{"a":1}}'


async def test_on_publish_may_change_what_is_published_or_leave_it() -> None:
    async def on_publish(client: Client, channel: str, data: Any) -> Any:
        return {"shout": data["text"].upper()} if channel == "loud" else None

    both = hooks(on_publish=on_publish)

    assert bytes(await both.publish(ALICE, "loud", Raw(b'{"text":"a"}'))) == b'{"shout":"A"}'
    assert bytes(await both.publish(ALICE, "calm", Raw(b'{"text":"a"}'))) == b'{"text":"a"}'


async def test_a_hook_may_take_the_bytes_as_they_came() -> None:
    seen: list[bytes] = []

    async def on_message(client: Client, data: bytes) -> None:
        seen.append(data)

    await hooks(on_message=on_message).message(ALICE, Raw(b"\x00\xff"))

    assert seen == [b"\x00\xff"]


def test_a_plain_function_is_refused_with_the_remedy() -> None:
    def on_connect(client: Client) -> None:
        return None

    with pytest.raises(HooksError, match="async def"):
        hooks(on_connect=on_connect)


def test_a_misspelt_hook_is_refused() -> None:
    async def on_conect(client: Client) -> None:
        return None

    with pytest.raises(HooksError, match="on_conect: not a hook; the hooks are on_connect"):
        hooks(on_conect=on_conect)


@pytest.mark.processes
def test_hooks_of_a_package_called_app_import_the_users_own_modules(tmp_path: Path) -> None:
    package = tmp_path / "app"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "models.py").write_text("GREETING = 'from app.models'\n")
    (package / "hooks.py").write_text(
        "from app.models import GREETING\n\nasync def on_connect(client):\n    return {'said': GREETING}\n"
    )
    code = (
        "from pathlib import Path; from starling.client.hooks_module import load_hooks; import sys\n"
        f"load_hooks('app.hooks', Path({str(tmp_path)!r}), seconds=1)\n"
        "print(sys.modules['app.models'].GREETING)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)

    assert (done.returncode, done.stdout) == (0, "from app.models\n"), done.stderr


def test_a_module_is_found_on_the_path_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend("")
    (tmp_path / "hooks_of_this_test.py").write_text("async def on_connect(client):\n    return {'a': 1}\n")

    loaded = load_hooks("hooks_of_this_test", tmp_path, seconds=1)

    assert bytes(asyncio.run(loaded.connect(ALICE, Request(), Raw())).data) == b'{"a":1}'


def test_a_module_that_is_not_there_is_named_with_the_remedy() -> None:
    with pytest.raises(HooksError, match=r"no module nowhere_to_be_found: .*STARLING_HOOKS_PATH"):
        load_hooks("nowhere_to_be_found", None, seconds=1)


@pytest.mark.parametrize(
    ("line", "raised"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("raise GeneratorExit", "GeneratorExit"),
    ],
)
def test_a_module_that_fails_is_reported_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, raised: str
) -> None:
    monkeypatch.syspath_prepend("")
    (tmp_path / "broken_hooks.py").write_text(line)

    with pytest.raises(HooksError, match=f"importing broken_hooks failed: {raised}"):
        load_hooks("broken_hooks", tmp_path, seconds=1)


async def test_what_nobody_takes_ends_the_connection_with_3508() -> None:
    reason = await refusal(hooks().message(ALICE, Raw(b"1")))

    assert reason.code == 3508


async def test_a_hook_that_exits_is_100_too() -> None:
    async def on_publish(client: Client, channel: str, data: Any) -> None:
        sys.exit(3)

    reason = await refusal(hooks(on_publish=on_publish).publish(ALICE, "room", Raw(b"1")))

    assert reason.code == 100


@pytest.mark.parametrize(
    ("name", "source", "complaint"),
    [
        ("on_publish", "async def on_publish(client): ...", "on_publish(client): too many positional arguments"),
        ("on_publish", "async def on_publish(client, data, channel): ...", "multiple values for argument 'data'"),
        ("on_connect", "async def on_connect(client, database): ...", "missing a required argument: 'database'"),
        ("on_subscribe", "async def on_subscribe(client): ...", "async def …(client, channel[, data][, state])"),
        ("on_disconnect", "async def on_disconnect(): ...", "on_disconnect(): too many positional arguments"),
        ("on_message", "async def on_message(client, *, data: 'Nowhere'): ...", "the annotation of data"),
    ],
)
def test_a_function_that_could_not_be_called_is_refused_at_start(name: str, source: str, complaint: str) -> None:
    defined: dict[str, Any] = {}
    exec(source, defined)

    with pytest.raises(HooksError, match=re.escape(complaint)):
        hooks(**{name: defined[name]})


async def test_functions_take_only_what_they_ask_for_by_name() -> None:
    async def on_connect(client: Client, state: str, request: Request) -> list[str]:
        return [client.user, request.path, state]

    async def lifespan() -> AsyncIterator[str]:
        yield "a pool"

    loaded = hooks(on_connect=on_connect, lifespan=lifespan)
    async with loaded.running():
        decision = await loaded.connect(ALICE, Request(path="/there"), Raw())

    assert bytes(decision.data) == b'["alice","/there","a pool"]'
    assert decision.user is None


@pytest.mark.parametrize("decorated", [False, True])
async def test_a_lifespan_ends_after_the_last_call(decorated: bool) -> None:
    steps: list[str] = []

    async def lifespan() -> AsyncIterator[None]:
        steps.append("opened")
        yield
        steps.append("closed")

    async with hooks(lifespan=asynccontextmanager(lifespan) if decorated else lifespan).running():
        assert steps == ["opened"]
    assert steps == ["opened", "closed"]


def test_a_lifespan_that_wants_an_application_is_refused() -> None:
    async def lifespan(application: object) -> AsyncIterator[None]:
        yield

    with pytest.raises(HooksError, match="lifespan: missing a required argument: 'application', but it gets no"):
        hooks(lifespan=lifespan)


async def test_accept_says_who_a_client_is_and_where_it_enters() -> None:
    end = datetime(2030, 1, 1, tzinfo=UTC)

    async def on_connect(client: Client) -> Accept:
        terms = Accept(info=1, data=b"2", expire_at=5, tags_filter={"key": "kind", "cmp": "eq", "val": "a"})
        return Accept("alice", {"a": 1}, {"news": terms, "rest": Accept()}, end, "hello", meta={"plan": "pro"})

    decision = await hooks(on_connect=on_connect).connect(Client(), Request(), Raw())

    assert (decision.user, bytes(decision.info), bytes(decision.data)) == ("alice", b'{"a":1}', b'"hello"')
    assert (decision.meta, decision.expires_at) == (b'{"plan":"pro"}', 1893456000.0)
    news, rest = decision.channels["news"], decision.channels["rest"]
    assert (bytes(news.info), bytes(news.data), news.expires_at) == (b"1", b"2", 5)
    assert news.filter is not None
    assert news.filter.matches({"kind": "a"})
    assert not news.filter.matches({"kind": "b"})
    assert (bytes(rest.info), bytes(rest.data), rest.expires_at, rest.filter) == (b"", b"", None, None)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"user": 7}, "user: int is no text"),
        ({"user": None}, "user: NoneType is no text"),
        ({"channels": "news"}, "channels: give a list of channel names"),
        ({"channels": [7]}, "channels: 7 is no channel name"),
        ({"channels": {"news": {"info": 1}}}, "channels: news: dict is no Accept"),
        ({"expire_at": "tomorrow"}, "expire_at: str"),
        ({"expire_at": True}, "expire_at: bool"),
        ({"expire_at": datetime(2030, 1, 1)}, "expire_at: a datetime needs its zone"),  # noqa: DTZ001 - refused
        ({"tags_filter": {"cmp": "like"}}, "tags_filter.cmp: 'like' is none of"),
        ({"tags_filter": {"key": 7}}, "tags_filter: Expected `str`"),
        ({"tags_filter": {"key": "a", "cmp": "ex", "not": 1}}, "tags_filter: Object contains unknown field `not`"),
    ],
)
def test_an_accept_that_cannot_be_meant_names_the_field(arguments: dict[str, Any], complaint: str) -> None:
    with pytest.raises((TypeError, ValueError), match=re.escape(complaint)):
        Accept(**arguments)


@pytest.mark.parametrize("result", [True, False, {"info": 1}, Accept("alice"), Accept(channels=["news"])])
async def test_a_result_of_on_subscribe_that_grants_nothing_is_a_fault(result: object) -> None:
    async def on_subscribe(client: Client, channel: str) -> object:
        return result

    with capture_logs() as lines:
        reason = await refusal(hooks(on_subscribe=on_subscribe).subscribe(ALICE, "room", Raw()))

    assert reason.code == 100
    assert [line["event"] for line in lines] == ["hook_failed"]


@pytest.mark.parametrize("name", ["on_disconnect", "on_unsubscribe"])
async def test_the_end_of_a_client_survives_a_hook_that_fails(name: str) -> None:
    async def hook(client: Client, channel: str = "") -> None:
        raise KeyError("a mistake")

    loaded = hooks(**{name: hook})
    with capture_logs() as lines:
        if name == "on_disconnect":
            await loaded.disconnected(ALICE, 3000, "")
        else:
            await loaded.unsubscribed(ALICE, "room")

    assert [line["event"] for line in lines] == ["hook_failed"]


COOKIES = [(b"cookie", b"sid=1; a=x"), (b"Cookie", b'b="q q"; a=y'), (b"X-Key", b"k")]


def test_a_request_shows_cookies_only_where_pages_are_named() -> None:
    open_to_all, checked = Request(COOKIES), Request(COOKIES, cookies_checked=True)

    assert dict(open_to_all.headers) == {"x-key": "k"}
    with pytest.raises(CookiesNotChecked, match="set STARLING_ALLOWED_ORIGINS"):
        _ = open_to_all.cookies
    assert checked.headers["COOKIE"] == 'sid=1; a=x; b="q q"; a=y'
    # Two values of one name: a sibling domain may have set either.
    assert checked.cookies == {"sid": "1", "b": "q q"}
    assert "sid" not in repr(checked)


def test_a_module_that_fails_shows_its_own_lines_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend("")
    (tmp_path / "deep_part.py").write_text("def work():\n    return {}['missing']\n")
    (tmp_path / "deep_hooks.py").write_text("import deep_part\n\ndeep_part.work()\n")

    with pytest.raises(HooksError) as failed:
        load_hooks("deep_hooks", tmp_path, seconds=1)

    assert str(failed.value).splitlines() == [
        "importing deep_hooks failed: KeyError: 'missing'",
        f"  {tmp_path / 'deep_hooks.py'}, line 3: deep_part.work()",
        f"  {tmp_path / 'deep_part.py'}, line 2: return {{}}['missing']",
    ]
