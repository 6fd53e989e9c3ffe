"""Numbers on the command line: in plain digits, as everywhere else."""

import inspect
import typing
from collections.abc import Callable
from typing import Any

import typer

from vitctl.config.checks import parse_number, whole_number


def parser_for(read: Callable[[str], Any], wanted: str) -> Callable[[Any], Any]:
    def parse(value: Any) -> Any:
        try:
            return read(str(value))  # typer also passes default values
        except ValueError:
            raise typer.BadParameter(f"{wanted} is wanted, not {value!r}") from None

    return parse


PARSERS: dict[Any, Callable[[Any], Any]] = {
    int: parser_for(whole_number, "a whole number"),
    float: parser_for(parse_number, "a number"),
}


def use_plain_digits(command: Callable[..., None]) -> None:
    """Gives every option of a command that is an int or a float our parser: Python's own takes 1_000 and '１'."""
    for parameter in inspect.signature(command).parameters.values():
        kind, *options = typing.get_args(parameter.annotation) or (parameter.annotation,)
        parser = next((PARSERS[each] for each in typing.get_args(kind) or (kind,) if each in PARSERS), None)
        for option in options:
            option.parser = parser
