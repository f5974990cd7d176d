"""The rejection of a client that may not connect now."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a client is rejected, and after how many seconds it should try again."""

    reason: str
    message: str
    retry_after: int
