from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vitctl.cli.options import Json, Overwrite, Quiet, Resume, Set
from vitctl.config.patchify import Fit

if TYPE_CHECKING:
    from rich.table import Table

    from vitctl.workflows.info import PatchFileInfo


def patchify(
    source: Annotated[str, typer.Argument(help="A folder, archive, manifest, shards, arrays or Parquet; or digits.")],
    out: Annotated[str, typer.Argument(help="The patch file.")] = "data.h5",
    res: Annotated[
        str, typer.Option(metavar="N|HxW", help="Resolution; auto is 224, and the own size of small arrays.")
    ] = "auto",
    patch: Annotated[
        int | None,
        typer.Option(
            metavar="P", help="Patch size, 16 unless the images are small. Any other can be read from the same file."
        ),
    ] = None,
    fit: Annotated[Fit, typer.Option(help="How an image of another shape is made to fit.")] = "crop",
    channels: Annotated[
        int | None, typer.Option(metavar="1|3", help="Gray or color; as the arrays have it, else 3.")
    ] = None,
    split: Annotated[
        list[str] | None,
        typer.Option(
            metavar="val=0.1", help="Cut val or test out of train, the same share of every class; repeatable."
        ),
    ] = None,
    classes: Annotated[
        str | None, typer.Option(metavar="FILE", help="Class names, one a line: which, and in what order.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(metavar="N", help="At most N images a split, spread over the classes.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(metavar="N", help="Processes that decode; one a core unless there is little to do.")
    ] = None,
    on_error: Annotated[Literal["skip", "fail"], typer.Option(help="Unreadable images: list them, or stop.")] = "skip",
    shards: Annotated[int | None, typer.Option(metavar="K", help="Write K files and an index over them.")] = None,
    shard: Annotated[
        str | None,
        typer.Option(metavar="I|index", help="Write this shard alone (0 to K-1), or the index over finished ones."),
    ] = None,
    compress: Annotated[
        bool, typer.Option("--compress", help="Smaller and slower: one compressed chunk an image.")
    ] = False,
    resume: Resume = False,
    overwrite: Overwrite = False,
    settings: Set = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Turn images into a patch file, which training reads at the speed of memory.

    The source is told apart by looking at it: class folders with or without train/val/test above them, a flat folder,
    a CSV or JSON-lines manifest, .tar, .tar.gz or .zip of these, WebDataset shards, ImageNet's tar of tars, IDX,
    CIFAR binaries, .npz arrays, Hugging Face Parquet, or digits.

    Example: [bold]vitctl patchify photos/ data.h5 --res 224 --split val=0.1[/bold]
    """
    from vitctl.cli.console import print_result, reporter
    from vitctl.config.overrides import override
    from vitctl.config.patchify import PatchifyConfig
    from vitctl.workflows.patchify import patchify as run

    config = PatchifyConfig(
        source=source,
        out=out,
        res=res,
        patch=patch,
        fit=fit,
        channels=channels,
        split=tuple(split or ()),
        classes=classes,
        limit=limit,
        workers=workers,
        on_error=on_error,
        shards=shards,
        shard=shard,
        compress=compress,
    )
    result = run(override(config, settings or ()), reporter(quiet), resume=resume, overwrite=overwrite)
    speed = f"{result.elapsed_s:.1f} s, {result.images_per_s:,.0f} img/s"
    print_result("patchify", result, json, summary(result.data, {"made in": speed}))


def summary(info: "PatchFileInfo", more: dict[str, str]) -> "list[Table]":
    """What is in a patch file, for a person."""
    from vitctl.cli.console import columns_table, facts_table
    from vitctl.reporting import format_size

    splits = [
        [
            name,
            f"{split.pictures:,}",
            f"{split.labelled:,}",
            str(split.classes),
            f"{split.smallest_class:,}-{split.largest_class:,}",
        ]
        for name, split in info.splits.items()
    ]
    shape = f"{info.height}x{info.width}x{info.channels}, {info.patches} patches of {info.patch}x{info.patch}"
    about = {
        "images": f"{shape}, fit {info.fit}",
        "classes": join_names(info.class_names),
        "mean, std": "  ".join(f"{mean:.3f} ± {std:.3f}" for mean, std in zip(info.mean, info.std, strict=True)),
        "rejects": str(info.rejects),
        "duplicates": f"{info.duplicates} inside a split, {info.leaked} across splits",
        "size": format_size(info.bytes)
        + (f" in {info.shards} shards" if info.shards else "")
        + (", compressed" if info.compressed else ""),
        "digest": info.digest,
        "source": f"{info.source}, by {info.created_by}",
    }
    if info.verified:
        about["verified"] = "every image is what was written"
    columns = ["split", "images", "labeled", "classes", "a class has"]
    return [columns_table(info.path, columns, splits, columns[1:]), facts_table(about | more)]


def join_names(names: list[str]) -> str:
    shown = ", ".join(names[:8])
    return (
        f"{len(names)}: {shown}" + (", ..." if len(names) > 8 else "") if names else "none: the images have no labels"
    )
