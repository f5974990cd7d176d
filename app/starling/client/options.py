"""Options of one client's side: its hooks, and the number of a user's connections."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from starling.options import Options, Seconds


class UserLimitOptions(Options):
    """How many connections a user may have."""

    section = "Connections and their limits"

    max_connections_per_user: Annotated[
        int,
        Field(
            ge=0,
            le=1_000_000,
            description="Real-time connections of one user, in all pods; the next is closed with 3504. 0: any number.",
        ),
    ] = 0


class HookOptions(Options):
    """The module of the user's own functions."""

    section = "Hooks"

    hooks: Annotated[
        str | None, Field(description="Python module with your own async functions for clients: see docs/hooks.md.")
    ] = None
    hooks_path: Annotated[
        Path | None, Field(description="Directory that is put on the import path for your hooks.")
    ] = None
    hook_seconds: Annotated[
        Seconds, Field(gt=0, le=60, description="How long one call of a hook may take before its client gets an error.")
    ] = 2.0
