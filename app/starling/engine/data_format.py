"""What the publications of a namespace may be: refused where they enter, so that every reader can read them."""

import structlog

from starling.engine.channels import ChannelOptions
from starling.protocol.codes import ERROR_BAD_REQUEST, CommandRefused, Error
from starling.protocol.portable_json import NESTING_LIMIT, NUMBER_LIMIT, is_json

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.data_format")

_JSON = (
    f"JSON in UTF-8 without lone surrogates, nested at most {NESTING_LIMIT} deep, with numbers of at most "
    f"{NUMBER_LIMIT} characters"
)
_BRACE = b"{"


def check_publication(data: bytes, options: ChannelOptions) -> None:
    """Raise CommandRefused with 107 for data that is not of the namespace's `publication_data_format`."""
    wanted = options.publication_data_format
    if wanted in ("any", "binary"):
        return
    if not is_json(data):
        raise CommandRefused(_refusal(wanted, _JSON))
    if wanted == "json_object" and not data.lstrip().startswith(_BRACE):
        raise CommandRefused(_refusal(wanted, "a JSON object"))


def _refusal(wanted: str, what: str) -> Error:
    return Error(ERROR_BAD_REQUEST.code, f"bad request: data is not {what}, see publication_data_format: {wanted}")


class UnreadableMessages:
    """Counts what is in a channel all the same and JSON clients cannot read; the first is logged.

    Only an option of the namespace, or another program that writes into the broker, brings such a thing.
    """

    def __init__(self) -> None:
        self.count = 0

    def note(self, count: int = 1, **where: str) -> None:
        """Count messages that JSON clients do not get; `where` goes into the log."""
        if not self.count:
            log.warning(
                "unreadable_for_json_clients",
                **where,
                remedy="set publication_data_format of the namespace to json or binary, and see what else publishes "
                "there; further ones are only counted, in starling_unreadable_messages_total",
            )
        self.count += count
