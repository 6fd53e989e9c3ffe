"""`vitctl bench data`: writing a patch file and reading it, compared with the usual way of doing both."""

import io
import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vitctl.config.bench import BenchConfig
from vitctl.config.patchify import PatchifyConfig
from vitctl.config.res import Res
from vitctl.data.loader import Loader
from vitctl.data.patchifier.build import build_inputs, load_or_make_plan, prepare_layout
from vitctl.data.patchifier.image_file import open_image
from vitctl.data.patchifier.pool import run_blocks
from vitctl.data.patchifier.workspace import Build
from vitctl.data.sources import open_source
from vitctl.io.patch_file import PatchFile
from vitctl.io.weights import HALF
from vitctl.machine import cores
from vitctl.models.input import normalize
from vitctl.reporting import Reporter, SilentReporter, format_duration
from vitctl.workflows.bench.images import find_or_write_jpegs, multiply_images, write_jpegs, write_patch_file
from vitctl.workflows.bench.loops import timm_loader
from vitctl.workflows.bench.measure import CaseTable, time_seconds

RES = 224
IMAGENET = 1_281_167
LARGE_SET = 32  # times as many images as are timed
WARM_UP = 4  # batches
PEER_DECODE, PEER_LARGE = "torchvision on PIL, 1 core", "torchvision on PIL, 1 core, large photos"
DECODE, DECODE_ALL, LARGE = "patchify, 1 core", f"patchify, {cores()} cores", "patchify, 1 core, large photos"
PEER_LOADER, GATHER, COPY = "ImageFolder in timm's loader", "row gather from RAM", "memory copy"
READ, READ_FLOAT = "loader, uint8", "loader, normalized float32"
PAIRS = [
    (DECODE, PEER_DECODE),
    (DECODE_ALL, DECODE),
    (LARGE, PEER_LARGE),
    (READ, PEER_LOADER),
    (READ, GATHER),
    (READ_FLOAT, PEER_LOADER),
]


def bench_data(config: BenchConfig, folder: Path, reporter: Reporter) -> Iterator[CaseTable]:
    reporter.note("creating images and a patch file to measure on")
    small = find_or_write_jpegs(config, folder / "small", 500, 375)
    large = write_jpegs(folder / "large", config.large, 4000, 3000, 90, config.seed + 1)
    # timm's loader drops its last batch, and its first one warms up
    path = write_patch_file(folder, small, max(config.copies, -(-3 * config.batch // len(small))), RES)
    split = PatchFile(path).split("train")
    rows = np.array(split.patches(np.arange(split.rows)))
    decoder, large_decoder = Decoder(folder / "small.work", small), Decoder(folder / "large.work", large)

    def pixels() -> Iterator[torch.Tensor]:
        return (batch.pixels for batch in Loader(split, config.batch, seed=config.seed).stream())

    def gather() -> Iterator[Any]:
        """The limit: rows that are in memory already, copied into a batch."""
        random = np.random.default_rng(config.seed)
        return (rows[random.integers(0, len(rows), config.batch)] for _ in itertools.count())

    cases = {
        COPY: lambda: copy_rate(rows),
        GATHER: lambda: loader_rate(gather(), config),
        PEER_DECODE: lambda: peer_decode(small),
        DECODE: lambda: decoder.rate(1),
        DECODE_ALL: lambda: decoder.rate(cores()),
        PEER_LARGE: lambda: peer_decode(large),
        LARGE: lambda: large_decoder.rate(1),
        READ: lambda: loader_rate(pixels(), config),
        READ_FLOAT: lambda: loader_rate((normalize(batch, *HALF) for batch in pixels()), config),
        PEER_LOADER: lambda: peer_loader(path.with_suffix(""), config),
    }
    if cores() == 1:
        del cases[DECODE_ALL]
    skipped = [] if find_spec("timm") else [f"{PEER_LOADER}: timm is not installed"]
    if skipped:
        del cases[PEER_LOADER]
    yield CaseTable(cases, PAIRS, skipped, remark_data, {COPY: "GB/s"})


class Decoder:
    """The patchifier's own workers on a large data set: times a part of it, without start and finish."""

    def __init__(self, folder: Path, paths: list[Path]) -> None:
        folder.mkdir()
        images = multiply_images(folder / "pictures", paths, LARGE_SET)
        config = PatchifyConfig(source=str(images), out=str(folder / "out.h5"), res=Res(RES))
        self.build = Build(open_source(config.source), config, Path(config.out))
        self.build.space.begin(build_inputs(self.build), self.build.existing)
        self.layout = prepare_layout(self.build, load_or_make_plan(self.build, SilentReporter()))
        self.blocks = list(range(-(-len(paths) // self.layout.block)))

    def rate(self, workers: int) -> float:
        """Images per second, timed after every worker has finished a block."""
        repeats = 2 * workers if workers > 1 else 1
        results = run_blocks(self.build, self.layout, self.blocks * repeats, workers, late=lambda _: None)
        for _ in range(workers if workers > 1 else 0):
            next(results)
        started = time.perf_counter()
        count = sum(len(self.layout.rows(result.number)) for result in results)
        return count / (time.perf_counter() - started)


def peer_decode(paths: list[Path]) -> float:
    """timm's and torchvision's way for evaluation: Resize and CenterCrop on a PIL image."""
    from torchvision import transforms

    prepare = transforms.Compose(
        [transforms.Resize(RES, interpolation=transforms.InterpolationMode.BICUBIC), transforms.CenterCrop(RES)]
    )

    def decode() -> None:
        for path in paths:
            np.asarray(prepare(open_image(io.BytesIO(path.read_bytes())).convert("RGB")))

    return len(paths) / time_seconds(decode)


def loader_rate(batches: Iterable[Any], config: BenchConfig) -> float:
    """Images per second, timed after as many batches as a loader prefetches."""
    iterator = iter(batches)

    def take(count: int) -> None:
        for _ in itertools.islice(iterator, count):
            pass

    take(WARM_UP)
    seconds = time_seconds(lambda: take(config.batches))
    close: Callable[[], None] | None = getattr(iterator, "close", None)
    if close:
        close()
    return config.batch * config.batches / seconds


def copy_rate(rows: np.ndarray[Any, Any]) -> float:
    target = np.empty_like(rows)
    np.copyto(target, rows)
    return rows.nbytes / time_seconds(lambda: np.copyto(target, rows)) / 1e9


def peer_loader(folder: Path, config: BenchConfig) -> float:
    """timm's loader over torchvision's ImageFolder, one worker per core, shuffled, to normalized float32."""
    loader = timm_loader(folder, RES, config.batch, is_training=True, no_aug=True, interpolation="bicubic")
    iterator = iter(loader)
    next(iterator)
    started = time.perf_counter()
    count = sum(len(images) for images, _ in iterator)
    return count / (time.perf_counter() - started)


def remark_data(medians: dict[str, float]) -> list[str]:
    decode = medians.get(DECODE_ALL, medians[DECODE])
    lines = [f"a patch file of ImageNet's {IMAGENET:,} images would take {format_duration(IMAGENET / decode)} here"]
    if PEER_LOADER in medians:
        lines.append(
            f"a model faster than {medians[PEER_LOADER]:,.0f} img/s waits for timm's loader, and for vitctl's above "
            f"{medians[READ_FLOAT]:,.0f} (float32) or {medians[READ]:,.0f} (uint8)"
        )
    return lines
