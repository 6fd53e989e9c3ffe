"""Flags shared by several commands."""

from dataclasses import dataclass
from typing import Annotated

import typer

from vitctl.config.option import option

Json = Annotated[bool, typer.Option("--json", metavar=" ", help="Print one JSON object instead of tables.")]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", metavar=" ", help="No progress and no notes; warnings are printed.")
]
SET = typer.Option(
    "--set", metavar="NAME=VALUE", help="Set any other field of the config; repeatable. --set help lists them."
)


def complete_recipe(incomplete: str) -> list[str]:
    from vitctl.config.recipes import RECIPES

    return [name for name in RECIPES if name.startswith(incomplete)]


def complete_model(incomplete: str) -> list[str]:
    from vitctl.config.model import LISTED

    return [name for name in LISTED if name.startswith(incomplete)]


COMPLETIONS = {"recipes": complete_recipe, "models": complete_model}  # for the shell


@dataclass(frozen=True, kw_only=True)
class Overwrite:
    overwrite: bool = option(False, "Replace what exists.", late=True)


@dataclass(frozen=True, kw_only=True)
class BuildOptions(Overwrite):
    resume: bool = option(False, "Resume a build that was stopped.", late=True)


@dataclass(frozen=True, kw_only=True)
class BenchOptions(Overwrite):
    out: str | None = option(None, "Save config, result and a figure as a run directory.", metavar="FOLDER")


@dataclass(frozen=True, kw_only=True)
class InspectOptions(Overwrite):
    out: str | None = option(
        None, "Where the figures are saved. Default: runs/<date-time>-inspect-<model>.", metavar="FOLDER"
    )


@dataclass(frozen=True, kw_only=True)
class StudyOptions(Overwrite):
    out: str | None = option(None, "Where it is saved and resumed from. Default: runs/study-NAME.", metavar="FOLDER")
    dry_run: bool = option(False, "Print what it would cost, and run nothing.", late=True)


@dataclass(frozen=True, kw_only=True)
class DemoOptions(Overwrite):
    out: str | None = option(None, "Where everything is saved. Default: runs/demo.", metavar="FOLDER")
    resume: str | None = option(None, "Resume a demo that was stopped.", metavar="FOLDER", late=True)


@dataclass(frozen=True, kw_only=True)
class FeaturesOptions(Overwrite):
    export: str | None = option(None, "Also write them as csv, npy or parquet, beside the file.", metavar="FORMAT")


@dataclass(frozen=True, kw_only=True)
class FewshotOptions:
    plot: str | None = option(None, "Draw accuracy against shots to this .png.", metavar="FILE")
