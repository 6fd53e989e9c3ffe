"""`vitctl bench data`: making a patch file, and reading it, against the usual way of doing both."""

import io
import itertools
import tempfile
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
from vitctl.errors import DataError
from vitctl.io.patch_file import PatchFile, Split
from vitctl.machine import cores
from vitctl.models.input import normalize
from vitctl.reporting import Reporter, SilentReporter, format_duration
from vitctl.workflows.bench.images import multiply_images, write_jpegs
from vitctl.workflows.bench.measure import BenchPart, Measurement, make_figure, make_ratio, run_in_turn
from vitctl.workflows.patchify import patchify

RES = 224
MEAN = STD = (0.5, 0.5, 0.5)
IMAGENET = 1_281_167
LARGE_SET = 32  # times as many images as are timed
WARM_UP = 4  # batches
PEER_DECODE, PEER_LARGE = "torchvision on PIL, 1 core", "torchvision on PIL, 1 core, large photos"
DECODE, DECODE_ALL, LARGE = "patchify, 1 core", f"patchify, {cores()} cores", "patchify, 1 core, large photos"
PEER_LOADER, GATHER, COPY = "ImageFolder in timm's loader", "row gather from RAM", "memory copy"
READ, READ_FLOAT = "loader, uint8", "loader, normalized float32"


def bench_data(config: BenchConfig, reporter: Reporter) -> BenchPart:
    with tempfile.TemporaryDirectory(prefix="vitctl-bench-") as folder:
        measurements, left_out = prepare_data(config, Path(folder), reporter)
        values = run_in_turn(measurements, config.times, reporter)
    figures = [make_figure(name, unit, values[name]) for name, (unit, _) in measurements.items()]
    pairs = [
        (DECODE, PEER_DECODE),
        (DECODE_ALL, DECODE),
        (LARGE, PEER_LARGE),
        (READ, PEER_LOADER),
        (READ, GATHER),
        (READ_FLOAT, PEER_LOADER),
    ]
    ratios = [make_ratio(values, *pair) for pair in pairs if pair[0] in values and pair[1] in values]
    return BenchPart(figures, ratios, left_out, remark_data({each.name: each.median for each in figures}))


def prepare_data(
    config: BenchConfig, folder: Path, reporter: Reporter
) -> tuple[dict[str, tuple[str, Measurement]], list[str]]:
    """{name: (unit, how to take it)}, and the peers that cannot be asked."""
    reporter.note("making images and a patch file to measure on")
    small = (
        find_jpegs(config) if config.data else write_jpegs(folder / "small", config.pictures, 500, 375, 95, config.seed)
    )
    large = write_jpegs(folder / "large", config.large, 4000, 3000, 90, config.seed + 1)
    copies = max(config.copies, -(-3 * config.batch // len(small)))  # the peer drops its last batch, and one warms up
    many = multiply_images(folder / "many", small, copies)
    patchify(PatchifyConfig(source=str(many), out=str(folder / "many.h5"), res=Res(RES)), SilentReporter())
    split = PatchFile(folder / "many.h5").split("train")
    rows = np.array(split.patches(np.arange(split.rows)))
    decoder, large_decoder = Decoder(folder / "small.work", small), Decoder(folder / "large.work", large)
    measurements: dict[str, tuple[str, Measurement]] = {
        COPY: ("GB/s", lambda: copy_rate(rows)),
        GATHER: ("img/s", lambda: loader_rate(gather_rows(rows, config.batch, config.seed), config)),
        PEER_DECODE: ("img/s", lambda: peer_decode(small)),
        DECODE: ("img/s", lambda: decoder.rate(1)),
        DECODE_ALL: ("img/s", lambda: decoder.rate(cores())),
        PEER_LARGE: ("img/s", lambda: peer_decode(large)),
        LARGE: ("img/s", lambda: large_decoder.rate(1)),
        READ: ("img/s", lambda: loader_rate(decode_pixels(split, config), config)),
        READ_FLOAT: (
            "img/s",
            lambda: loader_rate((normalize(batch, MEAN, STD) for batch in decode_pixels(split, config)), config),
        ),
    }
    if cores() == 1:
        del measurements[DECODE_ALL]
    left_out = [] if find_spec("timm") else [f"{PEER_LOADER}: timm is not installed"]
    if not left_out:
        measurements[PEER_LOADER] = ("img/s", lambda: peer_loader(many, config))
    return measurements, left_out


def find_jpegs(config: BenchConfig) -> list[Path]:
    there = sorted(Path(config.data or "").rglob("*"))
    found = [path for path in there if path.suffix.lower() in (".jpg", ".jpeg") and path.is_file()]
    if not found:
        raise DataError(f"{config.data}: no JPEG is there; name a folder of them, or leave --data out")
    whole = list(itertools.islice(filter(can_be_decoded, found), config.pictures))
    if not whole:
        raise DataError(f"{config.data}: none of its {len(found)} JPEGs can be decoded")
    return whole


def can_be_decoded(path: Path) -> bool:
    try:
        with open_image(path) as picture:
            picture.load()
    except (OSError, ValueError, SyntaxError):
        return False
    return True


class Decoder:
    """The patchifier's own workers on a large set, of which a part is timed: neither its start nor its finish."""

    def __init__(self, folder: Path, paths: list[Path]) -> None:
        folder.mkdir()
        config = PatchifyConfig(
            source=str(multiply_images(folder / "pictures", paths, LARGE_SET)), out=str(folder / "out.h5"), res=Res(RES)
        )
        self.build = Build(open_source(config.source), config, Path(config.out))
        self.build.space.begin(build_inputs(self.build), self.build.existing)
        self.layout = prepare_layout(self.build, load_or_make_plan(self.build, SilentReporter()))
        self.blocks = list(range(-(-len(paths) // self.layout.block)))

    def rate(self, workers: int) -> float:
        """Images a second, once every worker has begun."""
        repeats = 2 * workers if workers > 1 else 1
        results = run_blocks(self.build, self.layout, self.blocks * repeats, workers, late=lambda _: None)
        for _ in range(workers if workers > 1 else 0):
            next(results)
        started, count = time.perf_counter(), 0
        for result in results:
            count += len(self.layout.rows(result.number))
        return count / (time.perf_counter() - started)


def peer_decode(paths: list[Path]) -> float:
    """What timm and torchvision do for evaluation: Resize and CenterCrop on a PIL image."""
    from torchvision import transforms

    prepare_picture = transforms.Compose(
        [transforms.Resize(RES, interpolation=transforms.InterpolationMode.BICUBIC), transforms.CenterCrop(RES)]
    )
    started = time.perf_counter()
    for path in paths:
        np.asarray(prepare_picture(open_image(io.BytesIO(path.read_bytes())).convert("RGB")))
    return len(paths) / (time.perf_counter() - started)


def decode_pixels(split: Split, config: BenchConfig) -> Iterator[torch.Tensor]:
    for batch in Loader(split, config.batch, seed=config.seed).stream():
        yield batch.pixels


def gather_rows(rows: np.ndarray[Any, Any], batch: int, seed: int) -> Iterator[np.ndarray[Any, Any]]:
    """The limit: rows that are in memory already, copied into a batch."""
    random = np.random.default_rng(seed)
    while True:
        yield rows[random.integers(0, len(rows), batch)]


def loader_rate(batches: Iterable[Any], config: BenchConfig) -> float:
    """Images a second, once as many batches were had as a loader keeps in flight."""
    iterator = iter(batches)
    for _ in itertools.islice(iterator, WARM_UP):
        pass
    started = time.perf_counter()
    for _ in itertools.islice(iterator, config.batches):
        pass
    taken = time.perf_counter() - started
    close: Callable[[], None] | None = getattr(iterator, "close", None)
    if close:
        close()
    return config.batch * config.batches / taken


def copy_rate(rows: np.ndarray[Any, Any]) -> float:
    target = np.empty_like(rows)
    np.copyto(target, rows)
    started = time.perf_counter()
    np.copyto(target, rows)
    return rows.nbytes / (time.perf_counter() - started) / 1e9


def peer_loader(folder: Path, config: BenchConfig) -> float:
    """timm's loader over torchvision's ImageFolder, a worker a core, shuffled, to normalized float32."""
    from timm.data.loader import create_loader
    from torchvision.datasets import ImageFolder

    loader = create_loader(
        ImageFolder(str(folder)),
        (3, RES, RES),
        config.batch,
        is_training=True,
        no_aug=True,
        use_prefetcher=False,
        num_workers=cores(),
        mean=MEAN,
        std=STD,
        interpolation="bicubic",
        pin_memory=False,
    )
    iterator = iter(loader)
    count = len(next(iterator)[0])
    started, count = time.perf_counter(), 0
    for images, _ in iterator:
        count += len(images)
    return count / (time.perf_counter() - started)


def remark_data(medians: dict[str, float]) -> list[str]:
    """What the figures mean for somebody with a set of images."""
    decode = medians.get(DECODE_ALL, medians[DECODE])
    lines = [f"a patch file of ImageNet's {IMAGENET:,} images would take {format_duration(IMAGENET / decode)} here"]
    if PEER_LOADER in medians:
        lines.append(
            f"a model that takes more than {medians[PEER_LOADER]:,.0f} img/s waits for the usual loader; "
            f"it waits for ours above {medians[READ_FLOAT]:,.0f} (float32) or {medians[READ]:,.0f} (bytes)"
        )
    return lines
