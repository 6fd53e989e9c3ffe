"""The face of the command: what --help says is frozen here, and costs nothing."""

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from vitctl.cli import COMMANDS
from vitctl.cli.help import CHAPTERS, chapter, title

FROZEN = Path(__file__).parent / "help"
NAMES = [name for names in COMMANDS.values() for name in names]
HEAVY = {
    "torch", "torchvision", "timm", "numpy", "h5py", "sklearn", "scipy", "PIL", "matplotlib", "onnx", "onnxruntime",
    "safetensors", "pyarrow", "pandas"}  # fmt: skip


def words(text: str) -> str:
    """What is said, without the boxes and breaks that differ from one version of the terminal library to the next."""
    lines = [re.sub(r"[─-╿]|<bool>", " ", line) for line in text.splitlines()]
    return "\n".join(" ".join(line.split()) for line in lines if line.strip()) + "\n"


@pytest.mark.parametrize("name", ["", *NAMES])
def test_help_is_as_frozen(vitctl: Callable[..., Any], name: str) -> None:
    """A change of a flag shows up in the diff: write tests/cli/help/*.txt anew, on purpose, from the output."""
    answer = vitctl(*([name] if name else []), "--help", env={"COLUMNS": "240", "TERMINAL_WIDTH": "240"})
    frozen = FROZEN / f"{name or 'vitctl'}.txt"
    assert words(answer.out).split() == frozen.read_text(encoding="utf-8").split(), f"--help changed; see {frozen.name}"


def test_nothing_frozen_is_left_over() -> None:
    assert {path.stem for path in FROZEN.glob("*.txt")} == {"vitctl", *NAMES}


@pytest.mark.parametrize(
    "line", ["--help", *(f"{name} --help" for name in NAMES), "help", "help training", "help finetune"]
)
def test_help_imports_nothing_heavy(line: str) -> None:
    program = (
        "import json, sys\nfrom vitctl.cli import make_app\n"
        f"arguments = {line.split()!r}\n"
        "try:\n    make_app()(arguments)\nexcept SystemExit as stop:\n    code = stop.code\n"
        "print(json.dumps([code, sorted({name.split('.')[0] for name in sys.modules})]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    code, modules = json.loads(done.stdout.splitlines()[-1])
    assert code == 0
    assert not HEAVY & set(modules)


@pytest.mark.parametrize("name", NAMES)
def test_every_command_says_what_it_does_and_gives_an_example(vitctl: Callable[..., Any], name: str) -> None:
    text = words(vitctl(name, "--help", env={"COLUMNS": "240"}).out)
    assert f"Example: vitctl {name}" in text
    flags = re.findall(r"--[a-z-]+", text)
    assert len(set(flags)) <= 28


def test_wrong_usage_is_two(vitctl: Callable[..., Any]) -> None:
    for arguments in (
        ["patchfy"],
        ["patchify"],
        ["patchify", "x", "--fitt", "crop"],
        ["patchify", "x", "--fit", "stretch"],
    ):
        answer = vitctl(*arguments, code=2)
        assert answer.out == ""
        assert "Traceback" not in answer.err


def test_version(vitctl: Callable[..., Any]) -> None:
    from vitctl import __version__

    assert vitctl("--version").out == f"vitctl {__version__}\n"


@pytest.mark.parametrize(
    ("words", "some"),
    [
        ("vitctl pretr", "pretrain"),
        ("vitctl pretrain --model vit-l", "vit-l/16"),
        ("vitctl finetune --recipe mae/fine", "mae/finetune-b"),
        ("vitctl study posi", "positions"),
        ("vitctl help tr", "training"),
        ("vitctl help fine", "finetune"),
    ],
)
def test_the_shell_completes(words: str, some: str) -> None:
    asked = {"_VITCTL_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    line = [sys.executable, "-m", "vitctl"]
    done = subprocess.run(line, env=os.environ | asked, capture_output=True, text=True, check=False)
    assert some in done.stdout.split(), done.stderr
    assert all(each.startswith(words.split()[-1]) for each in done.stdout.split())


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("study posit", "'posit' is not one of 'data-size', 'scaling', .* Did you mean 'positions'\\?"),
        ("export --format onxx", "'onxx' is not one of .* Did you mean 'onnx'\\?"),
        ("pretrain --epochs ten", "--epochs ten: expected a number"),
        ("pretrain --steps 1.5", "--steps 1.5: expected a whole number"),
        ("pretrain --learning-rate 1", "--learning-rate.*(Did you mean|Possible options:) --lr"),
        ("evaluate --batch-size 8", "(Did you mean|Possible options:) --batch"),
    ],
)
def test_a_slip_is_answered_with_what_was_meant(vitctl: Callable[..., Any], line: str, words: str) -> None:
    answer = vitctl(*line.split(), code=2, env={"COLUMNS": "240", "TERMINAL_WIDTH": "240"})
    assert re.search(words, " ".join(re.sub(r"[─-╿]", " ", answer.err).split())), answer.err


# --- the manual ------------------------------------------------------------------------------------------------------


def test_help_lists_the_chapters(vitctl: Callable[..., Any]) -> None:
    lines = vitctl("help").out.splitlines()
    assert [line.split(maxsplit=1) for line in lines[: len(CHAPTERS)]] == [[n, title(chapter(n))] for n in CHAPTERS]


def test_a_chapter_in_a_pipe_is_its_text(vitctl: Callable[..., Any]) -> None:
    assert vitctl("help", "training").out == chapter("training")


@pytest.mark.parametrize("name", sorted({*NAMES} - {*CHAPTERS}))
def test_help_of_a_command_is_what_it_says_itself(vitctl: Callable[..., Any], name: str) -> None:
    *lines, more = vitctl("help", name).out.splitlines()
    assert lines == vitctl(name, "--help").out.splitlines()
    assert f"\n## vitctl {name}\n" in chapter(more.removeprefix("The manual says more: vitctl help "))


@pytest.mark.parametrize(("topic", "near"), [("trainig", "training"), ("finetunes", "finetune")])
def test_an_unknown_topic_is_answered_with_the_nearest(vitctl: Callable[..., Any], topic: str, near: str) -> None:
    assert f"there is no topic '{topic}'; did you mean '{near}'?" in vitctl("help", topic, code=2).error


def on_a_terminal(lines: int, *arguments: str) -> str:
    """What is shown on a terminal of so many lines, whose pager counts what it is given."""
    env = {"TERM": "xterm", "LINES": str(lines), "COLUMNS": "80", "PAGER": "grep -c ^ | sed s/^/paged:/"}
    main, terminal = pty.openpty()
    line = [sys.executable, "-m", "vitctl", *arguments]
    process = subprocess.Popen(line, stdin=terminal, stdout=terminal, stderr=terminal, env=os.environ | env)
    os.close(terminal)
    shown = b""
    with suppress(OSError):  # the end of a terminal on Linux
        while part := os.read(main, 65536):
            shown += part
    os.close(main)
    assert process.wait() == 0, shown
    return re.sub(r"\x1b\[[0-9;]*m", "", shown.decode()).replace("\r", "")


def test_a_chapter_is_rendered_on_a_terminal_and_paged_where_it_is_longer() -> None:
    whole = on_a_terminal(2000, "help", "selfsup")
    assert "┃" not in whole
    assert "paged:" not in whole
    assert "vitctl help training" in whole
    assert "](" not in whole
    assert "|---" not in whole
    assert on_a_terminal(30, "help", "selfsup").strip() == f"paged:{len(whole.splitlines())}"
