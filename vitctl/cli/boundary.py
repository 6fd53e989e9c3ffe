"""Turns errors into one line and an exit code."""

import os
import re
import shlex
import sys
from difflib import get_close_matches
from typing import Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from vitctl.errors import (
    Interrupted,
    LostContact,
    Terminated,
    UsageError,
    VitctlError,
    causes,
    is_no_space,
    is_out_of_memory,
)  # fmt: skip
from vitctl.reporting import print_safely

DEVICES = "VITCTL_DEVICES"  # in a rank's environment: the number of ranks
SWITCH = " "  # a metavar that shows nothing
LOST = 75  # the exit code of a rank that lost contact with another one


class QuietSwitches:
    """Shows switches such as --help without the type that Typer gives them in the help."""

    def get_params(self, ctx: Any) -> Any:
        params = super().get_params(ctx)  # type: ignore[misc]
        for each in params:
            if getattr(each, "is_flag", False):
                each.metavar = SWITCH
        return params


class Command(QuietSwitches, TyperCommand):
    pass


class Boundary(QuietSwitches, TyperGroup):
    """vitctl's errors end in one line on stderr; anything else is a bug and keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Interrupted as error:
            command = str(ctx.invoked_subcommand)
            line = resume_command(command, error.run) if error.run else rerun_command(command)
            exit_quietly_on_other_ranks(error)
            exit_with_message(f"{error}; continue with: {line}", error.exit_code)
        except UsageError as error:
            exit_quietly_on_other_ranks(error)
            fail(str(error), error.exit_code)
        except LostContact as error:
            if DEVICES in os.environ:  # the launcher reports which rank is gone
                raise typer.Exit(LOST) from None
            fail(str(error), error.exit_code)
        except VitctlError as error:
            fail(str(error), error.exit_code)
        except KeyboardInterrupt as error:
            exit_with_message("stopped", 143 if isinstance(error, Terminated) else 130)
        except BrokenPipeError:
            raise typer.Exit(0) from None  # the reader of the output has closed it
        except UnicodeEncodeError as error:
            fail(f"this terminal's encoding, {error.encoding}, cannot show the output; set PYTHONIOENCODING=utf-8", 2)
        except Exception as error:
            if is_no_space(error):
                names = (getattr(each, "filename", None) for each in causes(error))
                fail(
                    f"{next(filter(None, names), 'a disk')}: no space left; free some and run the same command again", 4
                )
            if isinstance(error, OSError) and error.filename:
                fail(f"{str(error.filename)[:200]}: {error.strerror}", 3)
            if is_out_of_memory(error):
                fail("out of memory; use a smaller --batch or --res, or close other programs", 4)
            clarify(error)
            raise


FLAGS_ELSEWHERE = {  # names in other tools -> the flag here
    "--learning-rate": "--lr", "--batch-size": "--batch", "--img-size": "--res", "--image-size": "--res",
    "--dataset": "--data", "--data-dir": "--data", "--output": "--out", "--output-dir": "--out",
    "--checkpoint": "--from", "--initial-checkpoint": "--from", "--pretrained": "--from", "--model-name": "--model",
    "--num-epochs": "--epochs", "--input": "--data",
}  # fmt: skip


def clarify(error: Any) -> None:
    """Adds a suggestion to the error of a wrong option or value; leaves other errors unchanged."""
    if hasattr(error, "option_name") and FLAGS_ELSEWHERE.get(error.option_name) and not error.possibilities:
        error.possibilities = [FLAGS_ELSEWHERE[error.option_name]]
    if not hasattr(error, "format_message"):
        return
    text = str(error.message).removeprefix("Value error, ")
    wrong, _, options = text.partition(" is not one of ")
    near = get_close_matches(wrong.strip("'"), re.findall(r"'([^']*)'", options), 1)
    error.message = text + (f" Did you mean '{near[0]}'?" if near else "")


def exit_quietly_on_other_ranks(error: VitctlError) -> None:
    """An error that occurs on all ranks is printed by the first one only."""
    if os.environ.get("RANK", "0") != "0":
        raise typer.Exit(error.exit_code)


def fail(message: str, code: int) -> NoReturn:
    exit_with_message(f"error: {message}", code)


def exit_with_message(message: str, code: int) -> NoReturn:
    print_safely(sys.stderr, " ".join(message.split()))
    raise typer.Exit(code)


def resume_command(command: str, run: str) -> str:
    """The command that resumes the run, on the same number of devices."""
    devices = os.environ.get(DEVICES)
    return shlex.join(["vitctl", command, "--resume", run, *(["--devices", devices] if devices else [])])


def rerun_command(command: str) -> str:
    """The same command again; patchify needs --resume to continue."""
    words = [word for word in sys.argv[1:] if word not in ("--overwrite", "--resume")]
    if command != "patchify":
        return shlex.join(["vitctl", *words])  # if it was patchifying its data, it resumes that by itself
    end = words.index("--") if "--" in words else len(words)
    return shlex.join(["vitctl", *words[:end], "--resume", *words[end:]])
