from typing import TYPE_CHECKING

from vitctl.cli.command import command
from vitctl.cli.options import BuildOptions
from vitctl.config.patchify import PatchifyConfig

if TYPE_CHECKING:
    from rich.table import Table

    from vitctl.workflows.info import PatchFileInfo
    from vitctl.workflows.patchify import PatchifyResult


@command(PatchifyConfig, "vitctl.workflows.patchify:patchify", BuildOptions)
def patchify(result: "PatchifyResult") -> "list[Table]":
    """Convert images to a patch file, which training reads at the speed of memory.

    The kind of source is detected automatically: class folders with or without train/val/test above them, a flat
    folder, a CSV or JSON-lines manifest, .tar, .tar.gz or .zip of these, WebDataset shards, ImageNet's tar of tars,
    IDX, CIFAR binaries, .npz arrays, Hugging Face Parquet, or digits.

    Example: [bold]vitctl patchify photos/ data.h5 --res 224 --split val=0.1[/bold]
    """
    return patch_file_tables(result.data, {"took": f"{result.elapsed_s:.1f} s, {result.images_per_s:,.0f} img/s"})


def patch_file_tables(info: "PatchFileInfo", more: dict[str, str]) -> "list[Table]":
    """Tables about the content of a patch file."""
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
    skewed = [split.skew for split in info.splits.values() if split.skew]
    shape = f"{info.height}x{info.width}x{info.channels}, {info.patches} patches of {info.patch}x{info.patch}"
    about = {
        "images": f"{shape}, fit {info.fit}",
        "classes": join_names(info.class_names),
        **({"skewed": f"{'; '.join(skewed)}; train with --balance sqrt or full"} if skewed else {}),
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
        about["verified"] = "every image is intact"
    columns = ["split", "images", "labeled", "classes", "images per class"]
    return [columns_table(info.path, columns, splits, columns[1:]), facts_table(about | more)]


def join_names(names: list[str]) -> str:
    if not names:
        return "none: the images have no labels"
    return f"{len(names)}: {', '.join(names[:8])}" + (", ..." if len(names) > 8 else "")
