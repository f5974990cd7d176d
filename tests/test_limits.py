"""The page on limits says what the code does."""

import re
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from starling.auth.jws import MAX_TOKEN_BYTES
from starling.brokers.broadcast import MAX_EVENTS
from starling.client.commands.presence import MEMBERS
from starling.client.node_commands import CHANNELS_LIMIT
from starling.engine.append_store import PRODUCERS_LIMIT
from starling.engine.capture import CAPTURE_SECONDS, CAPTURES_LIMIT, FRAMES_WAITING
from starling.engine.channels import NAME_LENGTH, ChannelOptions
from starling.engine.frame_tap import EVENTS_WAITING
from starling.engine.history import SCAN_LIMIT
from starling.engine.stream_contract import ANSWER_BYTES
from starling.protocol.codec import COMMANDS_PER_FRAME
from starling.protocol.options import SessionLimits
from starling.protocol.portable_json import NESTING_LIMIT, NUMBER_LIMIT
from starling.protocol.shown import PAYLOAD_BYTES
from starling.protocol.tags_filter import MOST_DEPTH, MOST_NODES, MOST_VALUES
from starling.server.assembly import CONTROL_BURST
from starling.server.options import BODY_SECONDS, ServerOptions
from starling.settings import PREFIX, Settings
from starling.web.api_models import (
    BATCH_COMMANDS,
    HISTORY_LIMIT,
    TOP_LIMIT,
)
from starling.web.api_publishing import BROADCAST_CHANNELS, IDEMPOTENCY_KEY_LENGTH, WAIT_SECONDS
from starling.web.api_stream_models import STREAM_LIST, STREAM_WAIT
from starling.web.api_waiting import WAITING_LIMIT
from starling.web.proxy_backend import POOL_CONNECTIONS, REPLY_BYTES
from starling.web.proxy_cache import MOST_ANSWERS
from starling.web.webhooks import QUEUE_EVENTS

PAGE = (Path(__file__).parents[1] / "docs" / "limits.md").read_text()
TABLE = [line for line in PAGE.partition("\n## ")[0].splitlines() if line.startswith("| ")]
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in TABLE[1:]]
SERVER: dict[str, Any] = {name: field.default for name, field in ServerOptions.model_fields.items()}
FIXED = {
    "commands in one frame": COMMANDS_PER_FRAME,
    "data in a history answer to a client, beyond the first publication": ANSWER_BYTES,
    "clients in a presence answer to a client": MEMBERS,
    "publications that a history call with a filter looks at": SCAN_LIMIT,
    "nodes of a filter by tags": MOST_NODES,
    "levels of a filter by tags": MOST_DEPTH,
    "`vals` of a filter by tags, in all its nodes": MOST_VALUES,
    "errors caused by a connection in a minute": SessionLimits().errors_per_minute,
    "content of an append-only stream": ChannelOptions().stream_max_bytes,
    "producers of an append-only stream": PRODUCERS_LIMIT,
    "streams in a `stream_list`": STREAM_LIST,
    "seconds that `stream_info` waits": STREAM_WAIT,
    "levels of JSON": NESTING_LIMIT,
    "characters of a number in JSON": NUMBER_LIMIT,
    "token": MAX_TOKEN_BYTES,
    "head of a request": SERVER["max_head_bytes"],
    "header fields of a request": SERVER["max_header_fields"],
    "fragments of a message": SERVER["max_fragments"],
    "pings, pongs and empty fragments of a client at once": CONTROL_BURST,
    "broker messages queued in a worker": MAX_EVENTS,
    "webhook events queued in a worker": QUEUE_EVENTS,
    "time for a request's body": BODY_SECONDS,
    "channels of a broadcast": BROADCAST_CHANNELS,
    "commands of a batch": BATCH_COMMANDS,
    "publications of one history call of the API": HISTORY_LIMIT,
    "seconds that a publication waits for the broker": WAIT_SECONDS,
    "publications of a worker waiting for the broker": WAITING_LIMIT,
    "reply of a proxy": REPLY_BYTES,
    "answers of subscribe proxies kept in a worker": MOST_ANSWERS,
    "connections of a worker to one proxy": POOL_CONNECTIONS,
    "idempotency key": IDEMPOTENCY_KEY_LENGTH,
    "captures at one time, over all nodes": CAPTURES_LIMIT,
    "seconds of a capture": CAPTURE_SECONDS,
    "frames of a capture queued for its reader": FRAMES_WAITING,
    "frames of a capture that a node sends in a tenth of a second": EVENTS_WAITING,
    "payload shown in a capture": PAYLOAD_BYTES,
    "channels in a `top` result": TOP_LIMIT,
    "channels of a node in a `channels` result": CHANNELS_LIMIT,
    "channel name": NAME_LENGTH,
}


def test_each_setting_of_the_page_has_the_default_it_reports() -> None:
    reported = {cells[3].strip("`"): cells[1] for cells in ROWS if cells[3].startswith("`")}

    for variable, default in reported.items():
        found = Settings.model_fields[variable.removeprefix(PREFIX).lower()].default
        assert not isinstance(found, SecretStr)
        assert float(re.findall(r"[\d.]+", default)[0]) == float(found), variable


def test_each_limit_that_no_setting_moves_is_the_codes_own() -> None:
    reported = {cells[0]: float(re.findall(r"\d+", cells[1])[0]) for cells in ROWS if cells[3] == "none"}

    assert reported == {name: float(value) for name, value in FIXED.items()}


def test_no_setting_that_is_a_limit_is_missing() -> None:
    limits = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields if re.search(r"^max_|_limit$|_max_", name)}

    assert {variable for variable in limits if f"`{variable}`" not in PAGE} == set()
