from typing import Annotated, Literal

import typer

from vitctl.cli.options import AllowMissing, Data, From, Json, Mean, Overwrite, Quiet, Set, Std


def export(
    format: Annotated[
        Literal["onnx", "torch", "safetensors", "hf", "npz"],
        typer.Option(help="torch: of torch.export; safetensors: for timm; hf: for transformers; npz: as the paper's."),
    ] = "onnx",
    source: From = None,
    out: Annotated[str | None, typer.Option(metavar="FILE", help="Else MODEL-RES with the format's ending.")] = None,
    res: Annotated[
        str | None, typer.Option(metavar="N|HxW", help="Another resolution, its positions interpolated.")
    ] = None,
    precision: Annotated[
        Literal["float32", "fp16", "int8"], typer.Option(help="int8 is static, calibrated on --data; for onnx.")
    ] = "float32",
    with_preprocessing: Annotated[
        bool, typer.Option("--with-preprocessing", help="Take bytes [B, H, W, C] of any size, cropped inside.")
    ] = False,
    dynamic_size: Annotated[
        bool, typer.Option("--dynamic-size", help="Take images of any whole number of patches as they are.")
    ] = False,
    data: Data = None,
    mean: Mean = None,
    std: Std = None,
    allow_missing: AllowMissing = False,
    overwrite: Overwrite = False,
    settings: Set = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a model for another runtime, load it there again, and compare it with the model on real images.

    What was found stands beside the file, as FILE.json. A file that differs is kept, and exits with 4.

    Example: [bold]vitctl export --format onnx --with-preprocessing[/bold]
    """
    from vitctl.cli.console import facts_table, print_result, reporter
    from vitctl.config.checks import parse_numbers
    from vitctl.config.export import ExportConfig
    from vitctl.config.overrides import override
    from vitctl.reporting import format_size
    from vitctl.workflows.export import export as run
    from vitctl.workflows.export.files import OWN

    config = ExportConfig(
        format,
        source,
        out,
        res,
        precision,
        with_preprocessing,
        dynamic_size,
        data=data,
        allow_missing=allow_missing,
        mean=parse_numbers("--mean", mean),
        std=parse_numbers("--std", std),
    )
    result = run(override(config, settings or ()), reporter(quiet), overwrite=overwrite)
    found, prepared = result.comparison, result.preprocessing
    table = {
        "written": f"{result.out}, {format_size(result.bytes)}",
        "model": f"{result.model} at {result.res[0]}x{result.res[1]}, {result.classes:,} classes, {result.precision}",
        "takes": result.input,
        "compared": f"by {result.runtime}, on {found.pictures:,} images of {result.data}",
        found.answers: f"up to {found.max_difference:.2g} apart, {found.mean_difference:.2g} on average; "
        f"the largest is {found.largest_logit:.3g}; {found.describe_agreement()}",
        "accuracy": found.accuracy(),
        "files": prepared.summary() if prepared and (prepared.by != OWN or not prepared.agrees) else "",
        "report": result.report,
        "load": result.load,
    }
    print_result("export", result, json, [facts_table({name: value for name, value in table.items() if value})])
