"""Example requests and results of the server API, as its reference shows them."""

from typing import Any

_STREAM = {"type": "text", "status": "open", "offset": 0, "epoch": "xtZk3bqA", "length": 0, "size": 0}

EXAMPLES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "publish": (
        {"channel": "news:sport", "data": {"text": "Kick-off"}, "idempotency_key": "kick-off-1"},
        {"offset": 42, "epoch": "xtZk3bqA"},
    ),
    "broadcast": (
        {"channels": ["#alice", "#bob"], "data": {"text": "Your report is ready"}},
        {"responses": [{"result": {}}, {"result": {}}]},
    ),
    "subscribe": ({"user": "alice", "channel": "room:7", "data": {"welcome": True}}, {}),
    "unsubscribe": ({"user": "alice", "channel": "room:7"}, {}),
    "disconnect": ({"user": "alice", "disconnect": {"code": 4501, "reason": "signed out"}}, {}),
    "refresh": ({"user": "alice", "expire_at": 1893456000}, {}),
    "presence": (
        {"channel": "room:7"},
        {
            "presence": {
                "5b1c9d0e7f2a4c68": {"user": "alice", "client": "5b1c9d0e7f2a4c68", "conn_info": {"name": "A."}}
            }
        },
    ),
    "presence_stats": ({"channel": "room:7"}, {"num_clients": 3, "num_users": 2}),
    "history": (
        {"channel": "news:sport", "limit": 10, "since": {"offset": 41, "epoch": "xtZk3bqA"}},
        {
            "publications": [{"data": {"text": "Kick-off"}, "offset": 42, "time": 1790000000000}],
            "offset": 42,
            "epoch": "xtZk3bqA",
        },
    ),
    "can": (
        {"user": "alice", "verb": "publish", "channel": "room:7", "subscribed": True},
        {
            "allowed": True,
            "rule": "allow_publish_for_subscriber",
            "namespace": "room",
            "sentence": "allow_publish_for_subscriber is on in the namespace room",
        },
    ),
    "stream_open": (
        {"channel": "answers:42", "type": "text", "producer": "model"},
        {**_STREAM, "created": True},
    ),
    "stream_append": (
        {"channel": "answers:42", "text": "Hello", "producer": "model", "producer_epoch": 0, "sequence": 0},
        {**_STREAM, "offset": 1, "length": 5, "size": 5},
    ),
    "stream_close": (
        {"channel": "answers:42", "status": "complete", "final": {"tokens": 1}},
        {**_STREAM, "status": "complete", "offset": 2, "length": 5, "size": 5, "final": {"tokens": 1}},
    ),
    "stream_cancel": (
        {"channel": "answers:42", "reason": "the user pressed stop"},
        {**_STREAM, "status": "cancelled", "offset": 1, "reason": "the user pressed stop"},
    ),
    "stream_info": ({"channel": "answers:42", "wait": 25}, _STREAM),
    "stream_delete": ({"channel": "answers:42"}, {"deleted": True}),
    "stream_list": (
        {"limit": 10},
        {"streams": [{"channel": "answers:42", "type": "text", "status": "open", "length": 5, "size": 5}]},
    ),
    "history_remove": ({"channel": "news:sport"}, {}),
    "channels": ({"pattern": "room:*"}, {"channels": {"room:7": {"num_clients": 3}}}),
    "connections": (
        {"user": "alice", "limit": 10},
        {
            "connections": [
                {
                    "client": "9b29275f3a0b41c2",
                    "user": "alice",
                    "transport": "json",
                    "address": "203.0.113.7",
                    "node": "starling-6f7c9_8",
                    "since": 1790000000.0,
                    "num_channels": 1,
                    "channels": ["room:7"],
                    "received": 4,
                    "sent": 31,
                }
            ]
        },
    ),
    "info": (
        {},
        {
            "nodes": [
                {
                    "uid": "9e815511fb67125d",
                    "name": "starling-6f7c9_8",
                    "version": "1.0.0",
                    "num_clients": 3,
                    "num_users": 2,
                    "num_subs": 3,
                    "num_channels": 1,
                    "uptime": 3600,
                }
            ]
        },
    ),
    "top": (
        {"limit": 1},
        {
            "nodes": [
                {
                    "uid": "9e815511fb67125d",
                    "name": "starling-6f7c9_8",
                    "version": "1.0.0",
                    "uptime": 3600.5,
                    "ready": True,
                    "draining": False,
                    "connections": 3,
                    "users": 2,
                    "subscriptions": 3,
                    "channels": 1,
                    "messages_in": 310,
                    "messages_out": 930,
                    "bytes_in": 9300,
                    "bytes_out": 62000,
                    "publications": 300,
                    "cpu_seconds": 4.2,
                    "memory_bytes": 60000000,
                    "lag_seconds": 0.001,
                }
            ],
            "channels": [
                {
                    "channel": "room:7",
                    "subscribers": 3,
                    "messages_per_second": 10.0,
                    "deliveries_per_second": 30.0,
                    "bytes_per_second": 2000.0,
                    "dropped_per_second": 0.0,
                }
            ],
            "missing": [],
        },
    ),
    "revoke_token": ({"uid": "token-1", "expire_at": 1893456000}, {}),
    "revoke_session": ({"session": "login-1", "expire_at": 1893456000}, {}),
    "invalidate_user_tokens": ({"user": "alice"}, {"issued_before": 1790000000}),
    "presence_set": ({"channel": "chat:42", "user": "bot", "info": {"state": "writing"}, "ttl": 60}, {}),
    "presence_unset": ({"channel": "chat:42", "user": "bot"}, {}),
    "ticket": (
        {"user": "alice", "channels": ["news"], "ttl": 30},
        {"ticket": "tkt_a-text-of-22-characters", "session": "5f0c1d1e0bb24b2c9a0f7d6e3c1b2a39"},
    ),
}
BATCH_EXAMPLE = (
    {"commands": [{"publish": {"channel": "news:sport", "data": {"text": "Kick-off"}}}, {"info": {}}]},
    {"replies": [{"publish": {"offset": 42, "epoch": "xtZk3bqA"}}, {"info": {"nodes": []}}]},
)

CAPTURE_LINES: list[dict[str, Any]] = [
    {"capture": "3f1c9d0e7f2a4c68", "seconds": 10, "nodes": ["starling-6f7c9_8"]},
    {
        "time": 1790000000000,
        "node": "starling-6f7c9_8",
        "direction": "in",
        "user": "alice",
        "client": "5b1c9d0e7f2a4c68",
        "frame": {"id": 1, "connect": {"token": "[redacted]"}},
    },
    {"dropped": 12, "node": "starling-6f7c9_8"},
    {"ended": "time is over", "frames": 1, "dropped": 12},
]
