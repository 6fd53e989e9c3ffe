"""Commands whose stdin, stdout or stderr is closed, or takes nothing."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]
LOST = "error: the result cannot be written to stdout ({}); redirect it elsewhere"


def under(redirection: str) -> tuple[str, ...]:
    return "sh", "-c", f'exec "$@" {redirection}', "sh"


@pytest.mark.parametrize("line", ["--help", "--version", "patchify --help", "recipes small", "recipes small --json"])
@pytest.mark.parametrize(("redirection", "reason"), [(">&-", "it is closed"), ("<&- >&-", "it is closed"),
                                                     (">/dev/full", "No space left on device")])  # fmt: skip
def test_an_answer_that_cannot_be_written(vitctl: Run, line: str, redirection: str, reason: str) -> None:
    if "/dev/full" in redirection and not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full")
    answer = vitctl(*line.split(), code=4, before=under(redirection))
    assert answer.err.strip() == LOST.format(reason)


@pytest.mark.parametrize("redirection", ["<&-", "2>&-", "<&- 2>&-", "2>/dev/full"])
def test_an_answer_without_a_story(vitctl: Run, redirection: str) -> None:
    if "/dev/full" in redirection and not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full")
    assert "recipe" in vitctl("recipes", "small", before=under(redirection)).out
    assert vitctl("info", "nothing", code=3, before=under(redirection)).out == ""
    assert vitctl("recipe", code=2, before=under(redirection)).out == ""


def test_nothing_is_written_into_a_file_that_took_the_place_of_a_closed_one(
    vitctl: Run, folder: Any, tmp_path: Path
) -> None:
    folder({"cat": 3, "dog": 3})
    line = ("patchify", "pictures", "--res", "32", "--workers", "2")
    vitctl(*line, "whole.h5")
    vitctl(*line, "closed.h5", code=4, before=under("<&- >&- 2>&-"))
    assert (tmp_path / "closed.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()


def test_no_names_on_a_closed_stdin(vitctl: Run) -> None:
    assert "no image is given" in vitctl("predict", "-", code=2, before=under("<&-")).error


def test_names_on_stdin_are_any_bytes(vitctl: Run, newest: str, folder: Any, tmp_path: Path) -> None:
    path = folder({"cat": 1}) / "cat" / "000.png"
    os.rename(path, os.fsencode(tmp_path) + b"/caf\xe9.png")
    found = vitctl("predict", "-", "--json", before=("sh", "-c", 'printf "caf\\351.png\\n" | "$@"', "sh")).json
    assert found["pictures"] == 1
