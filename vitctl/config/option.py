"""Fields of configs, each declared with its help and its flag on the command line."""

import dataclasses
import typing
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, field
from typing import Any, ClassVar, Literal, Self, TypeVar

from vitctl.config.res import Res

C = TypeVar("C")


@dataclass(frozen=True)
class Flag:
    """The command-line flag of a field."""

    name: str | None = None  # --name; otherwise the field's name
    metavar: str | None = None
    argument: bool = False  # positional
    const: Any = None  # the value of a switch without argument
    commas: bool = False  # a tuple is written as a,b,c; otherwise the flag is repeated
    none: str | None = None  # the word for None among the values
    default: str | None = None  # replaces the default value in the help; "" prints none
    late: bool = False  # near the end of the help
    hidden: bool = False  # left out of the help; the manual and `--set help` have it
    complete: Literal["recipes", "models"] | None = None  # completions in the shell


@dataclass(frozen=True)
class OptionField:
    """A field of a config or of one of its nested configs, with its type, help and flag."""

    path: tuple[str, ...]
    kind: Any
    default: Any
    help: str
    flag: Flag | None

    @property
    def name(self) -> str:
        return ".".join(self.path)


def option(value: Any, help: str, name: str | None = None, **flag: Any) -> Any:
    """A field that is a flag of its command; `...` as the value means that it is required."""
    return make_field(value, {"help": help, "flag": Flag(name, **flag)})


def setting(default: Any, help: str) -> Any:
    """A field that only `--set` changes."""
    return make_field(default, {"help": help})


def subconfig(kind: type, *flags: str) -> Any:
    """A config inside a config. Its options of these names are flags of the command too."""
    return field(default_factory=kind, metadata={"flags": flags})


def make_field(default: Any, metadata: dict[str, Any]) -> Any:
    return field(default=MISSING if default is ... else default, metadata=metadata)


def option_fields(
    kind: type, path: tuple[str, ...] = (), flags: tuple[str, ...] | None = None
) -> Iterator[OptionField]:
    """All fields of a config class, nested ones included."""
    hints = typing.get_type_hints(kind, include_extras=True)
    for each in dataclasses.fields(kind):
        if "flags" in each.metadata:
            yield from option_fields(hints[each.name], (*path, each.name), each.metadata["flags"])
            continue
        flag = each.metadata.get("flag") if flags is None or each.name in flags else None
        yield OptionField((*path, each.name), hints[each.name], each.default, each.metadata.get("help", ""), flag)


def as_dict(config: Any) -> dict[str, Any]:
    """A config for JSON: nested configs as objects, tuples as lists, a resolution as text."""
    return {field.name: as_json(getattr(config, field.name)) for field in dataclasses.fields(config)}


def as_json(value: Any) -> Any:
    if isinstance(value, Res):
        return str(value)
    if dataclasses.is_dataclass(value):
        return as_dict(value)
    return [as_json(each) for each in value] if isinstance(value, tuple) else value


class Partial:
    """A frozen, keyword-only dataclass that remembers which fields the caller set: a recipe sets the others."""

    named: ClassVar[frozenset[str]]

    def __new__(cls, **fields: Any) -> Self:
        self = super().__new__(cls)
        object.__setattr__(self, "named", frozenset(fields))
        return self


def with_fields(config: C, **changes: Any) -> C:
    """dataclasses.replace; for a Partial, only the changed fields are added to `named`."""
    new: C = dataclasses.replace(config, **changes)  # type: ignore[type-var]
    if isinstance(config, Partial):
        object.__setattr__(new, "named", config.named | changes.keys())
    return new


def with_named(base: C, request: Partial) -> C:
    """`base` with the fields set in `request`; nested configs field by field."""
    changes = {name: getattr(request, name) for name in request.named}
    for name, value in changes.items():
        if isinstance(value, Partial):
            changes[name] = with_named(getattr(base, name), value)
    return with_fields(base, **changes)
