"""`vitctl help`: the manual in the terminal."""

import os
import re
import sys
from contextlib import suppress
from importlib.resources import files
from typing import Annotated, Any

import typer

from vitctl.errors import ConfigError, did_you_mean

CHAPTERS = (  # in the order in which a newcomer reads them
    "start", "data", "training", "selfsup", "fewshot", "results", "weights", "recipes", "devices", "scripts", "python",
)  # fmt: skip
WIDTH = 100  # columns, at most


def complete_topic(ctx: typer.Context, incomplete: str) -> list[str]:
    """Completions for the shell."""
    return [name for name in topics(ctx) if name.startswith(incomplete)]


def topics(ctx: typer.Context) -> list[str]:
    """Chapters, then commands that do not share their name with one."""
    return list(dict.fromkeys((*CHAPTERS, *commands_of(ctx))))


def commands_of(ctx: typer.Context) -> dict[str, Any]:
    group: Any = ctx.parent.command if ctx.parent else None
    return group.commands if group else {}


def help(
    ctx: typer.Context,
    topic: Annotated[
        str | None,
        typer.Argument(metavar="TOPIC", help="A chapter, or the name of a command.", autocompletion=complete_topic),
    ] = None,
) -> None:
    """Read the manual: list its chapters, show one of them, or show the options of a command.

    Example: [bold]vitctl help training[/bold]
    """
    if topic is None:
        print("\n".join(f"{name:<10}{title(chapter(name))}" for name in CHAPTERS))
        print("\nRead one with: vitctl help TOPIC")
    elif topic in CHAPTERS:
        show(chapter(topic))
    elif topic in commands_of(ctx):
        show_options(commands_of(ctx)[topic], topic, ctx)
    else:
        raise ConfigError(
            f"there is no topic {topic!r}; {did_you_mean(topic, topics(ctx))}; vitctl help lists the chapters"
        )


def chapter(name: str) -> str:
    return (files("vitctl") / "manual" / f"{name}.md").read_text(encoding="utf-8")


def title(text: str) -> str:
    return text.partition("\n")[0].removeprefix("# ")


def show_options(command: Any, name: str, ctx: typer.Context) -> None:
    """Prints the --help of the command, and the chapter with more about it."""
    with suppress(typer.Exit):
        command.make_context(name, ["--help"], parent=ctx.parent)
    for where in CHAPTERS:
        if f"\n## vitctl {name}\n" in chapter(where):
            print(f"The manual says more: vitctl help {where}")


def show(text: str) -> None:
    """Prints a chapter: rendered and paged on a terminal, as Markdown elsewhere."""
    if not sys.stdout.isatty():
        print(text, end="")
        return
    from rich.console import Console
    from rich.markdown import Markdown

    console = Console()
    console.width = min(console.width, WIDTH)
    with console.capture() as rendered:
        console.print(Markdown(for_terminal(text)))
    if len(rendered.get().splitlines()) < console.height:
        print(rendered.get(), end="")
        return
    os.environ.setdefault("LESS", "-R")  # so that less shows colors
    with console.pager(styles=True):
        console.print(Markdown(for_terminal(text)))


def for_terminal(text: str) -> str:
    """Replaces links to other chapters by the command that shows them, and figures by their captions."""
    text = re.sub(r"!\[([^\]]*)\]\([^)]*\)", r"(Figure: \1)", text)
    text = re.sub(r"\[([^\]]*)\]\((\w+)\.md(?:#[^)]*)?\)", r"\1 (`vitctl help \2`)", text)
    return re.sub(r"\[([^\]]*)\]\(#[^)]*\)", r"\1", text)
