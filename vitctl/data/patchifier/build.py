"""The patchifier: workers decode images straight into their rows of the file, and a killed build can be resumed.

All work happens in the folder `.OUT.building/`. `OUT` itself appears by a rename when the file is complete:

    plan/       which image goes to which row (plan.py); complete once plan/plan.json exists
    scan/       the list of the source's images, while the plan is made
    spool/      copies of what cannot be read in place, such as the content of a .tar.gz
    rows        the future file: rows lie where HDF5 will look for them, everything else is a hole
    blocks/     with --compress, instead of `rows`: one file of compressed rows per block
    digests     16 bytes per row
    journal     one line per finished block, written after its rows are on disk
    filled      exists once the gaps that rejected images left are filled
    skeleton.h5 what HDF5 writes around the rows, before it is copied into `rows`

The bytes of the file depend on the source and the config alone, so any process may write any block at any time.
"""

import os
import shutil
import time
from typing import Any

from vitctl.config.patchify import PatchifyConfig
from vitctl.data.patchifier.finish import finish
from vitctl.data.patchifier.plan import RowPlan, make_plan
from vitctl.data.patchifier.pool import run_blocks, workers_for
from vitctl.data.patchifier.worker import RowLayout
from vitctl.data.patchifier.workspace import Build, Journal
from vitctl.data.sources.files import files_in, hash_values
from vitctl.data.sources.names import printable
from vitctl.errors import DataError, InputError, NoSpace, UsageError, is_no_space
from vitctl.io.atomic import flush_folder
from vitctl.io.patch_format import DIGEST
from vitctl.io.patch_writer import filter_options, row_extents
from vitctl.reporting import Reporter, format_size

SIZE = 8  # bytes of a height and a width
BLOCK_BYTES = 8 << 20  # of rows in a block
SYNC_SECONDS = 2.0  # between two writes of the journal


def build_patch_file(build: Build, reporter: Reporter) -> RowPlan:
    """Writes `build.out`. The plan that it returns holds the notes and warnings to show."""
    space, config = build.space, build.config
    if config.wanted_codec not in ("auto", "raw", "jpeg"):
        filter_options(config.wanted_codec, config.level)  # reports a codec that is not installed before the long scan
    with space.hold(reporter):
        space.begin(build_inputs(build), build.existing)
        try:
            plan = RowPlan.load(space.plan) if space.is_placed() else write_file(build, reporter)
            space.discard()
        except OSError as error:
            if is_no_space(error):
                raise NoSpace(f"{build.out}: its disk is full; free some space, then add --resume") from error
            raise
        except (InputError, UsageError):
            if not space.journal.exists():
                shutil.rmtree(space.folder, ignore_errors=True)  # nothing was decoded: there is nothing to resume
            raise
    return plan


def build_inputs(build: Build) -> dict[str, Any]:
    """The inputs that must be the same to resume a build: the options, and the current files of the source."""
    source = build.config.source
    files = sorted((file.path, file.size, file.modified) for file in files_in(build.source))
    where = os.path.abspath(source) if os.path.exists(source) else source
    return {**build.config.content(), "place": printable(where), "files": hash_values(files) if files else ""}


def write_file(build: Build, reporter: Reporter) -> RowPlan:
    plan = load_or_make_plan(build, reporter)
    layout = prepare_layout(build, plan)
    journal = Journal(build.space.journal)
    if not build.space.filled.exists():
        decode_blocks(build, layout, journal, reporter)
    finish(build, layout, journal)
    return plan


def load_or_make_plan(build: Build, reporter: Reporter) -> RowPlan:
    spool = build.scratch / "spool"
    spool.mkdir(parents=True, exist_ok=True)
    build.source.prepare(spool, reporter)
    folder = build.space.plan
    if (folder / "plan.json").exists():
        return RowPlan.load(folder)
    shutil.rmtree(folder, ignore_errors=True)
    return make_plan(build, reporter)


def prepare_layout(build: Build, plan: RowPlan) -> RowLayout:
    """Where the rows go; creates the files that workers write into, at their full length."""
    space = build.space
    extents = row_extents(space.folder, plan.geometry, plan.splits)
    layout = RowLayout(plan, extents, min(max(BLOCK_BYTES // plan.geometry.row, 16), 256))
    lengths = {space.digests: plan.total * DIGEST, space.sizes: plan.total * SIZE}
    if plan.codec != "raw":
        space.blocks.mkdir(exist_ok=True)
    else:
        lengths[space.rows] = layout.end
    for path, length in lengths.items():
        if not path.exists():
            if space.journal.exists():
                raise DataError(f"{space.folder}: {path.name} is missing; start over with --overwrite")
            free = shutil.disk_usage(space.folder).free
            if length > free:
                raise NoSpace(
                    f"{build.out}: needs {format_size(length)}, but its disk has {format_size(free)} free; choose "
                    "another disk for OUT, --codec jpeg, a smaller --res or --limit"
                )
        with open(path, "ab") as file:
            file.truncate(max(length, file.tell()))
    flush_folder(space.folder)
    return layout


def decode_blocks(build: Build, layout: RowLayout, journal: Journal, reporter: Reporter) -> None:
    plan, space, config = layout.plan, build.space, build.config
    todo = [number for number in range(layout.blocks) if number not in journal.done]
    done = plan.total - sum(len(layout.rows(number)) for number in todo)
    rejected = len(plan.refused) + len(journal.rejects())
    stop_at_reject(plan, journal.rejects(), config)
    workers = workers_for(config, len(todo))
    if workers == 1:
        import vitctl.data.patchifier.decode  # noqa: F401 - torch takes seconds to import: before the bar's clock starts
    results = run_blocks(build, layout, todo, workers, late=journal.add)
    written = time.monotonic()
    try:
        with reporter.progress("patchify", plan.total, "img", done) as bar:
            for result in results:
                journal.add(result)
                rejected += len(result.rejects)
                stop_at_reject(plan, result.rejects, config)
                bar.advance(len(layout.rows(result.number)), rejects=rejected)
                if time.monotonic() - written > SYNC_SECONDS:
                    journal.write(space.rows, space.digests, space.sizes)
                    written = time.monotonic()
    finally:
        results.close()
        journal.write(space.rows, space.digests, space.sizes)


def stop_at_reject(plan: RowPlan, rejects: list[tuple[int, str]], config: PatchifyConfig) -> None:
    if config.on_error == "fail" and (plan.refused or rejects):
        name, reason = plan.refused[0] if plan.refused else (plan.column("name")[rejects[0][0]].decode(), rejects[0][1])
        raise DataError(f"{name}: {reason}; --on-error skip skips such images and lists them")
