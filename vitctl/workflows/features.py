"""`vitctl features`: computes the frozen features of a data set once."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vitctl import __version__
from vitctl.config.eval_crop import SHORT_SIDE, EvalCrop
from vitctl.config.features import PIXELS, FeaturesConfig
from vitctl.config.model import model_spec
from vitctl.config.res import Res
from vitctl.data.loader import Loader, View
from vitctl.errors import ConfigError, DataError, OutputExists, UsageError
from vitctl.io.feature_file import EXPORTS, FEATURES, TASK_COLUMNS, FeatureFile, Origin, Parts, export_paths
from vitctl.io.feature_file import export_features as write_export
from vitctl.io.lock import Held, take
from vitctl.io.outputs import check_output, check_replaceable
from vitctl.io.patch_file import PatchFile, Split
from vitctl.io.weights import HALF, About, Weights, override_normalization
from vitctl.models.adapt import adapt_weights
from vitctl.models.create import collect_tensors, create_model
from vitctl.models.input import Normalizer
from vitctl.probing.frozen import average_layers, check_layers, compute_pre_logits, describe_pooling
from vitctl.reporting import Progress, Reporter, SilentReporter
from vitctl.training.device import autocast, choose_device, choose_precision, quick_attention
from vitctl.training.feed import evaluation_view
from vitctl.training.ranks import Ranks
from vitctl.workflows.inputs.data import cache_folder, choose_data, warn_enlarged
from vitctl.workflows.inputs.weights import choose_weights, data_of_run, load_model, tell_changes

RANDOM = "random:"
LARGEST = 32  # pixels per side, if raw pixels are the features
Extract = Callable[[torch.Tensor], torch.Tensor]  # uint8 pixels or patches [B, ...] to features [B, D] or [B, N, D]


@dataclass(frozen=True)
class FeaturesResult:
    out: str
    weights: str
    weights_digest: str
    data: str
    data_digest: str
    model: str
    res: list[int]
    layers: int
    pool: str
    dtype: str
    splits: dict[str, list[int]]  # the shape of its features
    computed: bool  # False: cached
    exported: list[str]
    images_per_s: float
    elapsed_s: float


@dataclass(frozen=True)
class Extractor:
    """Turns images into features."""

    name: str  # the path of the weights, as the user named it
    origin: Origin
    view: View
    extract: Callable[[], Extract]  # builds the model, which cached features do not need
    vectors: int = 1  # per image
    trained_on: str = ""  # digest of the training data


def features(
    config: FeaturesConfig, reporter: Reporter | None = None, *, export: str | None = None, overwrite: bool = False
) -> FeaturesResult:
    reporter, start_time = reporter or SilentReporter(), time.perf_counter()
    check_export(export)
    weights = open_source_weights(config, reporter)
    path = choose_data(config.data, reporter, data_of_run(config.source), features_size(config, weights))
    data = PatchFile(path)
    out = Path(config.out) if config.out else None
    stem = out.with_suffix("") if out else Path("features")
    exports = [path for path in export_paths(export, data.splits, stem) if path.exists()] if export else []
    if exports and not overwrite:
        raise OutputExists(f"{exports[0]}: exists; use --overwrite to replace it")
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        check_replaceable(out, FEATURES.name)
    for each in (*exports, out):
        check_output(each, config.data)
    if out and out.exists() and not (overwrite or export):
        raise OutputExists(f"{out}: exists; use --overwrite to replace it")
    extractor = extractor_of(config, data, weights, reporter)
    file, seconds = find_existing_features(extractor, out, overwrite) or extract_features(
        extractor, data, config, reporter, out
    )
    exported = write_export(file, export, stem) if export else []
    rows = sum(shape[0] for shape in file.splits.values())
    return FeaturesResult(
        out=str(file.path), weights=extractor.name, weights_digest=file.origin.weights_digest, data=str(path),
        data_digest=data.digest, model=file.origin.model, res=[file.origin.height, file.origin.width],
        layers=file.origin.layers, pool=file.origin.pool, dtype=file.origin.dtype,
        splits={name: list(shape) for name, shape in file.splits.items()}, computed=seconds > 0,
        exported=[str(each) for each in exported], images_per_s=rows / seconds if seconds else 0.0,
        elapsed_s=time.perf_counter() - start_time,
    )  # fmt: skip


def find_existing_features(extractor: Extractor, out: Path | None, overwrite: bool) -> tuple[FeatureFile, float] | None:
    """The file `out`, if it exists with the same features. A full disk may have stopped only their export."""
    if out is None or overwrite or not out.exists():
        return None
    file = FeatureFile(out)
    if file.origin != extractor.origin:
        raise OutputExists(f"{out}: exists with other features; use --overwrite to replace it")
    return file, 0.0


def check_export(export: str | None) -> None:
    if export is not None and export not in EXPORTS:
        raise ConfigError(f"--export {export} is unknown; use {' or '.join(EXPORTS)}")
    if export == "parquet" and not find_spec("pyarrow"):
        raise UsageError("--export parquet needs pyarrow: pip install pyarrow")


def extract_features(
    extractor: Extractor, data: PatchFile, config: FeaturesConfig, reporter: Reporter, out: Path | None = None
) -> tuple[FeatureFile, float]:
    """The features, and the seconds spent on them: 0 if they were cached."""
    target = out or cache_path(extractor.origin)
    may_be_cached = out is None and config.cache
    if not (may_be_cached and target.exists()):
        with lock_cache_entry(target, reporter):  # another process may have computed them in the meantime
            if not (may_be_cached and target.exists()):
                return compute_features(extractor, data, config, reporter, target)
    reporter.note(f"features: {extractor.name} on {data.path}, cached ({target})")
    return FeatureFile(target), 0.0


@contextmanager
def lock_cache_entry(target: Path, reporter: Reporter) -> Iterator[None]:
    """Wait while another process computes the same features."""
    lock = target.with_name(f".{target.name}.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle = take(lock, wait=False, warn=reporter.warn)
    except Held:
        reporter.note(f"features: waiting for another process to compute {target}")
        handle = take(lock, wait=True, warn=reporter.warn)
    with handle:
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def compute_features(
    extractor: Extractor, data: PatchFile, config: FeaturesConfig, reporter: Reporter, target: Path
) -> tuple[FeatureFile, float]:
    started = time.perf_counter()
    parts = Parts(target, extractor.origin, anew=not config.cache)
    extract = extractor.extract()
    splits = {name: data.split(name) for name in data.splits if data.split(name).rows}
    if not splits:
        raise DataError(f"{data.path}: has no images")
    with reporter.progress("features", sum(split.rows for split in splits.values())) as bar:
        for name, split in splits.items():
            for start, values in compute_parts(split, extract, extractor, config, parts, bar):
                parts.write(name, start, values)
    return parts.finish(
        {name: read_columns(split) for name, split in splits.items()}, f"vitctl {__version__}"
    ), time.perf_counter() - started


def read_columns(split: Split) -> dict[str, Any]:
    """What a feature file has beside the features."""
    columns = {"labels": split.labels(), "names": split.names(np.arange(split.rows))}
    column = TASK_COLUMNS.get(split.header.task)
    return columns | ({column: split.take(column, None)} if column else {})


def cache_path(origin: Origin) -> Path:
    folder = cache_folder() / "features"
    folder.mkdir(exist_ok=True)
    key = hashlib.sha256(json.dumps(asdict(origin), sort_keys=True).encode()).hexdigest()[:24]
    return folder / f"{key}.h5"


@torch.no_grad()
def compute_parts(
    split: Split, extract: Extract, extractor: Extractor, config: FeaturesConfig, parts: Parts, bar: Progress
) -> Iterator[tuple[int, Any]]:
    """(first row, features) of each part that was not computed yet."""
    loader = Loader(split, config.batch, view=extractor.view, shuffle=False)
    length = config.batch * max(1, config.part // config.batch // extractor.vectors)
    for start in range(0, split.rows, length):
        rows = np.arange(start, min(start + length, split.rows))
        if parts.has(split.name, start, len(rows)):
            bar.advance(len(rows))
            continue
        values = []
        for batch in np.split(rows, range(config.batch, len(rows), config.batch)):
            pixels = loader.fetch(batch, np.zeros_like(batch)).pixels
            values.append(extract(pixels).float().cpu().numpy())
            bar.advance(len(batch))
        yield start, np.concatenate(values)


def extractor_of(config: FeaturesConfig, data: PatchFile, source: Weights | None, reporter: Reporter) -> Extractor:
    """`source`: the weights of config.source; None for raw pixels and random weights."""
    if config.source == PIXELS:
        return pixel_extractor(config, data)
    original = source or random_weights(config, data)
    weights = fit_to_data(original, config, data)
    tell_changes(original, weights, reporter)
    warn_enlarged(data, weights.spec, reporter)
    spec, device = weights.spec, choose_device(config.device, Ranks())
    precision = choose_precision(config.precision, device)
    pool = config.pool
    if config.layers > 1 and pool == "auto":
        pool = "cls" if spec.head == "cls" else "gap"
    origin = Origin(
        original.digest(), data.digest, spec.name, config.layers, pool, spec.height, spec.width, config.dtype,
        precision, tuple(data.class_names), tuple(weights.about.mean), tuple(weights.about.std),
        describe_eval_crop(weights.about.eval_crop),
    )  # fmt: skip
    reporter.note(f"features: {describe_pooling(spec, config.layers, pool)}")
    view = evaluation_view(spec, weights.about)

    def make() -> Extract:
        with torch.random.fork_rng(devices=[]):  # missing tensors are initialized the same way each time
            torch.default_generator.manual_seed(config.seed)
            model = load_model(weights, allow_missing=config.allow_missing).to(device)
        if pool != "auto":
            check_layers(model, config.layers, pool, spec.name)
        quick_attention(model, precision, device)
        normalize = Normalizer(spec, weights.about)

        def extract(pixels: torch.Tensor) -> torch.Tensor:
            with autocast(precision, device):
                inputs = normalize(pixels.to(device))
                if pool == "auto":
                    return compute_pre_logits(model, inputs)
                return average_layers(model, inputs, config.layers, pool)

        return extract

    vectors = spec.grid[0] * spec.grid[1] if pool == "none" else 1
    return Extractor(weights.path, origin, view, make, vectors, weights.about.training.get("data_digest", ""))


def describe_eval_crop(crop: EvalCrop) -> str:
    """Empty for all of the short side, as in files of 0.2."""
    return "" if crop in (SHORT_SIDE, EvalCrop("squash"), EvalCrop("pad")) else str(crop)


def open_source_weights(config: FeaturesConfig, reporter: Reporter) -> Weights | None:
    if config.source == PIXELS or (config.source or "").startswith(RANDOM):
        return None
    return choose_weights(config.source, reporter, config.allow_missing, config)


def features_size(config: FeaturesConfig, weights: Weights | None) -> Res | None:
    """The resolution of the images; None: that of the data."""
    return config.res or (weights.spec.res if weights else None)


def random_weights(config: FeaturesConfig, data: PatchFile) -> Weights:
    """A randomly initialized model, as a baseline."""
    shape = data.geometry
    height, width = config.res or data.header.training_res
    name = (config.source or "").removeprefix(RANDOM)
    spec = model_spec(name, height=height, width=width, channels=shape.channels)
    model = create_model(spec, seed=config.seed)
    mean, std = ((value[0],) * shape.channels for value in HALF)
    about = override_normalization(
        About("vitctl", config.source or "", mean, std), shape.channels, config.mean, config.std
    )
    return Weights(model.spec, collect_tensors(model), about, path=config.source or "")  # type: ignore[arg-type]


def fit_to_data(weights: Weights, config: FeaturesConfig, data: PatchFile) -> Weights:
    """Adapt the weights to the channels of the data and the resolution of the config."""
    height, width = config.res or (None, None)
    return adapt_weights(weights, height, width, data.geometry.channels)


def pixel_extractor(config: FeaturesConfig, data: PatchFile) -> Extractor:
    """Raw pixels of small images, the baseline for any features."""
    shape = data.geometry
    height, width = config.res or (min(LARGEST, shape.height), min(LARGEST, shape.width))
    origin = Origin(
        PIXELS, data.digest, PIXELS, 1, "auto", height, width, config.dtype, "float32", tuple(data.class_names)
    )
    return Extractor(PIXELS, origin, View("images", res=(height, width)), lambda: scale_pixels)


def scale_pixels(pixels: torch.Tensor) -> torch.Tensor:
    return pixels.flatten(1).float() / 127.5 - 1
