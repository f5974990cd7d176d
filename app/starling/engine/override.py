"""The options of a channel that one subscription may set for itself."""

from typing import Generic, TypeVar

from msgspec import Struct
from msgspec.structs import asdict

Value_co = TypeVar("Value_co", covariant=True)


class Switch(Struct):
    """An option, on or off."""

    value: bool


class Override(Struct, Generic[Value_co], frozen=True, omit_defaults=True):
    """The channel options that one subscription may set for itself, the only list of them; None leaves one as it is.

    Tokens and the server API write each as a boolean or as a Switch.
    """

    presence: Value_co | None = None
    join_leave: Value_co | None = None
    force_push_join_leave: Value_co | None = None
    force_positioning: Value_co | None = None
    force_recovery: Value_co | None = None


class ChannelOverride(Override[bool], frozen=True, omit_defaults=True):
    """What one subscription sets, in plain booleans."""


NO_OVERRIDE = ChannelOverride()


def plain(override: Override[Switch | bool] | None) -> ChannelOverride:
    """An override as it was written, in plain booleans."""
    if override is None:
        return NO_OVERRIDE
    values = asdict(override).items()
    return ChannelOverride(**{name: value.value if isinstance(value, Switch) else value for name, value in values})
