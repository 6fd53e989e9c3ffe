"""Creates a command from its config: the fields become flags. A command adds its help text and its tables.

@command(InterpolateConfig, "vitctl.workflows.interpolate:interpolate_positions", Overwrite)
def interpolate_pos(result: "InterpolateResult") -> "list[Table]":
    \"\"\"The help.\"\"\"
"""

import dataclasses
import inspect
import os
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from keyword import iskeyword
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vitctl.cli.options import COMPLETIONS, SET, Json, Quiet
from vitctl.config.option import OptionField, option_fields, with_fields
from vitctl.config.overrides import as_setting, convert, list_settings, override
from vitctl.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

Show = Callable[[Any], "Iterable[Table]"]


@dataclass(frozen=True)
class NoOptions:
    """For commands that have only the options of their config."""


def command(
    kind: type,
    workflow: str,
    options: type = NoOptions,
    prepare: Callable[[Any, bool], Any] = lambda config, _as_json: config,
    override: Callable[[Any, Iterable[str]], Any] = override,
    run: Callable[..., Any] | None = None,
) -> Callable[[Show], Callable[..., None]]:
    """Make a command out of a function that turns the result of `workflow` into tables.

    `options` is a dataclass of flags that are not part of the config, such as --overwrite. `prepare` may change the
    config before it runs. `run` calls the workflow, if it needs more than the config and the options.
    """
    fields = [each for each in option_fields(kind) if each.flag]
    extras = [each for each in option_fields(options) if each.flag]
    own = {parameter_name(each) for each in fields if len(each.path) == 1}
    fields = [each for each in fields if len(each.path) == 1 or parameter_name(each) not in own]
    run = run or (lambda load, config, chosen, reporter: load()(config, reporter, **vars(chosen)))

    def decorate(show: Show) -> Callable[..., None]:
        name = show.__name__.replace("_", "-")

        def execute(settings: list[str] | None, json: bool, quiet: bool, **values: Any) -> None:
            from vitctl.cli.console import print_result, reporter

            if "help" in (settings or ()):
                return print_settings(kind, json)
            config = prepare(override(build(kind, fields, values), settings or ()), json)
            chosen = build(options, extras, values)
            result = run(lambda: load(workflow), config, chosen, reporter(quiet))
            if result is not None and os.environ.get("RANK", "0") == "0":
                path = getattr(result, "run", None) or (name == "bench" and chosen.out) or None
                print_result(name, result, json, [] if json else list(show(result)), run=path)

        is_partial = any(each.path == ("recipe",) for each in fields)
        flags = sorted([*fields, *extras], key=order)
        parameters = [make_parameter(each, is_partial and each in fields) for each in flags] + COMMON
        execute.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        execute.__annotations__ = {each.name: each.annotation for each in parameters}
        execute.__name__, execute.__doc__ = show.__name__, show.__doc__
        return execute

    return decorate


def load(workflow: str) -> Callable[..., Any]:
    """Import the function 'package.module:function'. This is done late, because importing torch takes seconds."""
    module, _, function = workflow.partition(":")
    return getattr(import_module(module), function)  # type: ignore[no-any-return]


def order(field: OptionField) -> int:
    assert field.flag
    return 0 if field.flag.argument else 2 if field.flag.late else 1


KEYWORD = inspect.Parameter.KEYWORD_ONLY
COMMON = [
    inspect.Parameter("settings", KEYWORD, default=None, annotation=Annotated[list[str] | None, SET]),
    inspect.Parameter("json", KEYWORD, default=False, annotation=Json),
    inspect.Parameter("quiet", KEYWORD, default=False, annotation=Quiet),
]


def parameter_name(field: OptionField) -> str:
    """A Python keyword such as `from` gets an underscore."""
    assert field.flag
    name = (field.flag.name or field.path[-1]).replace("-", "_")
    return f"{name}_" if iskeyword(name) else name


def make_parameter(field: OptionField, is_partial: bool) -> inspect.Parameter:
    """The parameter of a field. Typer reads it as text, and `read_value` converts it."""
    flag = field.flag
    assert flag
    annotation, default, words, metavar = describe_parameter(field, is_partial)
    default_text = flag.default
    if default_text is None and is_partial and not is_switch(field) and field.default not in ((), ""):
        default_text = "the recipe's"
    show_default: Any = default_text or (default_text is None and not is_switch(field))
    info: Any
    if flag.argument:
        info = typer.Argument(help=field.help, metavar=metavar, show_default=show_default)
    else:
        info = typer.Option(
            *words,
            help=field.help,
            metavar=metavar,
            show_default=show_default,
            hidden=flag.hidden,
            autocompletion=COMPLETIONS[flag.complete] if flag.complete else None,
        )
    if field.default is dataclasses.MISSING:
        default = inspect.Parameter.empty
    return inspect.Parameter(parameter_name(field), KEYWORD, default=default, annotation=Annotated[annotation, info])


def describe_parameter(field: OptionField, is_partial: bool) -> tuple[Any, Any, list[str], str | None]:
    """(annotation, default, words, metavar) of a parameter."""
    flag, word, kind = field.flag, flag_name(field), strip(field.kind)
    assert flag
    if is_switch(field):
        is_on = field.default is True
        return bool, is_on, [f"--{word}/--no-{word}" if is_on else f"--{word}"], None
    if typing.get_origin(kind) is tuple and not flag.commas:
        return list[str] | None, None, [f"--{word}"], flag.metavar
    has_default = field.default not in (None, dataclasses.MISSING, ()) and not is_partial
    default = as_setting(field.default, 6) if has_default else None
    return (kind if typing.get_origin(kind) is Literal else str) | None, default, [f"--{word}"], flag.metavar


def flag_name(field: OptionField) -> str:
    return parameter_name(field).rstrip("_").replace("_", "-")


def is_switch(field: OptionField) -> bool:
    return field.kind is bool or bool(field.flag and field.flag.const)


def strip(kind: Any) -> Any:
    """An annotation without its range and without None."""
    if typing.get_origin(kind) is Annotated:
        return strip(typing.get_args(kind)[0])
    parts = [each for each in typing.get_args(kind) if each is not type(None)]
    return strip(parts[0]) if len(parts) == 1 and type(None) in typing.get_args(kind) else kind


def build(kind: type, fields: list[OptionField], values: dict[str, Any]) -> Any:
    """A config with the values from the command line."""
    arguments: dict[str, Any] = {}
    inner: dict[str, dict[str, Any]] = {}
    for field in fields:
        value = read_value(field, values[parameter_name(field)])
        if value is None:
            continue
        if len(field.path) == 1:
            arguments[field.path[0]] = value
        elif field.path[0] not in arguments:
            inner.setdefault(field.path[0], {})[field.path[1]] = value
    hints = typing.get_type_hints(kind)
    for name, changes in inner.items():
        arguments[name] = with_fields(hints[name](), **changes)
    return kind(**arguments)


def read_value(field: OptionField, value: Any) -> Any:
    """The value of a field from what typer read; None if the flag was not used."""
    flag = field.flag
    assert flag
    if is_switch(field):
        if field.default is True:
            return value
        return (flag.const or True) if value else None
    if value is None or value == []:
        return None
    if isinstance(value, list):
        kind = typing.get_args(strip(field.kind))[0]
        return tuple(convert(each, kind, f"--{flag_name(field)} {each}", flag.none) for each in value)
    if flag.commas and not value.strip():
        raise ConfigError(f"--{flag_name(field)}: expected numbers, separated by commas")
    return convert(value, field.kind, f"--{flag_name(field)} {value}", flag.none)


def print_settings(kind: type, as_json: bool) -> None:
    """`--set help` lists all fields of the config."""
    import json

    rows = list_settings(kind)
    if as_json:
        print(json.dumps([dict(zip(("name", "type", "default", "help"), row, strict=True)) for row in rows]))
        return
    from rich.console import Console

    from vitctl.cli.console import columns_table

    Console(highlight=False).print(columns_table("", ["--set", "type", "default", ""], rows))
