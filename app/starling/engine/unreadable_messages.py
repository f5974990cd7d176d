"""Publications that are in a channel although clients of a format cannot read them."""

import structlog

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.data_format")


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
