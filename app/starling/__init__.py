"""Starling: a real-time WebSocket service for Python teams.

The names in `__all__` are public; what else users import stands in `starling.hooks`. Each is imported when it is first
used, so that `import starling` costs nothing.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starling.embed.dependencies import CurrentUser, OptionalUser, User, require
    from starling.embed.service import Starling
    from starling.hooks import Accept, Client, Refuse, Request
    from starling.producer.errors import Cancelled, StreamError
    from starling.producer.http import open_stream

__version__ = "0.1.0"
__all__ = [
    "Accept",
    "Cancelled",
    "Client",
    "CurrentUser",
    "OptionalUser",
    "Refuse",
    "Request",
    "Starling",
    "StreamError",
    "User",
    "__version__",
    "open_stream",
    "require",
]

# The module that defines each public name.
_HOMES = {
    "Accept": "starling.hooks",
    "Cancelled": "starling.producer.errors",
    "Client": "starling.hooks",
    "CurrentUser": "starling.embed.dependencies",
    "OptionalUser": "starling.embed.dependencies",
    "Refuse": "starling.hooks",
    "Request": "starling.hooks",
    "Starling": "starling.embed.service",
    "StreamError": "starling.producer.errors",
    "User": "starling.embed.dependencies",
    "open_stream": "starling.producer.http",
    "require": "starling.embed.dependencies",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
