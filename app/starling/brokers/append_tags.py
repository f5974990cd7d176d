"""The tags of a publication that changes the status of an append-only stream, which stand behind its tag `at`."""

import json

from starling.engine.append_store import StreamStatus


def status_tags(status: StreamStatus, reason: str) -> dict[str, str]:
    """The new status and, if there is one, its reason."""
    return {"status": status.value, **({"reason": reason} if reason else {})}


def further_members(tags: dict[str, str]) -> bytes:
    """`tags` as a script puts them behind other members of a JSON object: each with a comma before it."""
    return ("," + json.dumps(tags, ensure_ascii=False)[1:-1]).encode()
