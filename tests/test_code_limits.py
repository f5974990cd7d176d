"""Limits of the package's code: how long a module, how wide a class and how long a constructor may be."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "app" / "starling"
MODULE_LINES = 400
PUBLIC_MEMBERS = 20
CONSTRUCTOR_PARAMETERS = 8

# Each with its reason. A module or class that comes within its limit must leave this list.
LONG_MODULES: dict[str, str] = {}
WIDE_CLASSES = {
    "client/registered_hooks.py:RegisteredHooks": "one member of the contract for each hook, and what registers them",
    "embed/methods.py:ServerMethods": "one method a method of the server API",
    "brokers/broadcast.py:BroadcastBroker": "the methods of Broker, and one attribute a store",
    "client/client_connection.py:ClientConnection": "the engine's Receiver and a transport's Handler in one object",
    "client/connection.py:Connection": "the engine's Receiver and a transport's Handler in one object",
    "engine/engine.py:Engine": "one field a part",
    "web/api_batch_models.py:BatchCommand": "one field a method of the server API",
    "engine/channels.py:ChannelOptions": "one field an option of a channel",
}
LONG_CONSTRUCTORS = {
    "brokers/redis/cluster_shard.py:ShardBackend": "what all shards of a cluster share, made once",
    "server/http.py:StarlingHttp": "uvicorn passes the first four",
    "server/websocket.py:StarlingWebSocket": "the parts of one request, passed on from the HTTP protocol",
}
GENERATED = ("protocol/client_pb2.py",)


def modules() -> Iterator[tuple[str, str]]:
    """Every module that people write, with its text."""
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if name not in GENERATED:
            yield name, path.read_text()


def classes() -> Iterator[tuple[str, ast.ClassDef]]:
    for name, text in modules():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef):
                yield f"{name}:{node.name}", node


def public_members(node: ast.ClassDef) -> set[str]:
    """Methods, properties, fields and class attributes that the class body names."""
    names: set[str] = set()
    for item in node.body:
        if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(item.name)
        elif isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            names.add(item.target.id)
        elif isinstance(item, ast.Assign):
            names |= {target.id for target in item.targets if isinstance(target, ast.Name)}
    return {name for name in names if not name.startswith("_")}


def constructor_parameters(node: ast.ClassDef) -> int:
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            return len(item.args.posonlyargs) + len(item.args.args) + len(item.args.kwonlyargs) - 1
    return 0


def beyond(found: dict[str, int], limit: int, excepted: dict[str, str]) -> dict[str, int]:
    """What is over the limit without a reason, and what has a reason without being over it."""
    over = {name: size for name, size in found.items() if size > limit}
    return {name: found.get(name, 0) for name in over.keys() ^ excepted.keys()}


def test_no_module_is_longer_than_the_limit() -> None:
    lines = {name: len(text.splitlines()) for name, text in modules()}

    assert beyond(lines, MODULE_LINES, LONG_MODULES) == {}


def test_no_class_has_more_public_members_than_the_limit() -> None:
    members = {name: len(public_members(node)) for name, node in classes()}

    assert beyond(members, PUBLIC_MEMBERS, WIDE_CLASSES) == {}


def test_no_constructor_has_more_parameters_than_the_limit() -> None:
    parameters = {name: constructor_parameters(node) for name, node in classes()}

    assert beyond(parameters, CONSTRUCTOR_PARAMETERS, LONG_CONSTRUCTORS) == {}


@pytest.mark.parametrize(
    ("body", "members", "parameters"),
    [
        ("a: int = 1\n    _b = 2\n    def c(self): ...\n    def _d(self): ...", 2, 0),
        ("def __init__(self, a, *, b, c=1): ...", 0, 3),
        ("@property\n    def a(self): ...\n    async def b(self): ...", 2, 0),
    ],
)
def test_members_and_parameters_are_counted_as_a_reader_counts_them(body: str, members: int, parameters: int) -> None:
    node = ast.parse(f"class Example:\n    {body}").body[0]
    assert isinstance(node, ast.ClassDef)

    assert (len(public_members(node)), constructor_parameters(node)) == (members, parameters)
