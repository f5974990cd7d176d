"""Public: what the functions of a user's hooks module take, return and raise (docs/hooks.md)."""

from starling.client.hook_answers import Accept
from starling.engine.hook_request import Request
from starling.engine.hooks import Client, Refuse

__all__ = ["Accept", "Client", "Refuse", "Request"]
