"""`vitctl info`: describes patch files, feature files, weights and run directories, and verifies their contents."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vitctl.data.balance import describe_skew
from vitctl.errors import DataError
from vitctl.io import run_directory
from vitctl.io.feature_file import FEATURES, FeatureFile
from vitctl.io.files import check_regular_file
from vitctl.io.hdf5 import format_of, is_hdf5
from vitctl.io.patch_file import PatchFile, Split
from vitctl.io.patch_format import image_digest
from vitctl.reporting import Reporter, SilentReporter, format_count
from vitctl.workflows.originals import OriginalsInfo, describe_originals, sizes_by_codec

LISTED = 1000  # rejects in a result, at most; the file has all of them
VERIFIED = 64  # images checked at once
COUNTED = 4096  # images whose sets are counted at once


@dataclass(frozen=True)
class SetsInfo:
    """Of the images whose set of classes is known: how many classes they have."""

    least: int
    mean: float
    most: int
    empty: int  # images of no class


@dataclass(frozen=True)
class NumbersInfo:
    """The numbers to predict."""

    min: float
    mean: float
    std: float
    max: float


@dataclass(frozen=True)
class SplitInfo:
    pictures: int
    labelled: int
    classes: int  # classes that have images
    smallest_class: int
    largest_class: int
    skew: str = ""  # what the smallest and the largest class have, if they differ much
    sets: SetsInfo | None = None  # if a label is a set of classes
    numbers: NumbersInfo | None = None  # if a label is a number


@dataclass(frozen=True)
class PatchFileInfo:
    path: str
    kind: str
    splits: dict[str, SplitInfo]
    classes: int
    class_names: list[str]
    height: int
    width: int
    channels: int
    patch: int
    patches: int  # N, per image
    fit: str
    mean: list[float]
    std: list[float]
    rejects: int
    rejected: list[dict[str, str]]
    duplicates: int
    leaked: int
    leaks: list[dict[str, str]]
    shards: int
    compressed: bool
    codec: str
    task: str
    codec_bytes: dict[str, int]  # of all rows by codec
    originals: OriginalsInfo | None  # of version 2
    bytes: int
    source: str
    created_by: str
    digest: str
    verified: bool | None = None  # None without --verify


@dataclass(frozen=True)
class RunInfo:
    path: str
    kind: str
    command: str
    version: str
    finished: bool
    config: dict[str, Any] = field(default_factory=dict)
    result: dict[str, Any] | None = None
    weights: "WeightsInfo | None" = None


@dataclass(frozen=True)
class WeightsInfo:
    path: str
    kind: str
    ours: bool  # a file written by vitctl
    format: str  # of the file from which the weights were first read
    model: str
    spec: dict[str, Any]
    grid: list[int]
    tokens: int
    parameters: int
    dtypes: list[str]
    classes: int
    class_names: list[str]
    task: str
    thresholds: list[float]
    target: list[float]
    mean: list[float]
    std: list[float]
    source: str
    history: list[dict[str, Any]]
    training: dict[str, Any]
    apart: list[str]  # tensors that the classifier does not have
    notes: list[str]
    bytes: int
    digest: str


@dataclass(frozen=True)
class FeatureFileInfo:
    path: str
    kind: str
    model: str
    weights_digest: str
    data_digest: str
    res: list[int]
    layers: int
    pool: str
    dtype: str
    precision: str
    splits: dict[str, list[int]]  # shape of the features
    task: str
    classes: int
    class_names: list[str]
    bytes: int
    created_by: str
    verified: bool | None = None


Info = PatchFileInfo | RunInfo | WeightsInfo | FeatureFileInfo


def describe(path: str | Path, reporter: Reporter | None = None, *, verify: bool = False) -> Info:
    """Recognizes what `path` is, and describes it."""
    text, path = str(path), Path(path)
    check_regular_file(path)
    if path.is_dir() and run_directory.is_run(path):
        return describe_run(path)
    named_hdf5 = path.suffix in (".h5", ".hdf5")  # a damaged patch file is reported as a patch file
    if path.is_dir() or not (named_hdf5 or (path.is_file() and is_hdf5(path))):
        return describe_weights(text)
    if format_of(path) == FEATURES.name:
        return describe_features(FeatureFile(path), verify)
    file = PatchFile(path)
    if verify:
        verify_patch_file(file, reporter or SilentReporter())
    return describe_patch_file(file, verified=True if verify else None)


def describe_run(path: Path) -> RunInfo:
    run = run_directory.open_run(path)
    weights = describe_weights(str(run.path)) if (run.path / "weights.safetensors").exists() else None
    command, version, config = (run.config[name] for name in ("command", "version", "config"))
    return RunInfo(str(path), "run", command, version, run.result is not None, config, run.result, weights)


def describe_weights(reference: str) -> WeightsInfo:
    from vitctl.workflows.inputs.weights import load_weights

    weights = load_weights(reference)
    spec, about = weights.spec, weights.about
    return WeightsInfo(
        path=reference, kind="weights", ours=bool(weights.stated), format=about.format, model=spec.name,
        spec=spec.as_dict(), grid=list(spec.grid), tokens=spec.tokens, parameters=weights.parameters,
        dtypes=sorted({str(tensor.dtype).removeprefix("torch.") for tensor in weights.tensors.values()}),
        classes=spec.classes, class_names=list(about.class_names), task=about.task,
        thresholds=list(about.thresholds), target=list(about.target), mean=list(about.mean), std=list(about.std),
        source=about.source, history=list(about.history), training=about.training, apart=sorted(weights.extra),
        notes=list(weights.remarks),
        bytes=sum(tensor.nbytes for tensor in (*weights.tensors.values(), *weights.extra.values())),
        digest=weights.stated or weights.digest(),
    )  # fmt: skip


def describe_features(file: FeatureFile, verify: bool) -> FeatureFileInfo:
    origin = file.origin
    if verify:
        check_finite_features(file)
    return FeatureFileInfo(
        path=str(file.path), kind="features", model=origin.model, weights_digest=origin.weights_digest,
        data_digest=origin.data_digest, res=[origin.height, origin.width], layers=origin.layers, pool=origin.pool,
        dtype=origin.dtype, precision=origin.precision,
        splits={name: list(shape) for name, shape in file.splits.items()}, task=file.task,
        classes=len(origin.class_names), class_names=list(origin.class_names), bytes=file.path.stat().st_size,
        created_by=file.created_by,
        verified=True if verify else None,
    )  # fmt: skip


def check_finite_features(file: FeatureFile) -> None:
    for name in file.splits:
        rows = np.flatnonzero(~np.isfinite(file.features(name)).reshape(len(file.labels(name)), -1).all(1))
        if len(rows):
            images = format_count(len(rows), "image")
            raise DataError(f"{file.path}: features of {images} in {name} are not finite; extract them again")


def describe_patch_file(file: PatchFile, verified: bool | None = None) -> PatchFileInfo:
    header, shape = file.header, file.geometry
    rejects, leaks = file.rejects(LISTED), file.leaks()
    return PatchFileInfo(
        path=str(file.path), kind="patches",
        splits={name: describe_split(split, header.class_names) for name, split in file.splits.items()},
        classes=len(header.class_names), class_names=list(header.class_names), height=shape.height, width=shape.width,
        channels=shape.channels, patch=shape.patch, patches=shape.count, fit=header.fit, mean=list(header.mean),
        std=list(header.std), rejects=file.reject_count,
        rejected=[{"name": name, "reason": reason} for name, reason in rejects],
        duplicates=header.duplicates, leaked=header.leaked,
        leaks=[dict(zip(("split", "name", "other_split", "other_name"), leak, strict=True)) for leak in leaks],
        shards=len(file.files) if file.files != [file.path] else 0, compressed=file.codec != "raw",
        codec=file.codec, task=header.task, codec_bytes=sizes_by_codec(file), originals=describe_originals(file),
        bytes=file.count_stored_bytes(), source=header.source, created_by=header.created_by, digest=file.digest,
        verified=verified,
    )  # fmt: skip


def describe_split(split: Split, names: Sequence[str]) -> SplitInfo:
    if split.header.task == "sets":
        return describe_sets(split, names)
    if split.header.task == "numbers":
        return describe_numbers(split)
    counts = np.zeros(max(len(names), 1), np.int64)
    for labels in split.label_slices():
        counts += np.bincount(labels + 1, minlength=len(counts) + 1)[1:]  # label -1 means no class
    return SplitInfo(split.rows, int(counts.sum()), *describe_counts(counts), describe_skew(split.name, counts, names))


def describe_counts(counts: np.ndarray[Any, Any]) -> tuple[int, int, int]:
    """How many classes have images, and the images of the smallest and the largest of them."""
    present = counts[counts > 0]
    return len(present), int(present.min(initial=counts.max())), int(counts.max())


def describe_sets(split: Split, names: Sequence[str]) -> SplitInfo:
    """An image counts for each of its classes."""
    counts, sizes = np.zeros(max(split.classes, 1), np.int64), [np.empty(0, np.int64)]
    for start in range(0, split.rows, COUNTED):
        rows = np.arange(start, min(start + COUNTED, split.rows))
        sets = split.label_sets(rows[split.labels(rows) != -1])
        counts[: split.classes] += sets.sum(0, dtype=np.int64)
        sizes.append(sets.sum(1, dtype=np.int64))
    known = np.concatenate(sizes)
    most, empty = int(known.max(initial=0)), int((known == 0).sum())
    about = SetsInfo(int(known.min(initial=most)), float(known.mean()) if len(known) else 0.0, most, empty)
    return SplitInfo(
        split.rows, len(known), *describe_counts(counts), describe_skew(split.name, counts, names), sets=about
    )


def describe_numbers(split: Split) -> SplitInfo:
    values = split.targets()
    values = values[~np.isnan(values)]
    if not len(values):
        return SplitInfo(split.rows, 0, 0, 0, 0)
    about = NumbersInfo(*(float(each) for each in (values.min(), values.mean(), values.std(), values.max())))
    return SplitInfo(split.rows, len(values), 0, 0, 0, numbers=about)


def name_in_split(split: str, name: str) -> str:
    """The name of an image, prefixed by its split unless it already is."""
    return name if name.startswith(f"{split}/") else f"{split}/{name}"


def verify_patch_file(file: PatchFile, reporter: Reporter) -> None:
    """Compares every image with its digest, and the digests of all images with that of the file."""
    if file.compute_digest() != file.digest:
        raise DataError(
            f"{file.path}: damaged: labels, names or digests have changed; create it again with vitctl patchify"
        )
    damaged: list[str] = []
    with reporter.progress("verify", sum(split.rows for split in file.splits.values())) as bar:
        for split in file.splits.values():
            for start in range(0, split.rows, VERIFIED):
                rows = np.arange(start, min(start + VERIFIED, split.rows))
                damaged += [name_in_split(split.name, name) for name in find_damaged_rows(split, rows)]
                bar.advance(len(rows))
    if damaged:
        names = ", ".join(damaged[:3]) + (", ..." if len(damaged) > 3 else "")
        images = f"{format_count(len(damaged), 'image')} damaged ({names})"
        raise DataError(f"{file.path}: {images}; create it again with vitctl patchify")


def find_damaged_rows(split: Split, rows: np.ndarray[Any, Any]) -> list[str]:
    try:
        stored = [np.array(each) for each in split.read_jpegs(rows)] if split.encoded else split.patches(rows)
    except DataError:  # a compressed chunk that cannot be unpacked: try the images one by one
        return (
            split.names(rows)
            if len(rows) == 1
            else [each for row in rows for each in find_damaged_rows(split, row[None])]
        )
    with ThreadPoolExecutor(2) as pool:
        digests = list(pool.map(image_digest, stored))
    wrong = [row for row, new, old in zip(rows, digests, split.digests(rows), strict=True) if new != old.tobytes()]
    return split.names(np.array(wrong, np.int64))
