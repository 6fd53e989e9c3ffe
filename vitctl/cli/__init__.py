"""The command line: turns flags into a config, and the result into tables or JSON.

Heavy libraries are imported only when a command runs, so that `--help` is fast.
"""

import gc
import inspect as introspection
import os
import re
import signal
import sys
import threading
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from vitctl import __version__
from vitctl.cli.boundary import Boundary, Command
from vitctl.cli.streams import discard_unwritten, prepare_streams
from vitctl.errors import RunError, Terminated
from vitctl.machine import exit_on_bus_error, keep_freed_memory
from vitctl.reporting import print_safely

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

HELP = "Vision Transformers, from a folder of images to a model that ships."
EPILOG = (
    "See it all with [bold]vitctl demo[/bold]; start with [bold]vitctl patchify FOLDER[/bold]. Exit codes: "
    "0 done, 2 usage, 3 input, 4 the run failed, 130 and 143 stopped."
)
COMPLETION = "_VITCTL_COMPLETE"  # set by the shell while it completes a command line
COMMANDS = {  # each is a function in a file of its name
    "Start here": ("demo", "help"),
    "Data": ("patchify", "info"),
    "Training": ("pretrain", "selfsup", "finetune", "recipes"),
    "Frozen features": ("features", "fewshot"),
    "Answers": ("predict", "evaluate", "inspect"),
    "Models": ("models", "interpolate-pos", "export"),
    "Research": ("study",),
    "This machine": ("bench", "doctor"),
}


def load_command(name: str) -> Callable[..., None]:
    word = name.replace("-", "_")
    return getattr(import_module(f"vitctl.cli.{word}"), word)  # type: ignore[no-any-return]


def read_summary(name: str) -> str:
    """The first paragraph of a command's help, from its file: importing all commands doubles the time of --help."""
    word = name.replace("-", "_")
    text = (Path(__file__).parent / f"{word}.py").read_text(encoding="utf-8")
    match = re.search(rf'^def {word}\(.*?^    """(.*?)(?:\n\n|""")', text, re.DOTALL | re.MULTILINE)
    return " ".join((match[1] if match else "").split())


def paragraphs(text: str) -> str:
    """The docstring with each paragraph on one line, so that it is wrapped to the width of the terminal."""
    return "\n\n".join(" ".join(part.split()) for part in introspection.cleandoc(text).split("\n\n"))


def make_app(only: str | None = None) -> typer.Typer:
    """The command line, with the options of one command ("": of none), or of all."""
    app = typer.Typer(
        cls=Boundary,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
        help=HELP,
        epilog=EPILOG,
    )
    app.callback()(root)
    for panel, names in COMMANDS.items():
        for name in names:
            command = load_command(name) if only in (None, name) else None
            text = read_summary(name) if command is None else paragraphs(command.__doc__ or "")
            app.command(name, cls=Command, rich_help_panel=panel, help=text)(command or (lambda: None))
    return app


def show_version(requested: bool) -> None:
    if requested:
        typer.echo(f"vitctl {__version__}")
        raise typer.Exit


def root(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    return None


def terminate(_number: int, _frame: FrameType | None) -> None:
    raise Terminated


def resend_interrupt(unraisable: "UnraisableHookArgs") -> None:
    """Python drops exceptions raised in destructors and weak reference callbacks, Ctrl-C too: send the signal again."""
    if not isinstance(unraisable.exc_value, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)
        return
    number = signal.SIGTERM if isinstance(unraisable.exc_value, Terminated) else signal.SIGINT
    threading.Timer(0.01, os.kill, (os.getpid(), number)).start()


def find_command(arguments: list[str]) -> str | None:
    """The command that is called, "" if there is none; None if the options of all are needed."""
    called = next((word for word in arguments if not word.startswith("-")), "")
    return None if COMPLETION in os.environ or called == "help" else called


def main() -> None:
    prepare_streams()
    signal.signal(signal.SIGTERM, terminate)
    sys.unraisablehook = resend_interrupt
    keep_freed_memory()
    exit_on_bus_error()
    try:
        make_app(find_command(sys.argv[1:]))(prog_name="vitctl")
    except RunError as error:  # help and version are printed outside of Boundary
        print_safely(sys.stderr, f"error: {error}")
        sys.exit(error.exit_code)
    finally:
        discard_unwritten()
        gc.freeze()  # at its end Python would look through all objects of torch, which takes a second
