"""What `vitctl patchify` makes of a source."""

import re
from dataclasses import dataclass
from typing import Literal, get_args

from vitctl.config.checks import at_least, fraction, one_of, require, resolution
from vitctl.errors import ConfigError, did_you_mean
from vitctl.patches import check_grid

KINDS = (  # of sources; the first few are readings of pictures in a folder, a tar or a zip
    "auto", "folder", "classes", "splits", "flat", "manifest",
    "webdataset", "class-tars", "idx", "cifar", "arrays", "parquet", "digits",
)  # fmt: skip
SPLITS = ("train", "val", "test")

Fit = Literal["crop", "squash", "pad"]
FITS: tuple[str, ...] = get_args(Fit)


@dataclass(frozen=True)
class PatchifyConfig:
    source: str
    out: str = "data.h5"
    kind: str = "auto"  # auto looks at the source
    res: str = "auto"  # auto: 224 for pictures; their own size for arrays of small ones
    patch: int | None = None  # 16, or the largest divisor of a small array's size
    fit: Fit = "crop"
    channels: int | None = None  # 3 for pictures; their own for arrays
    split: tuple[str, ...] = ()  # "val=0.1": parts cut out of train, stratified
    classes: str | None = None  # a file of class names, one a line
    limit: int | None = None  # pictures per split, spread over the classes
    seed: int = 0  # of split and limit
    on_error: Literal["skip", "fail"] = "skip"
    max_pixels: int = 89_478_485  # a picture of more is refused before it is decoded
    draft: bool = True  # JPEGs over twice the target are decoded at a fraction of their size
    shards: int | None = None
    shard: str | None = None  # "3", or "index" to write the index over finished shards
    compress: bool = False
    codec: Literal["gzip", "lzf", "zstd", "lz4"] = "gzip"  # zstd and lz4 need the extra `compress`
    level: int = 4  # of gzip and zstd
    workers: int | None = None

    def __post_init__(self) -> None:
        require(self.out.strip(" ./") != "" and not self.out.endswith("/"), f"OUT {self.out!r} names no file")
        one_of("kind", self.kind, KINDS)
        one_of("fit", self.fit, FITS)
        one_of("on_error", self.on_error, ("skip", "fail"))
        one_of("codec", self.codec, ("gzip", "lzf", "zstd", "lz4"))
        require(self.channels in (None, 1, 3), f"channels is {self.channels}; 1 or 3 can be stored")
        for name in ("limit", "workers", "shards", "patch", "max_pixels"):
            at_least(name, getattr(self, name), 1)
        require(0 <= self.level <= 9, f"level is {self.level}; it goes from 0 to 9")
        if self.size:
            check_grid(*self.size, self.patch or 16)
        require(sum(self.parts.values()) < 1, "the parts of --split leave nothing for train")
        self.check_shards()

    def check_shards(self) -> None:
        require(self.shard is None or self.shards is not None, "--shard wants --shards K beside it")
        require(self.shards is None or self.shards <= 100_000, "at most 100000 shards")
        if self.shard not in (None, "index"):
            number = int(self.shard) if re.fullmatch("[0-9]{1,6}", str(self.shard)) else -1
            require(
                0 <= number < (self.shards or 0),
                f"--shard {self.shard}: write a number from 0 to {(self.shards or 1) - 1}, or index",
            )

    @property
    def size(self) -> tuple[int, int] | None:
        return None if self.res == "auto" else resolution(self.res)

    @property
    def parts(self) -> dict[str, float]:
        """{"val": 0.1} for --split val=0.1."""
        parts: dict[str, float] = {}
        for text in self.split:
            match = re.fullmatch(r"(\w+)=([0-9.]+)", text.strip())
            if not match:
                raise ConfigError(f"--split {text!r} is not understood; write --split val=0.1")
            name = "val" if match[1] in ("valid", "validation") else match[1]
            if name not in SPLITS[1:]:
                raise ConfigError(
                    f"--split {text!r}: only val and test are cut out of train; {did_you_mean(name, SPLITS[1:])}"
                )
            try:
                parts[name] = float(match[2])
            except ValueError:
                raise ConfigError(f"--split {text!r}: {match[2]} is not a number") from None
            fraction(f"--split {name}", parts[name])
        return parts

    def content(self) -> dict[str, object]:
        """The fields that decide the bytes of the file: a resumed build must agree in them."""
        free = {"out", "workers", "on_error", "shard"}
        return {name: value for name, value in vars(self).items() if name not in free}
