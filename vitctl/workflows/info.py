"""`vitctl info`: what an artifact of ours holds, and whether it is still what it was."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vitctl.errors import DataError
from vitctl.io import run_directory
from vitctl.io.feature_file import FEATURES, FeatureFile
from vitctl.io.files import check_regular_file
from vitctl.io.hdf5 import format_of, is_hdf5
from vitctl.io.patch_file import PatchFile, Split
from vitctl.io.patch_format import image_digest
from vitctl.reporting import Reporter, SilentReporter, format_count

LISTED = 1000  # rejects in a result; the file has them all
VERIFIED = 64  # images checked at once


@dataclass(frozen=True)
class SplitInfo:
    pictures: int
    labelled: int
    classes: int  # that occur
    smallest_class: int
    largest_class: int


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
    patches: int  # N, of an image
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
    bytes: int
    source: str
    created_by: str
    digest: str
    verified: bool | None = None  # None: not asked for


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
    ours: bool  # a file of vitctl
    format: str  # of the file that the numbers first came from
    model: str
    spec: dict[str, Any]
    grid: list[int]
    tokens: int
    parameters: int
    dtypes: list[str]
    classes: int
    class_names: list[str]
    mean: list[float]
    std: list[float]
    source: str
    history: list[dict[str, Any]]
    training: dict[str, Any]
    apart: list[str]  # tensors that are not of the classifier
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
    splits: dict[str, list[int]]  # the shape of its features
    classes: int
    class_names: list[str]
    bytes: int
    created_by: str
    verified: bool | None = None


Info = PatchFileInfo | RunInfo | WeightsInfo | FeatureFileInfo


def describe(path: str | Path, reporter: Reporter | None = None, *, verify: bool = False) -> Info:
    """Looks at `path` and says what it is."""
    text, path = str(path), Path(path)
    check_regular_file(path)
    if path.is_dir() and run_directory.is_run(path):
        return describe_run(path)
    if path.is_dir() or not (is_named_patches(path) or (path.is_file() and is_hdf5(path))):
        return describe_weights(text)
    if format_of(path) == FEATURES.name:
        return describe_features(FeatureFile(path), verify)
    file = PatchFile(path)
    if verify:
        verify_patch_file(file, reporter or SilentReporter())
    return describe_patch_file(file, verified=True if verify else None)


def describe_run(path: Path) -> RunInfo:
    run = run_directory.open_run(path)
    return RunInfo(
        str(path),
        "run",
        run.config["command"],
        run.config["version"],
        run.result is not None,
        run.config["config"],
        run.result,
        describe_weights(str(run.path)) if (run.path / "weights.safetensors").exists() else None,
    )


def is_named_patches(path: Path) -> bool:
    """A damaged patch file is still to be told as one."""
    return path.suffix in (".h5", ".hdf5")


def describe_weights(reference: str) -> WeightsInfo:
    from vitctl.workflows.inputs.weights import load_weights

    weights = load_weights(reference)
    spec, about = weights.spec, weights.about
    return WeightsInfo(
        path=reference,
        kind="weights",
        ours=bool(weights.stated),
        format=about.format,
        model=spec.name,
        spec=spec.as_dict(),
        grid=list(spec.grid),
        tokens=spec.tokens,
        parameters=weights.parameters,
        dtypes=sorted({str(tensor.dtype).removeprefix("torch.") for tensor in weights.tensors.values()}),
        classes=spec.classes,
        class_names=list(about.class_names),
        mean=list(about.mean),
        std=list(about.std),
        source=about.source,
        history=list(about.history),
        training=about.training,
        apart=sorted(weights.extra),
        notes=list(weights.remarks),
        bytes=sum(tensor.nbytes for tensor in (*weights.tensors.values(), *weights.extra.values())),
        digest=weights.stated or weights.digest(),
    )


def describe_features(file: FeatureFile, verify: bool) -> FeatureFileInfo:
    origin = file.origin
    if verify:
        check_finite_features(file)
    return FeatureFileInfo(
        path=str(file.path),
        kind="features",
        model=origin.model,
        weights_digest=origin.weights_digest,
        data_digest=origin.data_digest,
        res=[origin.height, origin.width],
        layers=origin.layers,
        pool=origin.pool,
        dtype=origin.dtype,
        precision=origin.precision,
        splits={name: list(shape) for name, shape in file.splits.items()},
        classes=len(origin.class_names),
        class_names=list(origin.class_names),
        bytes=file.path.stat().st_size,
        created_by=file.created_by,
        verified=True if verify else None,
    )


def check_finite_features(file: FeatureFile) -> None:
    for name in file.splits:
        rows = np.flatnonzero(~np.isfinite(file.features(name)).reshape(len(file.labels(name)), -1).all(1))
        if len(rows):
            raise DataError(
                f"{file.path}: {format_count(len(rows), 'image')} of {name} with features that are not finite"
            )


def describe_patch_file(file: PatchFile, verified: bool | None = None) -> PatchFileInfo:
    header, shape = file.header, file.geometry
    rejects, leaks = file.rejects(LISTED), file.leaks()
    return PatchFileInfo(
        path=str(file.path),
        kind="patches",
        splits={name: describe_split(split, len(header.class_names)) for name, split in file.splits.items()},
        classes=len(header.class_names),
        class_names=list(header.class_names),
        height=shape.height,
        width=shape.width,
        channels=shape.channels,
        patch=shape.patch,
        patches=shape.count,
        fit=header.fit,
        mean=list(header.mean),
        std=list(header.std),
        rejects=file.reject_count,
        rejected=[{"name": name, "reason": reason} for name, reason in rejects],
        duplicates=header.duplicates,
        leaked=header.leaked,
        leaks=[dict(zip(("split", "name", "other_split", "other_name"), leak, strict=True)) for leak in leaks],
        shards=len(file.files) if file.files != [file.path] else 0,
        compressed=file.compressed,
        bytes=file.count_stored_bytes(),
        source=header.source,
        created_by=header.created_by,
        digest=file.digest,
        verified=verified,
    )


def describe_split(split: Split, classes: int) -> SplitInfo:
    counts = np.zeros(max(classes, 1), np.int64)
    for labels in split.label_slices():
        counts += np.bincount(labels + 1, minlength=len(counts) + 1)[1:]  # -1 is no class
    present = counts[counts > 0]
    return SplitInfo(
        split.rows,
        int(counts.sum()),
        len(present),
        int(present.min(initial=split.rows)) if len(present) else 0,
        int(counts.max()),
    )


def name_in_split(split: str, name: str) -> str:
    """An image's name, with its split in front where the name does not say it."""
    return name if name.startswith(f"{split}/") else f"{split}/{name}"


def verify_patch_file(file: PatchFile, reporter: Reporter) -> None:
    """Reads every image again and compares it with its digest, and these with the file's."""
    if file.compute_digest() != file.digest:
        raise DataError(
            f"{file.path}: labels, names or digests have changed since they were written; run vitctl patchify again"
        )
    damaged: list[str] = []
    with reporter.progress("verify", sum(split.rows for split in file.splits.values())) as bar:
        for split in file.splits.values():
            for start in range(0, split.rows, VERIFIED):
                rows = np.arange(start, min(start + VERIFIED, split.rows))
                damaged += [name_in_split(split.name, name) for name in find_damaged_rows(split, rows)]
                bar.advance(len(rows))
    if damaged:
        shown = ", ".join(damaged[:3]) + (", ..." if len(damaged) > 3 else "")
        raise DataError(
            f"{file.path}: {format_count(len(damaged), 'image')} damaged ({shown}); run vitctl patchify again"
        )


def find_damaged_rows(split: Split, rows: np.ndarray[Any, Any]) -> list[str]:
    try:
        patches = split.patches(rows)
    except DataError:  # a compressed chunk that cannot be unpacked: which?
        return (
            split.names(rows)
            if len(rows) == 1
            else [name for row in rows for name in find_damaged_rows(split, row[None])]
        )
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(image_digest, patches))
    wrong = [row for row, one, other in zip(rows, found, split.digests(rows), strict=True) if one != other.tobytes()]
    return split.names(np.array(wrong, np.int64))
