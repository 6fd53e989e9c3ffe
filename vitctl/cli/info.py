from typing import TYPE_CHECKING, Annotated

import typer

from vitctl.cli.options import Json, Quiet

if TYPE_CHECKING:
    from rich.table import Table

    from vitctl.workflows.info import PatchFileInfo, RunInfo


def info(
    path: Annotated[
        str | None,
        typer.Argument(help="A patch file or a run directory; the data that other commands would take, if left out."),
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every picture again and compare it with its digest.")
    ] = False,
    rejects: Annotated[
        bool, typer.Option("--rejects", help="List the pictures that could not be read, and leaks, with reasons.")
    ] = False,
    sheet: Annotated[
        str | None, typer.Option(metavar="FILE.png", help="Draw a contact sheet, a row of pictures a class.")
    ] = None,
    augment: Annotated[
        str | None, typer.Option(metavar="NAME", help="Draw the sheet as this augmentation shows the pictures.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(metavar="NAME", help="The split that the sheet shows; the first if left out.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say what a patch file or a run directory holds, and check that it is whole.

    Example: [bold]vitctl info data.h5 --sheet sheet.png[/bold]
    """
    from pathlib import Path

    from vitctl.cli.console import emit, reporter
    from vitctl.errors import UsageError
    from vitctl.io.patch_file import PatchFile
    from vitctl.workflows.choose import choose_data
    from vitctl.workflows.info import RunInfo, describe
    from vitctl.workflows.sheets import augmentation_sheet, contact_sheet

    teller = reporter(quiet)
    found = Path(path) if path else choose_data(None, teller)
    if augment and not sheet:
        raise UsageError("--augment wants --sheet FILE.png beside it")
    result = describe(found, teller, verify=verify)
    if sheet and not isinstance(result, RunInfo):
        drawn = Path(sheet)
        if augment:
            augmentation_sheet(PatchFile(found), split, augment, drawn)
        else:
            contact_sheet(PatchFile(found), split, drawn)
        teller.note(f"sheet: {drawn}")
    emit("info", result, json, run_tables(result) if isinstance(result, RunInfo) else file_tables(result, rejects))


def file_tables(result: "PatchFileInfo", rejects: bool) -> "list[Table]":
    from vitctl.cli.console import listing
    from vitctl.cli.patchify import summary
    from vitctl.workflows.info import placed

    tables = summary(result, {})
    if rejects:
        more = (
            [[f"and {result.rejects - len(result.rejected):,} more", ""]]
            if result.rejects > len(result.rejected)
            else []
        )
        listed = [[one["name"], one["reason"]] for one in result.rejected]
        tables.append(listing("rejects", ["name", "reason"], listed + more))
        rows = [
            [placed(leak["split"], leak["name"]), placed(leak["other_split"], leak["other_name"])]
            for leak in result.leaks
        ]
        tables.append(listing("leaks", ["picture", "is also"], rows))
    return tables


def run_tables(result: "RunInfo") -> "list[Table]":
    from vitctl.cli.console import facts

    about = {"command": result.command, "version": result.version, "finished": "yes" if result.finished else "no"}
    return [facts({"run": result.path} | about | {name: str(value) for name, value in result.config.items()})]
