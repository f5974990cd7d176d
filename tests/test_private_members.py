"""Members of dependencies that no manual promises: the page that lists them, and the tests of those without a suite."""

import ast
import importlib
import inspect
import pkgutil
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import gunicorn.glogging
import pytest
from packaging.requirements import Requirement
from redis.asyncio import Connection
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from websockets import frames
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory

import starling
from tests.support.services import RedisServer

ROOT = Path(__file__).parents[1]
ROWS = re.findall(r"^\| `([\w-]+)` \| (.+) \| (.+) \| `(.+)` \|$", (ROOT / "docs/dependencies.md").read_text(), re.M)
# Underscored, and documented all the same.
DOCUMENTED = {"_asdict", "_replace", "_exit"}
# What Python itself writes into classes.
PYTHON = {"_abc_impl", "_is_protocol", "_is_runtime_protocol"}


def test_packages_of_the_page_are_pinned_to_one_version() -> None:
    wanted = map(Requirement, tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"])
    pins = {each.name: str(each.specifier) for each in wanted}
    assert ROWS
    assert {package: pins[package] for package, *_ in ROWS if not re.fullmatch(r"==[\d.]+", pins[package])} == {}


@pytest.mark.parametrize("test", [test for *_, test in ROWS])
def test_the_page_names_tests_that_are_there(test: str) -> None:
    file, _, name = test.partition("::")
    functions = {node.name for node in ast.walk(ast.parse((ROOT / file).read_text())) if hasattr(node, "name")}
    assert name in functions


def modules() -> Iterator[ModuleType]:
    for module in pkgutil.walk_packages(starling.__path__, "starling."):
        if not module.name.endswith(("_pb2", "__main__")):
            yield importlib.import_module(module.name)


def private_uses() -> Iterator[tuple[str, str]]:
    """Underscored members of dependencies: of other objects, and of self where a foreign base class has them."""
    for module in modules():
        tree = ast.parse(inspect.getsource(module))
        own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        own |= {
            node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self"
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and re.match(r"_[a-z]", node.attr) and node.attr not in own | DOCUMENTED:
                yield module.__name__, node.attr
        for kind in vars(module).values():
            if isinstance(kind, type) and kind.__module__ == module.__name__:
                yield from ((module.__name__, name) for name in _inherited(kind))


def _inherited(kind: type) -> Iterator[str]:
    """Underscored names that the source of `kind` says and that a base class outside of the package has, too."""
    foreign = [
        base
        for base in kind.__mro__[1:]
        if base.__module__.partition(".")[0] not in sys.stdlib_module_names | {"starling", "builtins", "pydantic"}
    ]
    if not foreign:
        return
    said = set(re.findall(r"\b(?:self|cls|super\(\))\.(_[a-z]\w*)", inspect.getsource(kind)))
    said |= {name for name in vars(kind) if re.match(r"_[a-z]", name)}
    for name in said - PYTHON:
        if any(hasattr(base, name) or f"self.{name} = " in _source(base) for base in foreign):
            yield name


def _source(kind: type) -> str:
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):
        return ""


def test_every_private_member_that_the_code_uses_stands_on_the_page() -> None:
    listed = set(re.findall(r"\b_[a-z]\w*", " ".join(members for _, members, *_ in ROWS)))
    missing = {(module, name) for module, name in private_uses() if name not in listed}
    assert missing == set()


def test_every_private_member_of_the_page_is_used() -> None:
    listed = set(re.findall(r"\b_[a-z]\w*", " ".join(members for _, members, *_ in ROWS)))
    assert listed - {name for _, name in private_uses()} == set()


def test_gunicorn_asks_its_logger_whether_requests_are_logged() -> None:
    source = inspect.getsource(gunicorn.glogging.Logger)
    assert "self._access_log_enabled" in source
    assert hasattr(gunicorn.glogging.Logger, "setup")


async def test_a_connection_of_redis_py_holds_the_transport_below_it(redis_server: RedisServer) -> None:
    connection = Connection(host="127.0.0.1", port=redis_server.port)
    assert connection._writer is None
    await connection.connect()  # type: ignore[no-untyped-call]
    assert connection._writer is not None
    assert connection._writer.transport.get_extra_info("peername")[1] == redis_server.port
    await connection.disconnect()


def test_the_sentinel_classes_have_the_members_in_use() -> None:
    sentinel = Sentinel([("127.0.0.1", 1)])  # type: ignore[no-untyped-call]
    assert len(sentinel.sentinels) == 1
    assert list(inspect.signature(sentinel.check_master_state).parameters) == ["state", "service_name"]
    pool = SentinelConnectionPool("main", sentinel)  # type: ignore[no-untyped-call]
    assert pool.master_address is None
    assert inspect.iscoroutinefunction(pool.get_master_address)


def test_websockets_masks_by_a_function_of_its_module_of_frames() -> None:
    apply_mask = frames.apply_mask  # type: ignore[attr-defined]
    assert apply_mask(b"abcde", b"\x01\x02\x03\x04") == bytes([0x60, 0x60, 0x60, 0x60, 0x64])


def test_websockets_agrees_on_compression_by_a_factory() -> None:
    answer, agreed = ServerPerMessageDeflateFactory(server_max_window_bits=10).process_request_params([], ())
    assert ("server_max_window_bits", "10") in answer
    assert agreed.local_max_window_bits == 10
