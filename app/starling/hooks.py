"""Public: what the functions of a user's hooks module take and raise (docs/hooks.md)."""

from starling.engine.hooks import Refuse
from starling.protocol.messages import ClientInfo as Client

__all__ = ["Client", "Refuse"]
