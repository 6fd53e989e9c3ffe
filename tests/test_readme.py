"""README and manual are run: consoles against what they show, Python as it stands, other command lines parsed."""

import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from vitctl.cli import COMMANDS, make_app
from vitctl.cli.help import CHAPTERS
from vitctl.config.augment import PRESETS

ROOT = Path(__file__).parents[1]
FRONT, MANUAL = ROOT / "README.md", ROOT / "vitctl" / "manual"
PAGES = (FRONT, *(MANUAL / f"{name}.md" for name in CHAPTERS))
TEXTS = {page: page.read_text(encoding="utf-8") for page in PAGES}
TEXT = "\n".join(TEXTS.values())
LONGEST = 250  # lines of the front page


def blocks(language: str, text: str = TEXT) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def command_lines() -> list[list[str]]:
    """The arguments of every vitctl in a shell block, also inside another command; each of them once."""
    found = []
    for line in "\n".join(blocks("sh") + blocks("bash") + blocks("console") + blocks("yaml")).splitlines():
        line = line.removeprefix("$ ").replace("$SLURM_ARRAY_TASK_ID", "3")
        for part in (
            re.split("&&|>", line)
            if line.startswith(("vitctl", "python3 -m venv"))
            else re.findall(r"vitctl [a-z][^'\")|>]*", line)
        ):
            words = shlex.split(part)
            if words[:1] == ["vitctl"] and words[1][0].isalpha():
                found.append(tuple(words[1:]))
    return [list(words) for words in dict.fromkeys(found)]


@pytest.mark.parametrize("arguments", command_lines(), ids=" ".join)
def test_every_command_line_is_understood(arguments: list[str]) -> None:
    group: Any = typer.main.get_command(make_app())
    name, command, rest = group.resolve_command(
        group.make_context("vitctl", arguments, resilient_parsing=True), arguments
    )
    context = command.make_context(name, list(rest))
    for setting in context.params.get("settings") or ():
        assert "=" in setting


def test_every_command_has_a_section_and_a_line_on_the_front_page() -> None:
    for command in (name for names in COMMANDS.values() for name in names):
        (place,) = [page for page in PAGES[1:] if f"\n## vitctl {command}\n" in TEXTS[page]]
        assert f"| [`{command}`]({place.relative_to(ROOT)}#vitctl-{command}) |" in TEXTS[FRONT]
        assert any(line[:1] == [command] for line in command_lines())


def test_every_chapter_is_on_the_front_page_which_is_short() -> None:
    assert sorted(MANUAL.iterdir()) == sorted(PAGES[1:])
    for page in PAGES[1:]:
        assert f"]({page.relative_to(ROOT)})" in TEXTS[FRONT]
        assert re.match(r"# .+\n\n.", TEXTS[page])
    assert len(TEXTS[FRONT].splitlines()) <= LONGEST


def test_consoles_show_what_is_printed(vitctl: Callable[..., Any]) -> None:
    for block in blocks("console"):
        for step in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            line, _, shown = step.partition("\n")
            answer = vitctl(*shlex.split(line)[1:])
            printed = [*answer.err.splitlines(), *answer.out.splitlines()]
            assert set(map(masked, printed)) == set(map(masked, shown.splitlines()))  # progress may take several lines


def masked(line: str) -> str:
    """A line without what differs from one machine to the next: rates, times, digests of resized pixels."""
    if re.match(r"\w+: \d+", line) or line.startswith(("took", "digest", "mean")):
        return line.split()[0]
    return " ".join(line.split())


def test_python_runs_as_it_stands(vitctl: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vitctl("patchify", "digits")
    monkeypatch.chdir(tmp_path)
    for block in blocks("python"):
        exec(compile(block, "manual", "exec"), {"__name__": "__main__"})


def test_presets_are_all_named() -> None:
    for name in PRESETS:
        assert f"`{name}`" in TEXT


def prose(page: Path) -> str:
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^a-z0-9_ -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\((?!https://)([^)]*)\)", prose(page)):
        place, _, anchor = link.partition("#")
        target = page.parent / place if place else page
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target), link


def test_the_two_lines_that_do_all_set_up_are_those_of_ci() -> None:
    first, *_, last = (block.strip() for block in blocks("sh", TEXTS[FRONT]) if "venv" in block)
    assert first.startswith("python3 -m venv .venv && . .venv/bin/activate && pip install . && vitctl ")
    assert first in TEXTS[MANUAL / "start.md"]
    assert last == "python3 -m venv .venv && . .venv/bin/activate && pip install '.[test]' && pytest"
    ci = (ROOT / ".ci" / "run").read_text()
    assert "pip install --quiet '.[test]'" in ci
    assert ci.rstrip().endswith("pytest")
    for step in re.findall(r"^(?:ruff|mypy|pytest).*", ci, re.MULTILINE):
        assert f"`{step}`" in TEXTS[FRONT]


def test_the_license_is_the_one_that_is_stated() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (place,) = project["license-files"]
    text = (ROOT / place).read_text(encoding="utf-8")
    assert text.split()[:4] == ["Apache", "License", "Version", "2.0,"]
    assert project["license"] == "Apache-2.0"
    assert f"Apache-2.0: see [{place}]({place})" in TEXTS[FRONT]


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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_images_are_there_and_small(page: Path) -> None:
    for place in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", TEXTS[page]):
        assert (page.parent / place).stat().st_size < 100_000
