"""What `vitctl patchify` makes of a source."""

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
    check_numbers,
    one_of,
    parse_number,
    parse_resolution,
    require,
    within,
    word_or_number,
)
from vitctl.errors import ConfigError, did_you_mean
from vitctl.patches import check_grid

KINDS = (  # of sources; the first few are readings of images in a folder, a tar or a zip
    "auto", "folder", "classes", "splits", "flat", "manifest",
    "webdataset", "class-tars", "idx", "cifar", "arrays", "parquet", "digits",
)  # fmt: skip
SPLITS = ("train", "val", "test")

MANIFEST = ("root", "path_column", "label_column")
Fit = Literal["crop", "squash", "pad"]
FITS: tuple[str, ...] = get_args(Fit)


@dataclass(frozen=True)
class PatchifyConfig:
    source: str
    out: str = "data.h5"
    kind: str = "auto"  # auto looks at the source
    root: str | None = None  # of a manifest: the folder that its paths are relative to; its own, unless given
    path_column: str | None = None  # of a manifest, where its name does not say that it holds paths
    label_column: str | None = None
    res: str = "auto"  # auto: 224 for images; their own size for arrays of small ones
    patch: Pixels | None = None  # 16, or the largest divisor of a small array's size
    fit: Fit = "crop"
    channels: Annotated[int, Range(1, 3)] | None = None  # 3 for images; their own for arrays
    split: tuple[str, ...] = ()  # "val=0.1": parts cut out of train, stratified
    classes: str | None = None  # a file of class names, one a line
    limit: Limit | None = None  # images per split, spread over the classes
    seed: Seed = 0  # of split and limit
    on_error: Literal["skip", "fail"] = "skip"
    max_pixels: MaxPixels = 89_478_485  # an image of more is refused before it is decoded
    draft: bool = True  # JPEGs over twice the target are decoded at a fraction of their size
    shards: Annotated[int, Range(1, 100_000)] | None = None
    shard: str | None = None  # "3", or "index" to write the index over finished shards
    compress: bool = False
    codec: Literal["gzip", "lzf", "zstd", "lz4"] = "gzip"  # zstd and lz4 need the extra `compress`
    level: Annotated[int, Range(0, 9)] = 4  # of gzip and zstd
    workers: Annotated[int, Range(1, 1024)] | None = None

    def __post_init__(self) -> None:
        require(self.out.strip(" ./") != "" and not self.out.endswith("/"), f"OUT {self.out!r} names no file")
        one_of("kind", self.kind, KINDS)
        for name in MANIFEST:
            fits = getattr(self, name) is None or self.kind in ("auto", "manifest")
            require(fits, f"{name} is for a manifest, not for kind={self.kind}")
        one_of("fit", self.fit, FITS)
        one_of("on_error", self.on_error, ("skip", "fail"))
        one_of("codec", self.codec, ("gzip", "lzf", "zstd", "lz4"))
        check_numbers(self)
        require(self.channels in (None, 1, 3), f"channels is {self.channels}; 1 or 3 can be stored")
        if self.size:
            check_grid(*self.size, self.patch or 16)
        require(sum(self.parts.values()) < 1, "the parts of --split leave nothing for train")
        self.check_shards()

    def check_shards(self) -> None:
        require(self.shard is None or self.shards is not None, "--shard wants --shards K beside it")
        if self.shard is not None and self.shards is not None:
            word_or_number("--shard", self.shard, "index", "the number of a shard", Range(0, self.shards - 1))

    @property
    def size(self) -> tuple[int, int] | None:
        return None if self.res == "auto" else parse_resolution(self.res)

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
                    f"--split {text!r}: only val and test are cut out of train; {did_you_mean(name, SPLITS[1:])}"
                )
            try:
                parts[name] = parse_number(match[2])
            except ValueError:
                raise ConfigError(f"--split {text!r}: {match[2]} is not a number") from None
            within(f"--split {name}", parts[name], SHARE)
        return parts

    def content(self) -> dict[str, object]:
        """The fields that decide the bytes of the file: a resumed build must agree in them."""
        free = {"out", "workers", "on_error", "shard"}
        free |= {name for name in MANIFEST if getattr(self, name) is None}  # files that are older than these fields
        return {name: value for name, value in vars(self).items() if name not in free}
