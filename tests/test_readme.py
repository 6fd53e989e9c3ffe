"""The README is the manual, so it is run: consoles against what they show, Python as it stands, other lines parsed."""

import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from vitctl.cli import COMMANDS, app, command_name
from vitctl.config.augment import PRESETS

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


def command_lines() -> list[list[str]]:
    """The arguments of every vitctl in a shell block, also inside another command."""
    found = []
    for line in "\n".join(blocks("sh") + blocks("console") + blocks("yaml")).splitlines():
        line = line.removeprefix("$ ").replace("$SLURM_ARRAY_TASK_ID", "3")
        for part in (
            line.split("&&")
            if line.startswith(("vitctl", "python3 -m venv"))
            else re.findall(r"vitctl [a-z][^'\")|>]*", line)
        ):
            words = shlex.split(part)
            if words[:1] == ["vitctl"] and words[1][0].isalpha():
                found.append(words[1:])
    return found


@pytest.mark.parametrize("arguments", command_lines(), ids=" ".join)
def test_every_command_line_is_understood(arguments: list[str]) -> None:
    group: Any = typer.main.get_command(app)
    name, command, rest = group.resolve_command(
        group.make_context("vitctl", arguments, resilient_parsing=True), arguments
    )
    context = command.make_context(name, list(rest))
    for setting in context.params.get("settings") or ():
        assert "=" in setting


def test_every_command_has_a_section() -> None:
    for commands in COMMANDS.values():
        for command in commands:
            assert f"\n## vitctl {command_name(command)}\n" in TEXT
            assert any(line[:1] == [command_name(command)] for line in command_lines())


def test_consoles_show_what_is_printed(vitctl: Callable[..., Any]) -> None:
    for block in blocks("console"):
        for step in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            line, _, shown = step.partition("\n")
            answer = vitctl(*shlex.split(line)[1:])
            printed = [*answer.err.splitlines(), *answer.out.splitlines()]
            assert set(map(masked, printed)) == set(map(masked, shown.splitlines()))  # progress may take several lines


def masked(line: str) -> str:
    """A line without what differs from one machine to the next: rates, times, digests of resized pixels."""
    if re.match(r"\w+: \d+", line) or line.startswith(("made in", "digest", "mean")):
        return line.split()[0]
    return " ".join(line.split())


def test_python_runs_as_it_stands(vitctl: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vitctl("patchify", "digits")
    monkeypatch.chdir(tmp_path)
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), {"__name__": "__main__"})


def test_presets_are_all_named() -> None:
    for name in PRESETS:
        assert f"`{name}`" in TEXT


def test_links_inside_lead_somewhere() -> None:
    headings = {
        re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", TEXT, re.MULTILINE)
    }
    assert set(re.findall(r"\]\(#([^)]*)\)", TEXT)) <= headings


def test_the_two_lines_that_do_all_set_up_are_those_of_ci() -> None:
    first, *_, last = (block.strip() for block in blocks("sh") if "venv" in block)
    assert first.startswith("python3 -m venv .venv && . .venv/bin/activate && pip install . && vitctl ")
    assert last == "python3 -m venv .venv && . .venv/bin/activate && pip install '.[test]' && pytest"
    ci = (ROOT / ".ci" / "run").read_text()
    assert "pip install --quiet '.[test]'" in ci
    assert ci.rstrip().endswith("pytest")


def test_version_changelog_and_tag_agree() -> None:
    from vitctl import __version__

    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    released = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - \d{4}-\d{2}-\d{2}$", changelog, flags=re.MULTILINE)
    assert released[0] == __version__
    assert f"version {__version__.rpartition('.')[0]}" in TEXT
    if shutil.which("git"):
        line = ["git", "tag", "--points-at", "HEAD"]
        tags = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
        assert set(tags) <= {f"v{__version__}"}


def test_images_are_there_and_small() -> None:
    for place in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", TEXT):
        assert (ROOT / place).stat().st_size < 100_000
