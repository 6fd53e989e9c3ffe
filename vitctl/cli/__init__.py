"""The command line: turns flags into a config, and the result into tables or JSON.

Heavy libraries are imported only when a command runs, so that `--help` is fast.
"""

import inspect as introspection
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from vitctl import __version__
from vitctl.cli.bench import bench
from vitctl.cli.boundary import Boundary, Command
from vitctl.cli.demo import demo
from vitctl.cli.doctor import doctor
from vitctl.cli.evaluate import evaluate
from vitctl.cli.export import export
from vitctl.cli.features import features
from vitctl.cli.fewshot import fewshot
from vitctl.cli.finetune import finetune
from vitctl.cli.help import help
from vitctl.cli.info import info
from vitctl.cli.inspect import inspect
from vitctl.cli.interpolate_pos import interpolate_pos
from vitctl.cli.models import models
from vitctl.cli.patchify import patchify
from vitctl.cli.predict import predict
from vitctl.cli.pretrain import pretrain
from vitctl.cli.recipes import recipes
from vitctl.cli.selfsup import selfsup
from vitctl.cli.streams import discard_unwritten, prepare_streams
from vitctl.cli.study import study
from vitctl.errors import RunError, Terminated
from vitctl.machine import exit_on_bus_error, keep_freed_memory
from vitctl.reporting import print_safely

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

app = typer.Typer(
    cls=Boundary,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Vision Transformers, from a folder of images to a model that ships.",
    epilog="See it all with [bold]vitctl demo[/bold]; start with [bold]vitctl patchify FOLDER[/bold]. Exit codes: "
    "0 done, 2 usage, 3 input, 4 the run failed, 130 and 143 stopped.",
)
COMPLETION = "_VITCTL_COMPLETE"  # set by the shell while it completes a command line
COMMANDS: dict[str, tuple[Callable[..., None], ...]] = {
    "Start here": (demo, help),
    "Data": (patchify, info),
    "Training": (pretrain, selfsup, finetune, recipes),
    "Frozen features": (features, fewshot),
    "Answers": (predict, evaluate, inspect),
    "Models": (models, interpolate_pos, export),
    "Research": (study,),
    "This machine": (bench, doctor),
}


def paragraphs(text: str) -> str:
    """The docstring with each paragraph on one line, so that it is wrapped to the width of the terminal."""
    return "\n\n".join(" ".join(part.split()) for part in introspection.cleandoc(text).split("\n\n"))


def command_name(command: Callable[..., None]) -> str:
    return command.__name__.replace("_", "-")


for panel, commands in COMMANDS.items():
    for command in commands:
        text = paragraphs(command.__doc__ or "")
        app.command(command_name(command), cls=Command, rich_help_panel=panel, help=text)(command)


def show_version(requested: bool) -> None:
    if requested:
        typer.echo(f"vitctl {__version__}")
        raise typer.Exit


@app.callback()
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


def skip_other_commands(arguments: list[str]) -> None:
    """Leave out the options of all commands but the one that is called: making hundreds of them takes time."""
    called = next((word for word in arguments if not word.startswith("-")), None)
    for each in app.registered_commands:
        if called != "help" and each.name != called:
            each.callback = lambda: None


def main() -> None:
    prepare_streams()
    if COMPLETION not in os.environ:
        skip_other_commands(sys.argv[1:])
    signal.signal(signal.SIGTERM, terminate)
    sys.unraisablehook = resend_interrupt
    keep_freed_memory()
    exit_on_bus_error()
    try:
        app(prog_name="vitctl")
    except RunError as error:  # help and version are printed outside of Boundary
        print_safely(sys.stderr, f"error: {error}")
        sys.exit(error.exit_code)
    finally:
        discard_unwritten()
