"""`vitctl patchify`: images in, one HDF5 file of patches out."""

import dataclasses
import functools
import operator
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vitctl.config.patchify import SPLITS, PatchifyConfig
from vitctl.config.res import Res
from vitctl.data.patchifier.build import build_patch_file
from vitctl.data.patchifier.duplicates import find_copies, find_relabeled
from vitctl.data.patchifier.finish import options_digest
from vitctl.data.patchifier.workspace import Build, Existing
from vitctl.data.sources import Hints, open_source
from vitctl.data.sources.contract import Source
from vitctl.errors import DataError, Interrupted, OutputExists, Terminated
from vitctl.io.atomic import atomic_write
from vitctl.io.outputs import check_replaceable
from vitctl.io.patch_file import PatchFile
from vitctl.io.patch_format import PATCHES, Header, Notes
from vitctl.io.patch_writer import write_index
from vitctl.reporting import Reporter, SilentReporter, format_count
from vitctl.workflows.info import PatchFileInfo, describe_patch_file, name_in_split

SHOWN = 3  # rejects in a warning


@dataclass(frozen=True)
class PatchifyResult:
    out: str
    data: PatchFileInfo
    elapsed_s: float
    images_per_s: float


def patchify(
    config: PatchifyConfig, reporter: Reporter | None = None, *, resume: bool = False, overwrite: bool = False
) -> PatchifyResult:
    reporter = reporter or SilentReporter()
    existing: Existing = "overwrite" if overwrite else "resume" if resume else "refuse"
    started = time.perf_counter()
    try:
        path = make(config, reporter, existing)
    except KeyboardInterrupt as error:
        code = 143 if isinstance(error, Terminated) else 130
        raise Interrupted("stopped; finished images are saved", code) from error
    elapsed = time.perf_counter() - started
    file = PatchFile(path)
    info = describe_patch_file(file)
    report_findings(info, reporter)
    if info.duplicates and info.task == "classes":
        report_relabeled(file, reporter)
    count = sum(split.pictures for split in info.splits.values())
    return PatchifyResult(str(path), info, elapsed, count / elapsed)


def make(config: PatchifyConfig, reporter: Reporter, existing: Existing) -> Path:
    """Makes the file, all shards of it, or the one shard that the config names, and returns its path."""
    out = Path(config.out)
    paths = [shard_path(out, shard, config.shards or 0) for shard in range(config.shards or 0)]
    for path in (out, *paths):
        check_replaceable(path, PATCHES.name)
    if config.shard == "index":
        return make_index(config, reporter, existing)
    source = open_source(config.source, config.kind, Hints.of(config))
    config = with_defaults(config, source, reporter)
    if config.shard is not None:
        shard = int(config.shard)
        return make_one(Build(source, config, paths[shard], shard, existing), reporter)
    build = Build(source, config, out, existing=existing)
    return make_shards(build, paths, reporter) if paths else make_one(build, reporter)


def make_shards(build: Build, paths: list[Path], reporter: Reporter) -> Path:
    """All shards, from one scan of the source, and the index at `build.out`."""
    out, shared = build.out, build.out.with_name(f".{build.out.name}.shared")
    if build.existing == "overwrite":
        for path in (out, *paths):
            path.unlink(missing_ok=True)  # if this run is stopped, --resume must not take old shards for new ones
        shutil.rmtree(shared, ignore_errors=True)
    elif out.exists() and build.existing != "resume":
        raise OutputExists(f"{out}: exists already; --overwrite replaces it")
    for shard, path in enumerate(paths):
        make_one(dataclasses.replace(build, out=path, shard=shard, shared=shared), reporter)
    shutil.rmtree(shared, ignore_errors=True)
    return make_index(build.config, reporter, build.existing)


def make_one(build: Build, reporter: Reporter) -> Path:
    if is_finished(build):
        reporter.note(f"{build.out} is finished already")
        return build.out
    plan = build_patch_file(build, reporter)
    if not (build.shared and build.shard):  # the plans of all shards hold the same notes
        for note in plan.notes:
            reporter.note(note)
        for warning in plan.warnings:
            reporter.warn(warning)
    return build.out


def is_finished(build: Build) -> bool:
    """Whether --resume has nothing to do, because the file exists and these options made it."""
    if build.existing != "resume" or not build.out.exists() or build.space.folder.exists():
        return False
    if PatchFile(build.out).header.options != options_digest(build.config):
        raise OutputExists(f"{build.out}: exists already, made with other options; --overwrite replaces it")
    return True


def with_defaults(config: PatchifyConfig, source: Source, reporter: Reporter) -> PatchifyConfig:
    """The defaults for digits. They are reported, because they decide what is in the file."""
    if source.kind == "digits" and not config.split:
        reporter.note("digits has no splits: a stratified fifth becomes val (--split val=0.2)")
        config = dataclasses.replace(config, split=("val=0.2",))
    if source.kind == "digits" and config.res is None:
        config = dataclasses.replace(config, res=Res(32), patch=config.patch or 4)
    return config


def shard_path(out: Path, shard: int, shards: int) -> Path:
    return out.with_name(f"{out.stem}-{shard:05d}-of-{shards:05d}{out.suffix}")


def make_index(config: PatchifyConfig, reporter: Reporter, existing: Existing) -> Path:
    """The index over the shards, all of which must exist."""
    out, count = Path(config.out), config.shards or 0
    if out.exists() and existing == "refuse":
        raise OutputExists(f"{out}: exists already; --overwrite replaces the index")
    paths = [shard_path(out, shard, count) for shard in range(count)]
    missing = [path.name for path in paths if not path.exists()]
    if missing:
        raise DataError(
            f"{out}: {len(missing)} of {count} shards are missing, {missing[0]} first; "
            "make it with --shard, then write the index"
        )
    shards = [PatchFile(path) for path in paths]
    check_alike(shards)
    with atomic_write(out) as aside:
        write_index(aside, paths, *join_shards(shards))
    reporter.note(f"index over {count} shards: {out}")
    return out


def check_alike(shards: list[PatchFile]) -> None:
    first = shards[0]
    for shard in shards[1:]:
        for name in ("geometry", "class_names", "fit", "plan"):
            if getattr(shard.header, name) != getattr(first.header, name):
                raise DataError(
                    f"{shard.path}: its {name} differs from that of {first.path}; "
                    "make all shards from the same source with the same options"
                )


def join_shards(shards: list[PatchFile]) -> tuple[Header, Notes]:
    """The header and notes of the index. Copies are searched across all shards."""
    digests: dict[str, np.ndarray[Any, np.dtype[np.uint8]]] = {
        name: np.concatenate([shard.splits[name].digests() for shard in shards if name in shard.splits])
        for name in SPLITS
        if any(name in shard.splits for shard in shards)
    }
    copies = find_copies(digests)
    header = dataclasses.replace(
        shards[0].header,
        sampled=functools.reduce(operator.add, (shard.header.sampled for shard in shards)),
        duplicates=copies.duplicates,
        leaked=copies.leaked,
    )
    leaks = [
        (one, row_name(shards, one, row), other, row_name(shards, other, copy))
        for one, row, other, copy in copies.pairs
    ]
    return header, Notes([reject for shard in shards for reject in shard.rejects()], leaks)


def row_name(shards: list[PatchFile], split: str, row: int) -> str:
    for shard in shards:
        rows = shard.splits[split].rows if split in shard.splits else 0
        if row < rows:
            return shard.splits[split].names(np.array([row]))[0]
        row -= rows
    raise IndexError(row)


def report_findings(info: PatchFileInfo, reporter: Reporter) -> None:
    """Warns about what matters before training: rejects, leaks and copies."""
    if info.rejects:
        examples = "; ".join(f"{reject['name']}: {reject['reason']}" for reject in info.rejected[:SHOWN])
        more = f"; and {info.rejects - SHOWN} more (vitctl info --rejects lists them)" if info.rejects > SHOWN else ""
        reporter.warn(f"{info.rejects:,} rejected: {examples}{more}")
    if info.leaked:
        pair = info.leaks[0]
        first = name_in_split(pair["split"], pair["name"])
        copy = name_in_split(pair["other_split"], pair["other_name"])
        more = " (vitctl info --rejects lists them)" if info.leaked > 1 else ""
        verb = "appears" if info.leaked == 1 else "appear"
        reporter.warn(f"{format_count(info.leaked, 'image')} {verb} in two splits: {first} is {copy}{more}")
    if info.duplicates:
        reporter.warn(f"exact copies within a split: {format_count(info.duplicates, 'image')}")


def report_relabeled(file: PatchFile, reporter: Reporter) -> None:
    """Warns about equal images of several classes: a model cannot learn both."""
    for split in file.splits.values():
        pairs = find_relabeled(split.digests(), split.labels())
        if not len(pairs):
            continue
        copy, first = (name_in_split(split.name, name) for name in split.names(pairs[0]))
        images = format_count(len(pairs), "image")
        reporter.warn(
            f"{images} of {split.name} equal one of another class: {copy} is {first}; --merge-copies makes equal files "
            "one image with several labels"
        )
