"""The patchifier: rows are decoded by workers straight into their place, and nothing is lost by a kill.

Everything happens in `OUT.building/`, and `OUT` appears when it is whole:

    plan/       which picture goes to which row (plan.py), and plan/plan.json when it is complete
    spool/      what the source could not read in place (a .tar.gz unpacked, say)
    rows        the future file: rows lie where HDF5 will look for them, everything else is a hole
    blocks/     instead of rows, when compressing: one file of compressed rows a block
    digests     16 bytes a row
    journal     one line per finished block, written after its rows are on the disk
    filled      the holes that rejected pictures left are filled
    skeleton.h5 what HDF5 writes around the rows, to be laid over `rows`

Which bytes come out depends on the source and the config alone, so it does not matter who wrote which block, or when.
"""

import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import wait as wait_for_handles
from pathlib import Path
from typing import Any

import numpy as np

from vitctl.config.patchify import PatchifyConfig
from vitctl.data.duplicates import Copies, find_copies
from vitctl.data.plan import Plan, make_plan
from vitctl.data.sources.contract import Source
from vitctl.errors import DataError, InputError, NoSpace, OutputExists, RunError, UsageError, is_no_space
from vitctl.io import patch_file
from vitctl.io.atomic import flush_file, flush_folder, write_bytes, write_json
from vitctl.io.patch_file import DIGEST, Extent, Geometry, Header, Notes, SplitContent
from vitctl.reporting import Reporter, size

BLOCK_BYTES = 8 << 20  # of rows in a block
SYNC_SECONDS = 2.0  # between two writings of the journal
SAMPLES = 1024  # pictures of train that mean and std are taken from
COPY = 1 << 20


@dataclass
class BlockResult:
    number: int
    rejects: list[tuple[int, str]] = field(default_factory=list)  # (row, reason)
    pixels: int = 0  # sampled for mean and std, and the exact sums over them
    sums: list[int] = field(default_factory=list)
    squares: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Layout:
    """Where the rows of a plan lie in the file, and how they are dealt out in blocks."""

    geometry: Geometry
    splits: dict[str, int]
    extents: dict[str, Extent]
    block: int  # rows

    @property
    def total(self) -> int:
        return sum(self.splits.values())

    @property
    def blocks(self) -> int:
        return -(-self.total // self.block)

    @property
    def end(self) -> int:
        return max(extent.offset + extent.size for extent in self.extents.values())

    def rows(self, number: int) -> range:
        return range(number * self.block, min((number + 1) * self.block, self.total))

    def offset(self, row: int) -> int:
        """Where planned row `row`, counted over all splits, lies in the file."""
        for split, count in self.splits.items():
            if row < count:
                return self.extents[split].offset + row * self.geometry.row
            row -= count
        raise IndexError(row)

    def begins(self) -> dict[str, int]:
        """The first planned row of each split."""
        counts = list(self.splits.values())
        return dict(zip(self.splits, np.cumsum([0, *counts[:-1]]).tolist(), strict=True))

    def sampled(self, row: int) -> bool:
        """Whether mean and std look at this row: up to SAMPLES of the first split, evenly."""
        first = next(iter(self.splits.values()))
        return row < first and row % -(-first // SAMPLES) == 0


class Workspace:
    """The folder OUT.building/ and what is in it."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.folder = out.with_name(out.name + ".building")
        self.discarded = out.with_name(out.name + ".done")
        self.plan, self.spool, self.blocks = (self.folder / name for name in ("plan", "spool", "blocks"))
        self.rows, self.digests, self.journal = (self.folder / name for name in ("rows", "digests", "journal"))
        self.filled, self.skeleton, self.config = (
            self.folder / name for name in ("filled", "skeleton.h5", "config.json")
        )

    def begin(self, config: PatchifyConfig, resume: bool, overwrite: bool) -> None:
        """Refuses to destroy, or to go on with something else than was begun."""
        if self.out.is_dir():
            raise OutputExists(f"{self.out}: is a folder; name a file")
        shutil.rmtree(self.discarded, ignore_errors=True)
        if overwrite:
            shutil.rmtree(self.folder, ignore_errors=True)
        elif self.folder.exists() and not resume:
            raise OutputExists(
                f"{self.folder}: an unfinished build is there; go on with --resume, or start over with --overwrite"
            )
        elif self.out.exists() and not self.folder.exists():
            raise OutputExists(f"{self.out}: exists already; --overwrite makes it anew")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"{self.folder}: cannot be made ({error.strerror}); choose another place for OUT"
            ) from error
        if self.config.exists():
            self.compare(json.loads(self.config.read_text()), config)
        else:
            write_json(self.config, config.content())

    def compare(self, before: dict[str, Any], config: PatchifyConfig) -> None:
        now = json.loads(json.dumps(config.content()))
        changed = [
            f"{name} was {before.get(name)!r} and is {now[name]!r}" for name in now if before.get(name) != now[name]
        ]
        if changed:
            raise UsageError(
                f"{self.folder}: cannot go on with other options: {'; '.join(changed)}; "
                "repeat the first ones, or start over with --overwrite"
            )

    def placed(self) -> bool:
        """Whether the rows have become `out`, and only this folder was left behind by a kill."""
        return self.skeleton.exists() and not self.rows.exists() and self.out.exists()

    def discard(self) -> None:
        """At one stroke: a half-removed folder must not look like a half-made build."""
        os.replace(self.folder, self.discarded)
        shutil.rmtree(self.discarded)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One build at a time; the lock dies with its holder."""
        with open(self.folder / "lock", "w") as handle:
            try:
                import fcntl

                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (
                ImportError
            ):  # no such lock on Windows: two builds of one file at a time are then the user's to avoid
                pass
            except OSError:
                raise OutputExists(f"{self.folder}: another process is building it now") from None
            yield


class Journal:
    """Which blocks are done. A line counts when it is whole: a kill while writing it costs one block."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done: dict[int, BlockResult] = {}
        self.waiting: list[BlockResult] = []
        if path.exists():
            *lines, torn = path.read_bytes().split(b"\n")
            if torn:
                os.truncate(path, path.stat().st_size - len(torn))  # a kill cut it short
            results = [BlockResult(**json.loads(line)) for line in lines]
            self.done = {result.number: result for result in results}

    def add(self, result: BlockResult) -> None:
        self.waiting.append(result)

    def write(self, *before: Path) -> None:
        """Flushes the files that the blocks went to, then says that the blocks are done."""
        if not self.waiting:
            return
        for path in before:
            if path.exists():
                flush_file(path)
        lines = b"".join(json.dumps(asdict(result)).encode() + b"\n" for result in self.waiting)
        with open(self.path, "ab") as file:
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())
        self.done |= {result.number: result for result in self.waiting}
        self.waiting = []

    def rejects(self) -> list[tuple[int, str]]:
        return sorted((row, reason) for result in self.done.values() for row, reason in result.rejects)


class Worker:
    """Decodes blocks of rows into their place; the same in this process and in others."""

    def __init__(self, source: Source, plan: Plan, layout: Layout, space: Workspace, config: PatchifyConfig) -> None:
        from vitctl.data.decode import Target  # torch comes with it: only who decodes pays for it

        shape = plan.geometry
        self.source, self.layout, self.space = source, layout, space
        self.target = Target(shape.height, shape.width, shape.channels, config.fit, config.draft, config.max_pixels)
        self.rows = self.digests = -1
        self.names = plan.column("name")
        self.where = [plan.column(name) for name in ("file", "offset", "size")]
        self.codec = patch_file.RowCodec(shape, config.codec, config.level) if config.compress else None
        if not self.codec:
            self.rows = os.open(space.rows, os.O_RDWR)
        self.digests = os.open(space.digests, os.O_RDWR)

    def block(self, number: int) -> BlockResult:
        result = BlockResult(number)
        rows = self.layout.rows(number)
        digests = np.zeros((len(rows), DIGEST), np.uint8)
        chunks: list[bytes] = []
        for row in rows:
            try:
                patches = self.read(row)
            except (DataError, OSError) as error:
                result.rejects.append(
                    (row, error.strerror if isinstance(error, OSError) and error.strerror else str(error))
                )
                chunks.append(b"")
                continue
            digests[row - rows.start] = np.frombuffer(patch_file.picture_digest(patches), np.uint8)
            if self.layout.sampled(row):
                self.measure(patches, result)
            if self.codec:
                chunks.append(self.codec.encode(patches))
            else:
                write_at(self.rows, patches, self.layout.offset(row))
        if self.codec:
            write_chunks(self.space.blocks / f"{number:08d}", chunks)
        write_at(self.digests, digests, rows.start * DIGEST)
        return result

    def read(self, row: int) -> np.ndarray[Any, Any]:
        """uint8 [N, P*P*C]"""
        from vitctl.data.decode import decode
        from vitctl.patches import patchify

        name = self.names[row].decode()
        file, offset, length = (int(column[row]) for column in self.where)
        picture = decode(self.source.read(name, file, offset, length), self.target)
        return patchify(picture, self.layout.geometry.patch)

    def measure(self, patches: np.ndarray[Any, Any], result: BlockResult) -> None:
        """Adds one picture [N, P*P*C] to the sums. Float32 is exact here: 256 squares of a byte stay under 2^24."""
        channels = self.layout.geometry.channels
        totals = np.zeros((2, channels), np.int64)
        for start in range(0, len(patches), 256):
            values = patches[start : start + 256].astype(np.float32)
            ones = np.ones(len(values), np.float32)
            for number, powers in enumerate((values, values * values)):
                totals[number] += (ones @ powers).astype(np.int64).reshape(-1, channels).sum(0)
        result.pixels += patches.size // channels
        result.sums, result.squares = (totals + [result.sums or [0], result.squares or [0]]).tolist()

    def __del__(self) -> None:
        for handle in (self.rows, self.digests):
            if handle >= 0:
                os.close(handle)


Recipe = tuple[Source, Plan, Layout, Workspace, PatchifyConfig]  # what a Worker is made of, in whatever process


def write_at(handle: int, values: np.ndarray[Any, Any], offset: int) -> None:
    view = np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
    while view:
        written = os.pwrite(handle, view, offset)
        view, offset = view[written:], offset + written


def write_chunks(path: Path, chunks: list[bytes]) -> None:
    sizes = np.array([len(chunks), *map(len, chunks)], np.int64)
    write_bytes(path, sizes.tobytes() + b"".join(chunks))


def read_chunks(path: Path) -> list[bytes]:
    content = path.read_bytes()
    count = int(np.frombuffer(content, np.int64, 1)[0])
    ends = np.cumsum(np.frombuffer(content, np.int64, count, 8)) + 8 * (count + 1)
    return [
        content[begin:end] for begin, end in zip([8 * (count + 1), *ends[:-1].tolist()], ends.tolist(), strict=True)
    ]


# ------------------------------------------------------------------------------------------------------- the build


def build(
    source: Source, config: PatchifyConfig, out: Path, shard: int, reporter: Reporter, resume: bool, overwrite: bool
) -> Plan:
    """Makes `out` from the source; what the file cannot say (notes, warnings) is in the plan that comes back."""
    space = Workspace(out)
    space.begin(config, resume, overwrite)
    try:
        with space.locked():
            if space.placed():
                plan = Plan.load(space.plan)
            else:
                plan = make_file(source, config, space, shard, reporter)
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


def make_file(source: Source, config: PatchifyConfig, space: Workspace, shard: int, reporter: Reporter) -> Plan:
    plan = planned(source, config, space, shard, reporter)
    layout = laid_out(plan, config, space)
    journal = Journal(space.journal)
    if not space.filled.exists():
        decode_blocks((source, plan, layout, space, config), journal, reporter)
    finish(plan, layout, space, journal, config)
    return plan


def planned(source: Source, config: PatchifyConfig, space: Workspace, shard: int, reporter: Reporter) -> Plan:
    space.spool.mkdir(exist_ok=True)
    source.prepare(space.spool, reporter)
    if (space.plan / "plan.json").exists():
        return Plan.load(space.plan)
    shutil.rmtree(space.plan, ignore_errors=True)
    return make_plan(source, config, space.plan, shard, reporter)


def laid_out(plan: Plan, config: PatchifyConfig, space: Workspace) -> Layout:
    extents = patch_file.row_extents(space.folder, plan.geometry, plan.splits)
    layout = Layout(plan.geometry, plan.splits, extents, min(max(BLOCK_BYTES // plan.geometry.row, 16), 256))
    if config.compress:
        space.blocks.mkdir(exist_ok=True)
    elif not space.rows.exists():
        check_room(space, layout.end)
    for path, length in (
        (space.digests, layout.total * DIGEST),
        *(() if config.compress else ((space.rows, layout.end),)),
    ):
        with open(path, "ab") as file:
            file.truncate(max(length, file.tell()))
    return layout


def check_room(space: Workspace, needed: int) -> None:
    free = shutil.disk_usage(space.folder).free
    if needed > free:
        raise NoSpace(
            f"{space.out}: needs {size(needed)}, its disk has {size(free)} free; a smaller --res, "
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
        import vitctl.data.decode  # noqa: F401 - torch takes seconds to import: before the clock of the bar starts
    results = run_blocks(recipe, todo, workers)
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


def stop_at_reject(plan: Plan, rejects: list[tuple[int, str]], config: PatchifyConfig) -> None:
    if config.on_error == "fail" and (plan.refused or rejects):
        name, reason = plan.refused[0] if plan.refused else (plan.column("name")[rejects[0][0]].decode(), rejects[0][1])
        raise DataError(f"{name}: {reason}; --on-error skip leaves such pictures out and lists them")


def workers_for(config: PatchifyConfig, blocks: int) -> int:
    """As many as asked for; else one a core, when there is enough to do to be worth starting them."""
    from vitctl.machine import cores

    return min(config.workers or (cores() if blocks >= 8 else 1), max(blocks, 1))


def run_blocks(recipe: Recipe, todo: list[int], workers: int) -> Generator[BlockResult, None, None]:
    """Results as they come: from this process, or from others that write the rows themselves."""
    if not todo:
        return
    if workers == 1:
        with one_thread():
            yield from map(Worker(*recipe).block, todo)
        return
    pool = ProcessPoolExecutor(workers, start_context(), become_worker, (recipe,))
    try:
        yield from in_flight(pool, todo, 2 * workers)
    except BrokenProcessPool as error:
        raise RunError(
            "a worker process died, perhaps for want of memory; go on with --resume and fewer --workers"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def one_thread() -> Iterator[None]:
    """One picture is too little work to share out among torch's threads."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def in_flight(pool: ProcessPoolExecutor, todo: list[int], most: int) -> Iterator[BlockResult]:
    waiting: set[Future[BlockResult]] = set()
    queue = iter(todo)
    while True:
        for number in queue:
            waiting.add(pool.submit(work, number))
            if len(waiting) >= most:
                break
        if not waiting:
            return
        ready, waiting = wait(waiting, return_when=FIRST_COMPLETED)
        for future in ready:
            yield future.result()


def start_context() -> Any:
    """Where there is one, a server that has imported everything forks the workers: quick, and safe with threads."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["vitctl.data.build", "vitctl.data.decode"])
    return context


_worker: Worker | None = None  # in a worker process: the one that its initializer made


def become_worker(recipe: Recipe) -> None:
    import torch

    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=die_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    _worker = Worker(*recipe)


def die_with_parent() -> None:
    """A parent that is killed cannot tell its workers; they watch the pipe that closes with it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for_handles([parent.sentinel])
        os._exit(1)


def work(number: int) -> BlockResult:
    assert _worker is not None
    return _worker.block(number)


# ------------------------------------------------------------------------------------------------------ the finish


def finish(plan: Plan, layout: Layout, space: Workspace, journal: Journal, config: PatchifyConfig) -> None:
    """Closes the gaps, writes what HDF5 needs around the rows, and puts the file into its place.

    Every step can be repeated after a kill: it reads only what no later step has changed.
    """
    rejects = journal.rejects()
    orders = final_orders(layout, [row for row, _ in rejects])
    if not any(len(order) for order in orders.values()):
        raise DataError(
            f"none of the {layout.total} pictures could be read; the first: "
            f"{plan.column('name')[0].decode()}: {rejects[0][1]}"
        )
    if config.compress:
        target = space.folder / "whole.h5"
        header, splits, notes = contents(plan, layout, journal, orders, config, space)
        chunks = {name: chunks_of(space, layout, order) for name, order in orders.items()}
        patch_file.write_compressed(
            target, header, splits, notes, chunks, patch_file.filter_options(config.codec, config.level)
        )
    else:
        target = space.rows
        fill_gaps(layout, orders, space)
        if not space.skeleton.exists():
            write_skeleton(plan, layout, journal, orders, config, space)
        lay_over(space.skeleton, target, layout, orders)
    flush_file(target)
    os.replace(target, space.out)
    flush_folder(space.out.parent)


def final_orders(layout: Layout, rejected: list[int]) -> dict[str, np.ndarray[Any, Any]]:
    """{split: planned rows in their final order}: a rejected row's place is taken by one from the end of its split."""
    orders = {}
    for split, begin in layout.begins().items():
        planned = np.arange(begin, begin + layout.splits[split])
        missing = np.array([row for row in rejected if begin <= row < begin + len(planned)], np.int64)
        kept = len(planned) - len(missing)
        holes = missing[missing < begin + kept]
        tail = np.setdiff1d(planned[kept:], missing)
        order = planned[:kept].copy()
        order[holes - begin] = tail
        orders[split] = order
    return orders


def fill_gaps(layout: Layout, orders: dict[str, np.ndarray[Any, Any]], space: Workspace) -> None:
    """Moves rows from the end of a split into the places of rejected ones, once."""
    if space.filled.exists():
        return
    handle = os.open(space.rows, os.O_RDWR)
    try:
        for split, begin in layout.begins().items():
            order = orders[split]
            for place in np.flatnonzero(order != np.arange(begin, begin + len(order))).tolist():
                row = os.pread(handle, layout.geometry.row, layout.offset(int(order[place])))
                write_at(handle, np.frombuffer(row, np.uint8), layout.offset(begin + place))
        os.fsync(handle)
    finally:
        os.close(handle)
    write_bytes(space.filled, b"")


def write_skeleton(
    plan: Plan, layout: Layout, journal: Journal, orders: dict[str, Any], config: PatchifyConfig, space: Workspace
) -> None:
    header, splits, notes = contents(plan, layout, journal, orders, config, space)
    aside = space.folder / "skeleton.tmp"
    extents = patch_file.write_skeleton(aside, header, splits, notes)
    for split, extent in extents.items():
        if extent.offset != layout.extents[split].offset:
            raise AssertionError(f"HDF5 put {split} at {extent.offset}, its rows are at {layout.extents[split].offset}")
    flush_file(aside)
    os.replace(aside, space.skeleton)


def contents(
    plan: Plan, layout: Layout, journal: Journal, orders: dict[str, Any], config: PatchifyConfig, space: Workspace
) -> tuple[Header, dict[str, SplitContent], Notes]:
    """All that the file says beside its rows."""
    digests = np.fromfile(space.digests, np.uint8).reshape(-1, DIGEST)[: layout.total]
    labels, names = plan.column("label"), plan.column("name")
    splits = {
        name: SplitContent(layout.splits[name], len(order), labels[order], names[order], digests[order])
        for name, order in orders.items()
        if len(order)
    }
    copies = find_copies({name: split.digests for name, split in splits.items()})
    rejects = [(names[row].decode(), reason) for row, reason in journal.rejects()]
    mean, std = statistics(journal, plan.geometry.channels)
    header = Header(
        plan.geometry,
        plan.class_names,
        mean,
        std,
        config.fit,
        config.source,
        created_by(),
        copies.duplicates,
        copies.leaked,
    )
    return header, splits, Notes([*plan.refused, *rejects], leak_names(copies, splits))


def leak_names(copies: Copies, splits: dict[str, SplitContent]) -> list[tuple[str, str, str, str]]:
    return [
        (one, splits[one].names[row].decode(), other, splits[other].names[copy].decode())
        for one, row, other, copy in copies.pairs
    ]


def statistics(journal: Journal, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """mean and std of each channel in units of 255, from sums of integers: the same whoever added them."""
    results = [result for result in journal.done.values() if result.pixels]
    pixels = sum(result.pixels for result in results)
    if not pixels:
        return (0.5,) * channels, (0.5,) * channels
    sums = [sum(result.sums[channel] for result in results) for channel in range(channels)]
    squares = [sum(result.squares[channel] for result in results) for channel in range(channels)]
    variances = [(square * pixels - total * total) / pixels**2 for total, square in zip(sums, squares, strict=True)]
    return tuple(total / pixels / 255 for total in sums), tuple(variance**0.5 / 255 for variance in variances)


def created_by() -> str:
    from vitctl import __version__

    return f"vitctl {__version__}"


def chunks_of(space: Workspace, layout: Layout, order: np.ndarray[Any, Any]) -> Iterator[bytes]:
    """Compressed rows in their final order, a block's file at a time."""
    number, chunks = -1, list[bytes]()
    for row in order.tolist():
        if row // layout.block != number:
            number = row // layout.block
            chunks = read_chunks(space.blocks / f"{number:08d}")
        yield chunks[row - number * layout.block]


def lay_over(skeleton: Path, rows: Path, layout: Layout, orders: dict[str, Any]) -> None:
    """Copies everything of the skeleton that is not a row into the file of rows, and cuts that to its length.

    The room behind each split's last row, where rejected pictures were planned, is cleared by the same copy.
    """
    length = skeleton.stat().st_size
    extents = sorted(
        (layout.extents[split].offset, len(order) * layout.geometry.row) for split, order in orders.items()
    )
    source, target = os.open(skeleton, os.O_RDONLY), os.open(rows, os.O_RDWR)
    try:
        begin = 0
        for offset, taken in [*extents, (length, 0)]:
            for start in range(begin, offset, COPY):
                piece = os.pread(source, min(COPY, offset - start), start)
                write_at(target, np.frombuffer(piece, np.uint8), start)
            begin = offset + taken
        os.ftruncate(target, length)
    finally:
        os.close(source)
        os.close(target)
