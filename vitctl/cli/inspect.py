from typing import TYPE_CHECKING, Annotated

import typer

from vitctl.cli.options import AllowMissing, Data, Device, From, Json, Mean, Overwrite, Quiet, Set, Std

if TYPE_CHECKING:
    from vitctl.workflows.inspect import InspectResult


def inspect(
    source: From = None,
    data: Data = None,
    images: Annotated[
        list[str] | None,
        typer.Option("--images", metavar="PICTURE", help="A file, folder or pattern in place of --data; repeatable."),
    ] = None,
    split: Annotated[
        str | None, typer.Option(metavar="NAME", help="Split to look at; default: test, else val.")
    ] = None,
    res: Annotated[
        str | None,
        typer.Option(metavar="N|HxW", help="Look at another resolution, positions before and after."),
    ] = None,
    shown: Annotated[int, typer.Option(metavar="N", help="How many images attention is drawn over.")] = 8,
    out: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="Where the figures go; default: runs/<date-time>-inspect-<model>."),
    ] = None,
    device: Device = "auto",
    mean: Mean = None,
    std: Std = None,
    allow_missing: AllowMissing = False,
    overwrite: Overwrite = False,
    settings: Set = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show what a model has learned: filters, positions, attention, and what its layers are worth.

    Writes figures, their numbers, and one HTML page that holds everything.

    Example: [bold]vitctl inspect --from runs/first --data photos.h5[/bold]
    """
    from vitctl.cli.console import facts_table, print_result, reporter
    from vitctl.config.checks import parse_numbers
    from vitctl.config.inspect import InspectConfig
    from vitctl.config.overrides import override
    from vitctl.reporting import format_duration
    from vitctl.workflows.inspect import inspect as run

    config = InspectConfig(
        source,
        data,
        tuple(images or ()),
        split,
        res,
        shown=shown,
        device=device,
        allow_missing=allow_missing,
        mean=parse_numbers("--mean", mean),
        std=parse_numbers("--std", std),
    )
    result = run(override(config, settings or ()), reporter(quiet), out=out, overwrite=overwrite)
    table = {
        "weights": f"{result.weights}, {result.model} at {result.res[0]}x{result.res[1]}",
        "images": f"{result.pictures:,} of {result.data} {result.split}".rstrip(),
        **findings_rows(result),
        "left out": "; ".join(result.left_out),
        "figures": ", ".join(each.rpartition("/")[2] for each in result.figures),
        "page": result.page,
        "took": f"{format_duration(result.elapsed_s)} on {result.device}",
    }
    print_result("inspect", result, json, [facts_table({name: value for name, value in table.items() if value})])


def findings_rows(result: "InspectResult") -> dict[str, str]:
    """The findings in a line each."""
    told = {}
    if result.distances:
        first, last = (sum(line) / len(line) for line in (result.distances[0], result.distances[-1]))
        told["attention"] = f"mean distance {first:.1f} px in the first layer, {last:.1f} px in the last"
        told["uniform"] = f"{result.uniform_distance:.1f} px, of a head that looks everywhere alike"
    if result.explained_variance:
        count = len(result.explained_variance)
        told["filters"] = f"{count} components explain {sum(result.explained_variance):.1%}"
    if result.layer_top1:
        best = max(range(len(result.layer_top1)), key=result.layer_top1.__getitem__)
        share = f"{result.layer_top1[best]:.1%} with {result.shots} shots per class"
        told["layers"] = f"layer {best} of {len(result.layer_top1) - 1} is worth most: {share}"
    return told
