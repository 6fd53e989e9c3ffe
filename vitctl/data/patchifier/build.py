"""The patchifier: rows are decoded by workers straight into their place, and nothing is lost by a kill.

Everything happens in `.OUT.building/`, and `OUT` appears when it is whole:

    plan/       which image goes to which row (plan.py), and plan/plan.json when it is complete
    scan/       what the source has, while the plan is made
    spool/      what the source could not read in place (a .tar.gz unpacked, say)
    rows        the future file: rows lie where HDF5 will look for them, everything else is a hole
    blocks/     instead of rows, when compressing: one file of compressed rows a block
    digests     16 bytes a row
    journal     one line per finished block, written after its rows are on the disk
    filled      the holes that rejected images left are filled
    skeleton.h5 what HDF5 writes around the rows, to be laid over `rows`

Which bytes come out depends on the source and the config alone, so it does not matter who wrote which block, or when.
"""

import os
import shutil
import time
from pathlib import Path
from typing import Any

from vitctl.config.patchify import PatchifyConfig
from vitctl.data.patchifier.finish import finish
from vitctl.data.patchifier.plan import RowPlan, make_plan
from vitctl.data.patchifier.pool import run_blocks, workers_for
from vitctl.data.patchifier.worker import Recipe, RowLayout
from vitctl.data.patchifier.workspace import Journal, Workspace
from vitctl.data.sources.contract import Source
from vitctl.data.sources.files import files_in, hash_values
from vitctl.data.sources.names import printable
from vitctl.errors import DataError, InputError, NoSpace, UsageError, is_no_space
from vitctl.io.atomic import flush_folder
from vitctl.io.patch_format import DIGEST
from vitctl.io.patch_writer import filter_options, row_extents
from vitctl.reporting import Reporter, format_size

BLOCK_BYTES = 8 << 20  # of rows in a block
SYNC_SECONDS = 2.0  # between two writings of the journal


def build_patch_file(
    source: Source,
    config: PatchifyConfig,
    out: Path,
    shard: int,
    reporter: Reporter,
    resume: bool,
    overwrite: bool,
    shared: Path | None = None,
) -> RowPlan:
    """Makes `out` from the source; what the file cannot say (notes, warnings) is in the plan that comes back.

    `shared` is a folder where several shards that one process makes keep what they have in common.
    """
    space = Workspace(out)
    if config.compress:
        filter_options(config.codec, config.level)  # a codec that is not installed is told now, not after the scan
    with space.hold(reporter):
        space.begin(build_inputs(source, config), resume, overwrite)
        try:
            if space.is_placed():
                plan = RowPlan.load(space.plan)
            else:
                plan = make_file(source, config, space, shard, reporter, shared or space.folder)
            space.discard()
        except OSError as error:
            if is_no_space(error):
                raise NoSpace(f"{out}: no room left on its disk; free some and go on with --resume") from error
            raise
        except (InputError, UsageError):
            if not space.journal.exists():
                shutil.rmtree(space.folder, ignore_errors=True)  # nothing was decoded: leave nothing in the way
            raise
    return plan


def build_inputs(source: Source, config: PatchifyConfig) -> dict[str, Any]:
    """What must be the same for a build to go on: the options, and the source as it is now."""
    looked_at = sorted((file.path, file.size, file.modified) for file in files_in(source))
    where = os.path.abspath(config.source) if os.path.exists(config.source) else config.source
    return {**config.content(), "place": printable(where), "files": hash_values(looked_at) if looked_at else ""}


def make_file(
    source: Source, config: PatchifyConfig, space: Workspace, shard: int, reporter: Reporter, shared: Path
) -> RowPlan:
    plan = load_or_make_plan(source, config, space, shard, reporter, shared)
    layout = prepare_layout(plan, config, space)
    journal = Journal(space.journal)
    if not space.filled.exists():
        decode_blocks((source, plan, layout, space, config), journal, reporter)
    finish(plan, layout, space, journal, config)
    return plan


def load_or_make_plan(
    source: Source, config: PatchifyConfig, space: Workspace, shard: int, reporter: Reporter, shared: Path
) -> RowPlan:
    spool = shared / "spool"
    spool.mkdir(parents=True, exist_ok=True)
    source.prepare(spool, reporter)
    if (space.plan / "plan.json").exists():
        return RowPlan.load(space.plan)
    shutil.rmtree(space.plan, ignore_errors=True)
    return make_plan(source, config, space.plan, shard, reporter, shared / "scan")


def prepare_layout(plan: RowPlan, config: PatchifyConfig, space: Workspace) -> RowLayout:
    extents = row_extents(space.folder, plan.geometry, plan.splits)
    layout = RowLayout(plan.geometry, plan.splits, extents, min(max(BLOCK_BYTES // plan.geometry.row, 16), 256))
    lengths = {space.digests: layout.total * DIGEST}
    if config.compress:
        space.blocks.mkdir(exist_ok=True)
    else:
        lengths[space.rows] = layout.end
    for path, length in lengths.items():
        if not path.exists():
            if space.journal.exists():
                raise DataError(f"{space.folder}: {path.name} is gone; start over with --overwrite")
            check_disk_space(space, length)
        with open(path, "ab") as file:
            file.truncate(max(length, file.tell()))
    flush_folder(space.folder)
    return layout


def check_disk_space(space: Workspace, needed: int) -> None:
    free = shutil.disk_usage(space.folder).free
    if needed > free:
        raise NoSpace(
            f"{space.out}: needs {format_size(needed)}, its disk has {format_size(free)} free; a smaller --res, "
            "--limit, --compress or another place for OUT would do"
        )


def decode_blocks(recipe: Recipe, journal: Journal, reporter: Reporter) -> None:
    _, plan, layout, space, config = recipe
    todo = [number for number in range(layout.blocks) if number not in journal.done]
    done = layout.total - sum(len(layout.rows(number)) for number in todo)
    rejected = len(plan.refused) + len(journal.rejects())
    stop_at_reject(plan, journal.rejects(), config)
    workers = workers_for(config, len(todo))
    if workers == 1:
        import vitctl.data.patchifier.decode  # noqa: F401 - torch takes seconds to import: before the bar's clock starts
    results = run_blocks(recipe, todo, workers, late=journal.add)
    written = time.monotonic()
    try:
        with reporter.progress("patchify", layout.total, "img", done) as bar:
            for result in results:
                journal.add(result)
                rejected += len(result.rejects)
                stop_at_reject(plan, result.rejects, config)
                bar.advance(len(layout.rows(result.number)), rejects=rejected)
                if time.monotonic() - written > SYNC_SECONDS:
                    journal.write(space.rows, space.digests)
                    written = time.monotonic()
    finally:
        results.close()
        journal.write(space.rows, space.digests)


def stop_at_reject(plan: RowPlan, rejects: list[tuple[int, str]], config: PatchifyConfig) -> None:
    if config.on_error == "fail" and (plan.refused or rejects):
        name, reason = plan.refused[0] if plan.refused else (plan.column("name")[rejects[0][0]].decode(), rejects[0][1])
        raise DataError(f"{name}: {reason}; --on-error skip leaves such images out and lists them")
