"""The reasons why the server rejects or disconnects a client below the application, as metrics and logs name them."""

from enum import StrEnum


class RejectReason(StrEnum):
    """The argument of `Service.on_refused`; the first six before the upgrade, the others on an open WebSocket."""

    HANDSHAKE_TIMEOUT = "handshake_timeout"
    HEAD_TOO_LARGE = "head_too_large"
    BODY_TIMEOUT = "body_timeout"
    MALFORMED_REQUEST = "malformed_request"
    BAD_UPGRADE = "bad_upgrade"
    DRAINING = "draining"
    PROTOCOL_ERROR = "protocol_error"
    INVALID_UTF8 = "invalid_utf8"
    MESSAGE_TOO_LARGE = "message_too_large"
    CONTROL_FLOOD = "control_flood"
