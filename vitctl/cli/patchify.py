from typing import TYPE_CHECKING

from vitctl.cli.command import command
from vitctl.cli.options import BuildOptions
from vitctl.config.patchify import PatchifyConfig

if TYPE_CHECKING:
    from rich.table import Table

    from vitctl.workflows.info import PatchFileInfo, SplitInfo
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
        {"split": name, "images": f"{split.pictures:,}", "labeled": f"{split.labelled:,}"} | label_columns(info, split)
        for name, split in info.splits.items()
    ]
    skewed = [split.skew for split in info.splits.values() if split.skew]
    shape = f"{info.height}x{info.width}x{info.channels}, {info.patches} patches of {info.patch}x{info.patch}"
    about = {
        "images": f"{shape}, fit {info.fit}",
        **describe_original_sizes(info),
        "classes": join_names(info.class_names) if info.task != "numbers" else "none: a label is a number",
        **({"skewed": "; ".join(skewed) + "; train with --balance sqrt or full"} if skewed else {}),
        "mean, std": "  ".join(f"{mean:.3f} ± {std:.3f}" for mean, std in zip(info.mean, info.std, strict=True)),
        "rejects": str(info.rejects),
        "duplicates": f"{info.duplicates} inside a split, {info.leaked} across splits",
        "size": format_size(info.bytes)
        + (f" in {info.shards} shards" if info.shards else "")
        + (f", {info.codec}" if info.compressed else "")
        + "".join(
            f"; as {codec} {'' if codec == 'raw' else 'about '}{format_size(size)}"
            for codec, size in info.codec_bytes.items()
            if codec != info.codec
        ),
        "digest": info.digest,
        "source": f"{info.source}, by {info.created_by}",
    }
    if info.verified:
        about["verified"] = "every image is intact"
    columns, rows = list(splits[0]), [list(each.values()) for each in splits]
    return [columns_table(info.path, columns, rows, columns[1:]), facts_table(about | more)]


def label_columns(info: "PatchFileInfo", split: "SplitInfo") -> dict[str, str]:
    """What the table of splits says about labels."""
    if info.task == "numbers":
        numbers = split.numbers
        names = ("min", "mean", "std", "max")
        return {name: f"{getattr(numbers, name):.5g}" if numbers else "" for name in names}
    columns = {"classes": str(split.classes), "images per class": f"{split.smallest_class:,}-{split.largest_class:,}"}
    if split.sets:
        sets = split.sets
        columns["classes per image"] = f"{sets.least}-{sets.most}, mean {sets.mean:.3g}"
        columns["of none"] = f"{sets.empty:,}"
    return columns


def describe_original_sizes(info: "PatchFileInfo") -> dict[str, str]:
    """The row about the originals, if the file knows them."""
    sizes = info.originals
    if sizes is None:
        return {}
    smallest, median, largest = ("x".join(map(str, each)) for each in (sizes.smallest, sizes.median, sizes.largest))
    if smallest == largest:
        text = f"{median} pixels"
    else:
        text = f"{smallest} to {largest}, median {median}; {sizes.wide:.0%} wide, {sizes.high:.0%} high"
    if sizes.cut:
        text += f"; a centered square cuts {sizes.cut:.0%} away"
    return {"originals": text + (f"; {sizes.reduced:.0%} reduced" if sizes.reduced else "")}


def join_names(names: list[str]) -> str:
    if not names:
        return "none: the images have no labels"
    return f"{len(names)}: {', '.join(names[:8])}" + (", ..." if len(names) > 8 else "")
