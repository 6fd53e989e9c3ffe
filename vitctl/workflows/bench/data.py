"""`vitctl bench data`: writing a patch file and reading it, compared with the usual way of doing both."""

import io
import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vitctl.config.augment import augmentation
from vitctl.config.bench import BenchConfig
from vitctl.config.patchify import PatchifyConfig
from vitctl.config.res import Res
from vitctl.data.augmentation.augment import Augment
from vitctl.data.loader import Loader, View
from vitctl.data.patchifier.build import build_inputs, load_or_make_plan, prepare_layout
from vitctl.data.patchifier.image_file import open_image
from vitctl.data.patchifier.pool import run_blocks
from vitctl.data.patchifier.workspace import Build
from vitctl.data.sources import open_source
from vitctl.io.jpeg import decode_jpeg
from vitctl.io.patch_file import PatchFile, Split
from vitctl.io.weights import HALF
from vitctl.machine import cores
from vitctl.models.input import normalize
from vitctl.reporting import Reporter, SilentReporter, format_duration
from vitctl.workflows.bench.images import find_or_write_jpegs, multiply_images, write_jpegs
from vitctl.workflows.bench.measure import CaseTable, Measurement, time_seconds
from vitctl.workflows.bench.peers import AREA, PEERS, Loads, is_installed
from vitctl.workflows.patchify import patchify

RES = 224
IMAGENET = 1_281_167
LARGE_SET = 32  # times as many images as are timed
WARM_UP = 4  # batches
PEER_DECODE, PEER_LARGE = "torchvision on PIL, 1 core", "torchvision on PIL, 1 core, large photos"
DECODE, DECODE_ALL, LARGE = "patchify, 1 core", f"patchify, {cores()} cores", "patchify, 1 core, large photos"
GATHER, COPY = "row gather from RAM", "memory copy"
READ, DECODED, LIMIT = "rows, uint8", "JPEG rows, uint8, 1 core", "decode only, 1 core"
SQUARES, RAW, JPEG, JPEG_ONE = (
    "crops of squares",
    "crops of whole rows",
    "crops of JPEG rows",
    "crops of JPEG rows, 1 core",
)
PEER_LOADER = next(iter(PEERS))
PAIRS = [
    (DECODE, PEER_DECODE),
    (DECODE_ALL, DECODE),
    (LARGE, PEER_LARGE),
    (READ, GATHER),
    (DECODED, LIMIT),
    (RAW, SQUARES),
    (JPEG, JPEG_ONE),
    *((name, peer) for peer in PEERS for name in (RAW, JPEG)),
]


def bench_data(config: BenchConfig, folder: Path, reporter: Reporter) -> Iterator[CaseTable]:
    reporter.note("creating images and patch files to measure on")
    small = find_or_write_jpegs(config, folder / "small", 500, 375)
    large = write_jpegs(folder / "large", config.large, 4000, 3000, 90, config.seed + 1)
    # timm's loader drops its last batch, and its first one warms up
    many = multiply_images(folder / "many", small, max(config.copies, -(-3 * config.batch // len(small))))
    squares, raw, jpeg = (
        store_images(many, folder / f"{name}.h5", **options)
        for name, options in (("squares", {"fit": "crop"}), ("raw", {}), ("jpeg", {"codec": "jpeg"}))
    )
    rows = np.array(squares.patches(np.arange(min(squares.rows, 2 * config.batch))))
    decoder, large_decoder = Decoder(folder / "small.work", small), Decoder(folder / "large.work", large)
    encoded = [np.array(each) for each in jpeg.read_jpegs(np.linspace(0, jpeg.rows - 1, len(small), dtype=int))]

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
        READ: lambda: loader_rate((batch.pixels for batch in Loader(squares, config.batch).stream()), config),
        LIMIT: lambda: len(encoded) / time_seconds(lambda: [decode_jpeg(each, 3) for each in encoded]),
        DECODED: on_one_core(lambda: loader_rate(decode_rows(jpeg, config), config)),
        SQUARES: lambda: loader_rate(load_crops(squares, config), config),
        RAW: lambda: loader_rate(load_crops(raw, config), config),
        JPEG: lambda: loader_rate(load_crops(jpeg, config), config),
        JPEG_ONE: on_one_core(lambda: loader_rate(load_crops(jpeg, config), config)),
    }
    if cores() == 1:
        del cases[DECODE_ALL], cases[JPEG_ONE]
    skipped = []
    for name, (package, load) in PEERS.items():
        if is_installed(package):
            cases[name] = partial(rate_peer, load, many, config)
        else:
            skipped.append(f"{name}: {package} is not installed")
    yield CaseTable(cases, PAIRS, skipped, remark_data, {COPY: "GB/s"})


def store_images(folder: Path, out: Path, **options: Any) -> Split:
    patchify(PatchifyConfig(source=str(folder), out=str(out), **options), SilentReporter())
    return PatchFile(out).split("train")


def load_crops(split: Split, config: BenchConfig) -> Iterator[torch.Tensor]:
    """What training on float32 takes: random crops, normalized."""
    augment = Augment(replace(augmentation("random-resized"), crop_area=AREA), config.seed, (RES, RES))
    whole = split.header.is_whole
    view = View("images", res=(RES, RES) if whole else None)
    for batch in Loader(split, config.batch, seed=config.seed, view=view, crop=augment).stream():
        yield normalize(augment(batch.pixels, batch.epochs, batch.rows, whole), *HALF)


def decode_rows(split: Split, config: BenchConfig) -> Iterator[Any]:
    """Batches of decoded rows as they are stored."""
    random = np.random.default_rng(config.seed)
    return (split.images(random.integers(0, split.rows, config.batch)) for _ in itertools.count())


def on_one_core(measure: Measurement) -> Measurement:
    """The same on one core, with one thread; on systems that cannot pin a process, with one thread only."""

    def alone() -> float:
        threads, can_pin = torch.get_num_threads(), hasattr(os, "sched_setaffinity")
        allowed = os.sched_getaffinity(0) if can_pin else set()
        try:
            torch.set_num_threads(1)
            if can_pin:
                os.sched_setaffinity(0, {min(allowed)})
            return measure()
        finally:
            torch.set_num_threads(threads)
            if can_pin:
                os.sched_setaffinity(0, allowed)

    return alone


def rate_peer(load: Loads, folder: Path, config: BenchConfig) -> float:
    return loader_rate(load(folder, RES, config.batch), config)


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


def remark_data(medians: dict[str, float]) -> list[str]:
    decode = medians.get(DECODE_ALL, medians[DECODE])
    lines = [f"a patch file of ImageNet's {IMAGENET:,} images would take {format_duration(IMAGENET / decode)} here"]
    if PEER_LOADER in medians:
        lines.append(
            f"a model faster than {medians[PEER_LOADER]:,.0f} img/s waits for timm's loader, and for vitctl's above "
            f"{medians[RAW]:,.0f} (raw rows) or {medians[JPEG]:,.0f} (JPEG rows)"
        )
    return lines
