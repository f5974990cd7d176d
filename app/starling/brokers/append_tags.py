"""The tags of a publication that changes the status of an append-only stream, as scripts put them behind `at`."""

import json

from starling.engine.append_store import StreamStatus


def tags_of(status: StreamStatus, reason: str) -> bytes:
    """Further members of a JSON object, each with a comma before it."""
    members = {"status": status.value, **({"reason": reason} if reason else {})}
    return ("," + json.dumps(members, ensure_ascii=False)[1:-1]).encode()
