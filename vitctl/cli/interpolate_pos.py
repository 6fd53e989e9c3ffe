from typing import Annotated, Literal

import typer

from vitctl.cli.options import AllowMissing, From, Json, Mean, Overwrite, Quiet, Set, Std


def interpolate_pos(
    res: Annotated[str, typer.Option(metavar="N|HxW", help="The new resolution: larger or smaller, square or not.")],
    source: From = None,
    out: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="A .safetensors, or an .npz in the official layout; MODEL-RES.safetensors unless named.",
        ),
    ] = None,
    method: Annotated[
        Literal["official", "bilinear", "bicubic", "bicubic-aa", "fresh"],
        typer.Option(
            help="official: as the paper's code, bilinear with aligned corners; bicubic: as MAE; bicubic-aa: as timm; "
            "fresh: drawn anew."
        ),
    ] = "official",
    plot: Annotated[
        str | None, typer.Option(metavar="FILE.png", help="Draw the similarity of positions before and after.")
    ] = None,
    pad: Annotated[
        bool, typer.Option("--pad", help="Pad a resolution that patches do not divide, below and on the right.")
    ] = False,
    mean: Mean = None,
    std: Std = None,
    allow_missing: AllowMissing = False,
    overwrite: Overwrite = False,
    settings: Set = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Turn weights for one resolution into weights for another, by interpolating their position embeddings.

    Needs no data and no GPU. Everything but the positions stays as it is; what was done is written into the new file.

    Example: [bold]vitctl interpolate-pos --from vit_b16.npz --res 384[/bold]
    """
    from vitctl.cli.console import facts_table, print_result, reporter
    from vitctl.config.checks import parse_numbers
    from vitctl.config.interpolate import InterpolateConfig
    from vitctl.config.overrides import override
    from vitctl.workflows.interpolate import interpolate_positions

    config = InterpolateConfig(
        res, source, out, method, plot, pad, allow_missing, parse_numbers("--mean", mean), parse_numbers("--std", std)
    )
    result = interpolate_positions(override(config, settings or ()), reporter(quiet), overwrite=overwrite)
    before, after = (
        f"{res[0]}x{res[1]}, {grid[0]}x{grid[1]} patches, {tokens:,} tokens"
        for res, grid, tokens in (
            (result.res_before, result.grid_before, result.tokens_before),
            (result.res_after, result.grid_after, result.tokens_after),
        )
    )
    about = {
        "model": f"{result.model}, {result.parameters:,} parameters",
        "before": before,
        "after": after,
        "positions": f"{result.positions}, {result.method}",
        "there and back": f"{result.round_trip_error:.2%} of the positions' size is lost",
        "written": result.out,
        "digest": result.digest,
        "took": f"{result.elapsed_s:.1f} s",
    }
    print_result("interpolate-pos", result, json, [facts_table(about | ({"plot": result.plot} if result.plot else {}))])
