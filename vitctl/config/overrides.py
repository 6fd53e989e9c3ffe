"""`--set a.b=c`: one field of a nested frozen dataclass, checked and converted by its annotation."""

import dataclasses
import types
import typing
from collections.abc import Iterable
from typing import Any, TypeVar

from vitctl.config.checks import parse_number, whole_number
from vitctl.errors import ConfigError, did_you_mean

Config = TypeVar("Config")


def override(config: Config, assignments: Iterable[str]) -> Config:
    """A copy of `config` with each 'a.b=c' applied, in order; the copy checks itself anew."""
    for assignment in assignments:
        path, separator, text = assignment.partition("=")
        if not separator or not path.strip():
            raise ConfigError(f"--set {assignment!r} is not understood; write --set name=value")
        config = replace_at(config, path.strip().split("."), text.strip(), path.strip())
    return config


def replace_at(config: Any, path: list[str], text: str, whole: str) -> Any:
    name, *rest = path
    names = {field.name: field for field in dataclasses.fields(config)}
    if name not in names:
        inside = [f"{outer}.{name}" for outer in names if has_field(getattr(config, outer), name)]
        near = f"did you mean {inside[0]!r}?" if inside else did_you_mean(name, names)
        raise ConfigError(f"--set {whole}: there is no field {name!r}; {near}")
    current = getattr(config, name)
    if rest:
        if not dataclasses.is_dataclass(current):
            raise ConfigError(f"--set {whole}: {name!r} has no fields of its own")
        return dataclasses.replace(config, **{name: replace_at(current, rest, text, whole)})
    if dataclasses.is_dataclass(current):
        inner = ", ".join(f"{whole}.{field.name}" for field in dataclasses.fields(current))
        raise ConfigError(f"--set {whole}: name one of its fields: {inner}")
    return dataclasses.replace(config, **{name: convert(text, typing.get_type_hints(type(config))[name], whole)})


def has_field(value: Any, name: str) -> bool:
    return dataclasses.is_dataclass(value) and name in {field.name for field in dataclasses.fields(value)}


def convert(text: str, kind: Any, whole: str) -> Any:
    """The value that `text` means for a field annotated `kind`."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        is_choice = any(text in typing.get_args(option) for option in arguments)  # positions may be of the kind "none"
        if text.lower() == "none" and type(None) in arguments and not is_choice:
            return None
        return convert_any(text, [option for option in arguments if option is not type(None)], whole)
    if origin is typing.Literal:
        if text in arguments:
            return text
        raise ConfigError(f"--set {whole}={text}: {did_you_mean(text, [str(option) for option in arguments])}")
    if origin is tuple:
        parts = [part.strip() for part in text.strip("()[]").split(",") if part.strip()]
        kinds = [arguments[0]] * len(parts) if arguments[-1] is Ellipsis else list(arguments)
        if len(parts) != len(kinds):
            raise ConfigError(f"--set {whole}={text}: {len(kinds)} values are wanted, separated by commas")
        return tuple(convert(part, each, whole) for part, each in zip(parts, kinds, strict=True))
    return convert_scalar(text, kind, whole)


def convert_any(text: str, kinds: list[Any], whole: str) -> Any:
    problem: ConfigError | None = None
    for kind in kinds:
        try:
            return convert(text, kind, whole)
        except ConfigError as error:
            problem = problem or error
    assert problem is not None
    raise problem


def convert_scalar(text: str, kind: type, whole: str) -> Any:
    if kind is bool:
        known = {
            "true": True,
            "yes": True,
            "on": True,
            "1": True,
            "false": False,
            "no": False,
            "off": False,
            "0": False,
        }
        if text.lower() in known:
            return known[text.lower()]
        raise ConfigError(f"--set {whole}={text}: true or false is wanted")
    read, words = {int: (whole_number, "a whole number"), float: (parse_number, "a number")}.get(
        kind, (kind, kind.__name__)
    )
    try:
        return read(text)
    except ValueError:
        raise ConfigError(f"--set {whole}={text}: {words} is wanted") from None
