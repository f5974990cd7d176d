"""What a client is told that may not come in now."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a client is turned away, and after how many seconds it should try again."""

    reason: str
    message: str
    retry_after: int
