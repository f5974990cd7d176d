"""How the parts declare their options: fields of frozen classes, each with type, default, bounds, unit and meaning.

Each layer has a module `options` with one class for each part. `starling.settings.Settings` joins all of
them: the names of environment variables, the documentation and the values of the
chart follow from the declarations.
"""

import typing
from collections.abc import Iterable, Iterator
from enum import Enum
from typing import Annotated, Any, ClassVar, NamedTuple, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, model_validator
from pydantic.fields import FieldInfo

from starling.variables import variable


class Unit(Enum):
    """What a number of an option counts."""

    SECONDS = "seconds"
    BYTES = "bytes"
    SHARE = "share from 0 to 1"
    PER_SECOND = "per second"


Seconds = Annotated[float, Unit.SECONDS]
WholeSeconds = Annotated[int, Unit.SECONDS]
Bytes = Annotated[int, Unit.BYTES]
Share = Annotated[float, Unit.SHARE]
PerSecond = Annotated[float, Unit.PER_SECOND]


def _split(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


CommaSeparated = Annotated[tuple[str, ...], BeforeValidator(_split)]


class OptionProblem(NamedTuple):
    """Why an option cannot be used: its field (empty: several or none), and a sentence with the remedy."""

    field: str
    text: str


def problem(field: str, message: str) -> OptionProblem:
    """Why the option `field` cannot be used, in the words that an operator gets."""
    return OptionProblem(field, f"{variable(field)}: {message}")


class OptionError(ValueError):
    """The value of one option cannot be used; for parts that are also built without settings."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message

    @property
    def problem(self) -> OptionProblem:
        """The error in the words that an operator gets."""
        return problem(self.field, self.message)


class SettingsError(Exception):
    """Settings that cannot be used: `found` has each problem, `problems` their sentences."""

    def __init__(self, problems: Iterable[str | OptionProblem]) -> None:
        self.found = [each if isinstance(each, OptionProblem) else OptionProblem("", each) for each in problems]
        self.problems = [each.text for each in self.found]
        super().__init__("\n".join(self.problems))


class Options(BaseModel):
    """The options of one part. `section` is the heading of its fields in the list of all settings.

    A subclass has the options of its bases too. Raises SettingsError for values that contradict each other.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    section: ClassVar[str] = ""

    @classmethod
    def of(cls, source: "Options", **changes: Any) -> Self:
        """Take the options of this part from the fields and properties of `source`, with `changes`."""
        found = {name: getattr(source, name) for name in cls.model_fields if hasattr(source, name)}
        return cls(**found | changes)

    def contradictions(self) -> Iterator[OptionProblem]:
        """What does not fit together among the options that the class itself declares."""
        yield from ()

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        bases = [each for each in reversed(type(self).__mro__) if issubclass(each, Options)]
        classes = [each for each in bases if "contradictions" in vars(each)]
        problems = [found for each in classes for found in each.contradictions(self)]
        if problems:
            raise SettingsError(problems)
        return self


class DeveloperOptions(Options):
    """Whether the service runs for a developer, who needs no tokens and no permissions."""

    section = "Developer mode"

    dev: Annotated[
        bool, Field(description="Developer mode: everyone may do everything. Never where others can reach the port.")
    ] = False


class Declaration(NamedTuple):
    """One option as its class declares it."""

    name: str
    section: str
    field: FieldInfo

    @property
    def secret(self) -> bool:
        """Whether the value must not be shown."""
        return SecretStr in _parts(self.field.annotation)

    @property
    def unit(self) -> Unit | None:
        """What the number counts; None for other values."""
        parts = (*self.field.metadata, *_parts(self.field.annotation))
        return next((part for part in parts if isinstance(part, Unit)), None)


def declarations(options: type[Options]) -> list[Declaration]:
    """All options of a class: its own, and then those of its bases."""
    own = vars(options).get("__annotations__", {})
    found = {
        name: Declaration(name, options.section, options.model_fields[name])
        for name in own
        if name in options.model_fields
    }
    for base in options.__bases__:
        if issubclass(base, Options) and base is not Options:
            found |= {each.name: each for each in declarations(base) if each.name not in found}
    return list(found.values())


def _parts(annotation: Any) -> list[Any]:
    """Every type that `annotation` is made of, and what is said about them."""
    return [annotation, *(each for part in typing.get_args(annotation) for each in _parts(part))]
