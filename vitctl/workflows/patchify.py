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
from vitctl.data.patchifier.duplicates import find_copies
from vitctl.data.patchifier.finish import options_digest
from vitctl.data.patchifier.workspace import Workspace
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

SHOWN = 3  # rejects and leaks that are told by name


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
    started = time.perf_counter()
    try:
        made = make(config, reporter, resume, overwrite)
    except KeyboardInterrupt as error:
        code = 143 if isinstance(error, Terminated) else 130
        raise Interrupted("stopped; what is done is kept", code) from error
    elapsed = time.perf_counter() - started
    info = describe_patch_file(PatchFile(made))
    tell_findings(info, reporter)
    count = sum(split.pictures for split in info.splits.values())
    return PatchifyResult(str(made), info, elapsed, count / elapsed)


def make(config: PatchifyConfig, reporter: Reporter, resume: bool, overwrite: bool) -> Path:
    """The file that is whole now: the one asked for, or one shard of it."""
    out = Path(config.out)
    shards = config.shards or 0
    for path in (out, *(shard_path(out, shard, shards) for shard in range(shards))):
        check_replaceable(path, PATCHES.name)
    if config.shard == "index":
        return make_index(config, reporter, resume, overwrite)
    hints = Hints(config.root, config.path_column, config.label_column)
    source = open_source(config.source, config.kind, hints)
    config = with_defaults(config, source, reporter)
    if not config.shards:
        return make_one(source, config, out, 0, reporter, resume, overwrite)
    if config.shard is not None:
        path = shard_path(out, int(config.shard), config.shards)
        return make_one(source, config, path, int(config.shard), reporter, resume, overwrite)
    return make_shards(source, config, out, reporter, resume, overwrite)


def make_shards(
    source: Source, config: PatchifyConfig, out: Path, reporter: Reporter, resume: bool, overwrite: bool
) -> Path:
    """All shards here, from one scan of the source, and the index."""
    paths = [shard_path(out, shard, config.shards or 0) for shard in range(config.shards or 0)]
    shared = out.with_name(f".{out.name}.shared")
    if overwrite:
        for path in (out, *paths):
            path.unlink(missing_ok=True)  # or else what is left of them would pass for new after a stop
        shutil.rmtree(shared, ignore_errors=True)
    elif out.exists() and not resume:
        raise OutputExists(f"{out}: exists already; --overwrite makes it anew")
    for shard, path in enumerate(paths):
        make_one(source, config, path, shard, reporter, resume, overwrite, shared)
    shutil.rmtree(shared, ignore_errors=True)
    return make_index(config, reporter, resume, overwrite)


def make_one(
    source: Source,
    config: PatchifyConfig,
    out: Path,
    shard: int,
    reporter: Reporter,
    resume: bool,
    overwrite: bool,
    shared: Path | None = None,
) -> Path:
    if is_finished(out, config, resume, overwrite):
        reporter.note(f"{out} is finished already")
        return out
    plan = build_patch_file(source, config, out, shard, reporter, resume, overwrite, shared)
    if not (shared and shard):  # what is said of the whole source is said once
        for note in plan.notes:
            reporter.note(note)
        for warning in plan.warnings:
            reporter.warn(warning)
    return out


def is_finished(out: Path, config: PatchifyConfig, resume: bool, overwrite: bool) -> bool:
    """Whether --resume has nothing to do: the file is there, and these options made it."""
    if not resume or overwrite or not out.exists() or Workspace(out).folder.exists():
        return False
    if PatchFile(out).header.options != options_digest(config):
        raise OutputExists(f"{out}: exists already, made with other options; --overwrite makes it anew")
    return True


def with_defaults(config: PatchifyConfig, source: Source, reporter: Reporter) -> PatchifyConfig:
    """Defaults of a kind of source. They are printed, because they decide what is in the file."""
    if source.kind == "digits" and not config.split:
        reporter.note("digits has no splits: a stratified fifth becomes val (--split val=0.2)")
        config = dataclasses.replace(config, split=("val=0.2",))
    if source.kind == "digits" and config.res is None:
        config = dataclasses.replace(config, res=Res(32), patch=config.patch or 4)
    return config


def shard_path(out: Path, shard: int, shards: int) -> Path:
    return out.with_name(f"{out.stem}-{shard:05d}-of-{shards:05d}{out.suffix}")


def make_index(config: PatchifyConfig, reporter: Reporter, resume: bool, overwrite: bool) -> Path:
    """The index over the shards, once they are all there."""
    out, count = Path(config.out), config.shards or 0
    if out.exists() and not (overwrite or resume):
        raise OutputExists(f"{out}: exists already; --overwrite makes the index anew")
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
                    "make both from the same source with the same options"
                )


def join_shards(shards: list[PatchFile]) -> tuple[Header, Notes]:
    """The header and notes of all shards together; copies are looked for across them."""
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


def tell_findings(info: PatchFileInfo, reporter: Reporter) -> None:
    """What the user should know before training on it."""
    if info.rejects:
        shown = "; ".join(f"{reject['name']}: {reject['reason']}" for reject in info.rejected[:SHOWN])
        more = f"; and {info.rejects - SHOWN} more (vitctl info --rejects lists them)" if info.rejects > SHOWN else ""
        reporter.warn(f"{info.rejects:,} rejected: {shown}{more}")
    if info.leaked:
        pair = info.leaks[0]
        first = (
            f"{name_in_split(pair['split'], pair['name'])} is {name_in_split(pair['other_split'], pair['other_name'])}"
        )
        reporter.warn(
            f"{format_count(info.leaked, 'image')} of one split in another too: {first}"
            + (" (vitctl info --rejects lists them)" if info.leaked > 1 else "")
        )
    if info.duplicates:
        reporter.warn(f"exact copies inside a split: {format_count(info.duplicates, 'image')}")
