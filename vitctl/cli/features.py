from typing import Annotated, Literal

import typer

from vitctl.cli.options import AllowMissing, Data, Device, Json, Mean, Overwrite, Precision, Quiet, Set, Std


def features(
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="WEIGHTS",
            help="Weights, as everywhere; or pixels, or random:MODEL, to compare with.",
        ),
    ] = None,
    data: Data = None,
    out: Annotated[
        str | None, typer.Option(metavar="FILE", help="An .h5; else the cache, where later commands find it.")
    ] = None,
    layers: Annotated[int, typer.Option(metavar="N", help="Concatenate the outputs of the last N blocks.")] = 1,
    pool: Annotated[
        Literal["auto", "cls", "gap", "none"],
        typer.Option(help="auto is what the head sees; none gives a vector for each patch."),
    ] = "auto",
    precision: Precision = "auto",
    device: Device = "auto",
    cache: Annotated[bool, typer.Option("--cache/--no-cache", help="Reuse features that were computed before.")] = True,
    export: Annotated[
        Literal["csv", "npy", "parquet"] | None,
        typer.Option(help="Also write them for other tools, beside the file."),
    ] = None,
    mean: Mean = None,
    std: Std = None,
    allow_missing: AllowMissing = False,
    overwrite: Overwrite = False,
    settings: Set = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Extract frozen features, the input of the head, for every image, once.

    The file has features, labels and names of each split. A run that was killed goes on where it was.

    Example: [bold]vitctl features --from runs/ --data photos.h5 --out features.h5[/bold]
    """
    from vitctl.cli.console import facts_table, print_result, reporter
    from vitctl.config.checks import parse_numbers
    from vitctl.config.features import FeaturesConfig
    from vitctl.config.overrides import override
    from vitctl.reporting import format_duration
    from vitctl.workflows.features import features as run

    config = FeaturesConfig(
        source=source,
        data=data,
        out=out,
        layers=layers,
        pool=pool,
        precision=precision,
        device=device,
        cache=cache,
        allow_missing=allow_missing,
        mean=parse_numbers("--mean", mean),
        std=parse_numbers("--std", std),
    )
    result = run(override(config, settings or ()), reporter(quiet), export=export, overwrite=overwrite)
    speed = (
        f"{result.images_per_s:,.0f} img/s, {format_duration(result.elapsed_s)}"
        if result.computed
        else "computed before"
    )
    table = {
        "features": result.out,
        "of": f"{result.weights}, {result.model} at {result.res[0]}x{result.res[1]}",
        "data": result.data,
        **{name: " x ".join(f"{size:,}" for size in shape) for name, shape in result.splits.items()},
        "exported": ", ".join(result.exported),
        "in": speed,
    }
    print_result("features", result, json, [facts_table({name: value for name, value in table.items() if value})])
