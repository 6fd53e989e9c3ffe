"""`--set a.b=c`: one field of a nested frozen dataclass, checked and converted by its annotation."""

import dataclasses
import types
import typing
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from vitctl.config.checks import parse_number, whole_number
from vitctl.config.option import option_fields, with_fields
from vitctl.config.res import Res
from vitctl.errors import ConfigError, did_you_mean

Config = TypeVar("Config")


def override(config: Config, assignments: Iterable[str]) -> Config:
    """A copy of `config` with each 'a.b=c' applied, in order. The copy is checked again."""
    for assignment in assignments:
        path, separator, text = assignment.partition("=")
        if not separator or not path.strip():
            raise ConfigError(
                f"--set {assignment!r} is not understood; write --set name=value, or --set help for a list"
            )
        config = replace_at(config, path.strip().split("."), text.strip(), path.strip())
    return config


def replace_at(config: Any, path: list[str], text: str, whole: str) -> Any:
    name, *rest = path
    fields = {field.name: field for field in dataclasses.fields(config)}
    if name not in fields:
        inside = [f"{outer}.{name}" for outer in fields if has_field(getattr(config, outer), name)]
        near = f"did you mean {inside[0]!r}?" if inside else did_you_mean(name, fields)
        raise ConfigError(f"--set {whole}: there is no field {name!r}; {near}; --set help lists them")
    current = getattr(config, name)
    if not dataclasses.is_dataclass(current) or isinstance(current, Res):
        if rest:
            raise ConfigError(f"--set {whole}: {name!r} has no fields of its own")
        flag = fields[name].metadata.get("flag")
        kind = typing.get_type_hints(type(config))[name]
        return with_fields(config, **{name: convert(text, kind, f"--set {whole}={text}", flag and flag.none)})
    if not rest:
        inner = ", ".join(f"{whole}.{field.name}" for field in dataclasses.fields(current))
        raise ConfigError(f"--set {whole}: name one of its fields: {inner}")
    return with_fields(config, **{name: replace_at(current, rest, text, whole)})


def has_field(value: Any, name: str) -> bool:
    return dataclasses.is_dataclass(value) and name in {field.name for field in dataclasses.fields(value)}


def convert(text: str, kind: Any, where: str, none: str | None = None) -> Any:
    """The value that `text` means for a field annotated `kind`; errors begin with `where`."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        is_choice = any(text in typing.get_args(option) for option in arguments)  # positions may be of the kind "none"
        if text.lower() in ("none", none) and type(None) in arguments and not is_choice:
            return None
        return convert_any(text, [option for option in arguments if option is not type(None)], where, none)
    if origin is typing.Annotated:
        return convert(text, arguments[0], where, none)
    if origin is typing.Literal:
        if text in arguments:
            return text
        raise ConfigError(f"{where}: {did_you_mean(text, [str(option) for option in arguments])}")
    if origin is tuple:
        parts = [part.strip() for part in text.strip("()[]").split(",") if part.strip()]
        kinds = [arguments[0]] * len(parts) if arguments[-1] is Ellipsis else list(arguments)
        if len(parts) != len(kinds):
            raise ConfigError(f"{where}: expected {len(kinds)} values, separated by commas")
        return tuple(convert(part, each, where, none) for part, each in zip(parts, kinds, strict=True))
    return convert_scalar(text, kind, where, f", or {none}" if none else "")


def convert_any(text: str, kinds: list[Any], where: str, none: str | None) -> Any:
    problem: ConfigError | None = None
    for kind in kinds:
        try:
            return convert(text, kind, where, none)
        except ConfigError as error:
            problem = problem or error
    assert problem is not None
    raise problem


TRUTH: dict[str, bool] = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}
SCALARS: dict[Any, tuple[Callable[[str], Any], str]] = {
    int: (whole_number, "a whole number"),
    float: (parse_number, "a number"),
    bool: (lambda text: TRUTH[text.lower()], "true or false"),
    Res: (Res.parse, "a resolution"),
    str: (str, "text"),
}


def convert_scalar(text: str, kind: type, where: str, alternative: str) -> Any:
    read, words = SCALARS[kind]
    try:
        return read(text)
    except (ValueError, KeyError):
        raise ConfigError(f"{where}: expected {words}{alternative}") from None


def list_settings(kind: type) -> list[tuple[str, str, str, str]]:
    """(name, type, default, help) of all fields of a config, for `--set help`."""
    return [
        (each.name, describe_kind(each.kind), as_setting(each.default, 6), each.help) for each in option_fields(kind)
    ]


def describe_kind(kind: Any) -> str:
    """'int', 'lr|fixed|l2', 'float,...': an annotation in a word."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return describe_kind(arguments[0])
    if origin is typing.Literal:
        return "|".join(arguments)
    if origin in (typing.Union, types.UnionType):
        return "|".join("none" if each is type(None) else describe_kind(each) for each in arguments)
    if origin is tuple:
        return ",".join("..." if each is Ellipsis else describe_kind(each) for each in arguments)
    return "N|HxW" if kind is Res else str(kind.__name__)


def as_setting(value: Any, digits: int | None = None) -> str:
    """A value as `--set` reads it; floats are rounded to this number of digits."""
    if value is dataclasses.MISSING:
        return ""
    if isinstance(value, tuple | list):
        return ",".join(as_setting(each, digits) for each in value)
    if isinstance(value, float) and digits:
        return f"{value:.{digits}g}"
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
