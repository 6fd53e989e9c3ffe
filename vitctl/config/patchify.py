"""The config of `vitctl patchify`."""

import re
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from vitctl.config.checks import (
    SHARE,
    Limit,
    MaxPixels,
    Pixels,
    Range,
    Seed,
    check_config,
    parse_number,
    require,
    within,
    word_or_number,
)
from vitctl.config.option import option, setting
from vitctl.config.res import Res
from vitctl.errors import ConfigError, did_you_mean
from vitctl.patches import check_grid

# The first few are ways to read images in a folder, a tar or a zip.
Kind = Literal[
    "auto", "folder", "classes", "splits", "flat", "manifest", "webdataset", "class-tars", "idx", "cifar", "arrays",
    "parquet", "digits",
]  # fmt: skip
KINDS: tuple[str, ...] = get_args(Kind)
Fit = Literal["crop", "squash", "pad"]
FITS: tuple[str, ...] = get_args(Fit)
Task = Literal["classes", "sets", "numbers"]  # what a label is: one class, a set of classes, or a number
TASKS: tuple[str, ...] = get_args(Task)
StoredFit = Literal["whole", "crop", "squash", "pad"]
Compression = Literal["gzip", "lzf", "zstd", "lz4"]
Codec = Literal["auto", "raw", "jpeg", "gzip", "lzf", "zstd", "lz4"]
SPLITS = ("train", "val", "test")
LABELED = ("auto", "manifest", "webdataset", "parquet", "folder", "flat")  # kinds whose labels can be chosen by name
MANIFEST = {"root": ("auto", "manifest"), "path_column": ("auto", "manifest"), "label_column": LABELED,
            "target_column": LABELED, "class_columns": ("auto", "manifest")}  # fmt: skip
LABELS = ("labels", "separator", "uncertain", "target_column", "class_columns", "merge_copies")


@dataclass(frozen=True, kw_only=True)
class PatchifyConfig:
    source: str = option(
        ..., "A folder, archive, manifest, shards, arrays or Parquet; an address or hf:NAME; or digits.", argument=True
    )
    out: str = option("data.h5", "The patch file.", argument=True)
    res: Res | None = option(
        None, "Stored resolution; auto is 352, or the size of the images if they are smaller.", metavar="N|HxW",
        none="auto", default="auto",
    )  # fmt: skip
    patch: Pixels | None = option(
        None, "Patch size: 16 unless the images are small. Any other can be read from the same file.", metavar="P"
    )
    fit: StoredFit | None = option(
        None, "whole: all of an image, in its true shape again when it is read; the others change it for good. "
        "Default: whole, or crop for arrays of one size.",
        default="",
    )  # fmt: skip
    channels: Annotated[int, Range(1, 3)] | None = option(
        None, "Gray or color. Default: 3, or that of the arrays.", metavar="1|3"
    )
    split: tuple[str, ...] = option(
        (), "Take val or test from train, the same share of every class; repeatable.", metavar="val=0.1"
    )
    classes: str | None = option(None, "Class names, one per line: which, and in what order.", metavar="FILE")
    limit: Limit | None = option(None, "At most N images per split, spread over the classes.", metavar="N")
    workers: Annotated[int, Range(1, 1024)] | None = option(
        None, "Processes that decode. Default: one per core, or fewer if there is little to do.", metavar="N"
    )
    on_error: Literal["skip", "fail"] = option("skip", "Unreadable images: list them, or stop.")
    shards: Annotated[int, Range(1, 100_000)] | None = option(
        None, "Write K files and an index over them.", metavar="K"
    )
    shard: str | None = option(
        None, "Write only this shard (0 to K-1), or the index over finished ones.", metavar="I|index"
    )
    codec: Codec = option(
        "auto", "raw is the fastest to read, jpeg takes about a seventh of the space; auto is raw up to 20 GB or a "
        "fourth of the free disk. The others compress without loss, but little.",
        default="auto",
    )  # fmt: skip
    compress: bool = option(False, "The same as --codec gzip.")
    merge_copies: bool = option(
        False, "Make equal files in several class folders one image with several labels. Reads every file once more."
    )
    kind: Kind = setting("auto", "how the source is read; auto looks at it")
    root: str | None = setting(None, "manifest: the folder that its paths are relative to; default: its own")
    path_column: str | None = setting(None, "manifest: the column with the paths")
    label_column: str | None = setting(None, "table: the column with the labels")
    target_column: str | None = setting(None, "table: the column with the numbers to predict")
    class_columns: tuple[str, ...] = setting((), "manifest: the columns of 0 and 1, one per class; all takes every one")
    labels: Literal["auto", "classes", "sets", "numbers"] = setting(
        "auto", "an image has one class, a set of classes, or a number; auto looks at the labels"
    )
    separator: str | None = setting(None, "text between the classes of a set: | by default; space for a space")
    uncertain: Literal["refuse", "yes", "no"] = setting("refuse", "what -1 means in class_columns")
    seed: Seed = setting(0, "random seed of split and limit")
    max_pixels: MaxPixels = setting(89_478_485, "an image with more pixels is refused before it is decoded")
    draft: bool = setting(True, "decode JPEGs over twice the target at a fraction of their size")
    quality: Annotated[int, Range(1, 100)] = setting(95, "of jpeg, whose colors are not subsampled")
    level: Annotated[int, Range(0, 9)] = setting(4, "compression level of gzip and zstd")

    def __post_init__(self) -> None:
        require(self.out.strip(" ./") != "" and not self.out.endswith("/"), f"OUT {self.out!r} names no file")
        check_config(self)
        for name, kinds in MANIFEST.items():
            require(
                not getattr(self, name) or self.kind in kinds, f"{name} is for a manifest, not for kind={self.kind}"
            )
        self.check_labels()
        require(self.channels in (None, 1, 3), f"channels is {self.channels}; 1 or 3 can be stored")
        if self.res:
            check_grid(self.res.height, self.res.width, self.patch or 16)
        lossless = not self.compress or self.codec in ("auto", *get_args(Compression))
        require(lossless, f"--compress stores rows without loss; --codec is {self.codec}")
        require(sum(self.parts.values()) < 1, "--split leaves nothing for train")
        self.check_shards()

    def check_labels(self) -> None:
        numbers, sets = self.target_column is not None, self.separator is not None or self.class_columns != ()
        require(not (numbers and self.label_column), "choose one of label_column and target_column")
        require(not (numbers and self.class_columns), "choose one of class_columns and target_column")
        require(not (self.class_columns and self.label_column), "choose one of class_columns and label_column")
        require(self.labels in ("auto", "numbers") or not numbers, f"target_column holds numbers, not {self.labels}")
        require(
            self.labels in ("auto", "sets") or not sets, f"separator and class_columns make sets, not {self.labels}"
        )
        merges = not (self.merge_copies and (numbers or self.labels in ("classes", "numbers")))
        require(merges, "--merge-copies makes sets of classes")

    def check_shards(self) -> None:
        require(self.shard is None or self.shards is not None, "--shard needs --shards K")
        if self.shard is not None and self.shards is not None:
            word_or_number("--shard", self.shard, "index", "the number of a shard", Range(0, self.shards - 1))

    @property
    def parts(self) -> dict[str, float]:
        """{"val": 0.1} for --split val=0.1."""
        parts: dict[str, float] = {}
        for text in self.split:
            match = re.fullmatch(r"(\w+)=(.+)", text.strip())
            if not match:
                raise ConfigError(f"--split {text!r} is not understood; write --split val=0.1")
            name = "val" if match[1] in ("valid", "validation") else match[1]
            if name not in SPLITS[1:]:
                raise ConfigError(
                    f"--split {text!r}: only val and test are taken from train; {did_you_mean(name, SPLITS[1:])}"
                )
            try:
                parts[name] = parse_number(match[2])
            except ValueError:
                raise ConfigError(f"--split {text!r}: {match[2]} is not a number") from None
            within(f"--split {name}", parts[name], SHARE)
        return parts

    def content(self) -> dict[str, object]:
        """The fields that determine the bytes of the file: they must be the same in a resumed build."""
        free = {"out", "workers", "on_error", "shard"}
        newer = (*MANIFEST, *LABELS)  # fields that older files lack
        free |= {name for name in newer if getattr(self, name) == type(self).__dataclass_fields__[name].default}
        values = {name: value for name, value in vars(self).items() if name not in free}
        values |= {"fit": self.fit or "auto", "codec": self.wanted_codec}
        return values | {"res": str(self.res) if self.res else "auto"}

    @property
    def wanted_codec(self) -> Codec:
        return "gzip" if self.compress and self.codec == "auto" else self.codec
