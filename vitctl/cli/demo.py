from typing import Annotated

import typer

from vitctl.cli.options import Device, Json, Overwrite, Quiet, Set


def demo(
    data: Annotated[
        str, typer.Option(metavar="SOURCE", help="Your own images: any source that patchify takes.")
    ] = "digits",
    out: Annotated[str | None, typer.Option(metavar="FOLDER", help="Where all is kept; default: runs/demo.")] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Random seed of weights, data order and augmentation.")] = 0,
    device: Device = "auto",
    resume: Annotated[
        str | None, typer.Option("--resume", metavar="FOLDER", help="Go on with a demo that was stopped.")
    ] = None,
    overwrite: Overwrite = False,
    settings: Set = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show the whole chain at work, in about two minutes, ending in one page to keep.

    Patches, training without and with labels, fine-tuning at another resolution, a few-shot probe, a look inside, an
    export, and its answers; on handwritten digits that come along, or on your own images. The page has the command of
    each stage.

    Example: [bold]vitctl demo[/bold] or [bold]vitctl demo --data photos/[/bold]
    """
    from vitctl.cli.console import columns_table, facts_table, print_result, reporter
    from vitctl.config.demo import DemoConfig
    from vitctl.config.overrides import override
    from vitctl.reporting import format_duration
    from vitctl.workflows.demo import demo as run

    config = override(DemoConfig(data=data, seed=seed, device=device), settings or ())
    result = run(config, reporter(quiet), out=out, resume=resume, overwrite=overwrite)
    rows = [[each.stage, each.result, format_duration(each.elapsed_s), each.file] for each in result.stages]
    about = {
        "page": result.page,
        "took": format_duration(result.elapsed_s),
        "next": "open the page; it has the command of each stage, for your own images. vitctl inspect, evaluate and "
        "predict now take its model",
    }
    print_result(
        "demo",
        result,
        json,
        [
            columns_table(f"{result.model} on {result.data}", ["stage", "result", "took", "file"], rows, ["took"]),
            facts_table(about),
        ],
        run=result.run,
    )
