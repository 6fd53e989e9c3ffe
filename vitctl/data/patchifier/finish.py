"""From rows to a file: the gaps closed, what HDF5 needs laid around them, and the whole put into its place."""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vitctl import __version__
from vitctl.config.patchify import PatchifyConfig
from vitctl.data.patchifier.duplicates import Copies, find_copies
from vitctl.data.patchifier.plan import RowPlan
from vitctl.data.patchifier.worker import RowLayout, read_chunks, write_rows_at
from vitctl.data.patchifier.workspace import Journal, Workspace
from vitctl.data.sources.names import printable
from vitctl.errors import DataError
from vitctl.io import patch_writer
from vitctl.io.atomic import flush_file, flush_folder, write_bytes
from vitctl.io.patch_format import CHUNK, DIGEST, Header, Notes, Sampled
from vitctl.io.patch_writer import SplitContent

COPY = 1 << 20


def finish(plan: RowPlan, layout: RowLayout, space: Workspace, journal: Journal, config: PatchifyConfig) -> None:
    """Closes the gaps, writes what HDF5 needs around the rows, and puts the file into its place.

    Every step can be repeated after a kill: it reads only what no later step has changed.
    """
    rejects = journal.rejects()
    orders = final_orders(layout, [row for row, _ in rejects])
    if not any(len(order) for order in orders.values()):
        raise DataError(
            f"none of the {layout.total} images could be read; the first: "
            f"{plan.column('name')[0].decode()}: {rejects[0][1]}"
        )
    if config.compress:
        target = space.folder / "whole.h5"
        header, splits, notes = contents(plan, layout, journal, orders, config, space)
        chunks = {name: chunks_of(space, layout, order) for name, order in orders.items()}
        patch_writer.write_compressed(
            target, header, splits, notes, chunks, patch_writer.filter_options(config.codec, config.level)
        )
    else:
        target = space.rows
        fill_gaps(layout, orders, space)
        if not space.skeleton.exists():
            start_output(plan, layout, journal, orders, config, space)
        lay_over(space.skeleton, target, layout, orders)
    flush_file(target)
    os.replace(target, space.out)
    flush_folder(space.out.parent)


@dataclass(frozen=True)
class Order:
    """Planned rows of a split in their final order: a rejected row's place is taken by one from the end of its split.

    Only the exceptions are kept; a slice of it is an array, and so is a slice of a column in that order.
    """

    begin: int
    rows: int  # that are left
    holes: np.ndarray[Any, Any]  # places of rejected rows among them, ascending
    fillers: np.ndarray[Any, Any]  # planned rows that go there

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, part: slice) -> np.ndarray[Any, Any]:
        start, stop, _ = part.indices(self.rows)
        planned = np.arange(self.begin + start, self.begin + stop)
        first, last = np.searchsorted(self.holes, (start, stop))
        planned[self.holes[first:last] - start] = self.fillers[first:last]
        return planned


@dataclass(frozen=True)
class Column:
    """A plan's column [total, ..] as the rows of one split will have it; read by slices, never whole."""

    values: Any
    order: Order

    @property
    def dtype(self) -> Any:
        return self.values.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.order), *self.values.shape[1:])

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, part: slice) -> Any:
        return np.asarray(self.values[self.order[part]])


def final_orders(layout: RowLayout, rejected: list[int]) -> dict[str, Order]:
    orders = {}
    for split, begin in layout.begins().items():
        end = begin + layout.splits[split]
        missing = np.array([row for row in rejected if begin <= row < end], np.int64)
        kept = end - begin - len(missing)
        holes = missing[missing < begin + kept] - begin
        orders[split] = Order(begin, kept, holes, np.setdiff1d(np.arange(begin + kept, end), missing))
    return orders


def fill_gaps(layout: RowLayout, orders: dict[str, Order], space: Workspace) -> None:
    """Moves rows from the end of a split into the places of rejected ones, once."""
    if space.filled.exists():
        return
    handle = os.open(space.rows, os.O_RDWR)
    try:
        for order in orders.values():
            for hole, filler in zip(order.holes.tolist(), order.fillers.tolist(), strict=True):
                row = os.pread(handle, layout.geometry.row, layout.offset(filler))
                write_rows_at(handle, np.frombuffer(row, np.uint8), layout.offset(order.begin + hole))
        os.fsync(handle)
    finally:
        os.close(handle)
    write_bytes(space.filled, b"")


def start_output(
    plan: RowPlan,
    layout: RowLayout,
    journal: Journal,
    orders: dict[str, Order],
    config: PatchifyConfig,
    space: Workspace,
) -> None:
    header, splits, notes = contents(plan, layout, journal, orders, config, space)
    aside = space.folder / "skeleton.tmp"
    extents = patch_writer.write_skeleton(aside, header, splits, notes)
    for split, extent in extents.items():
        if extent.size and extent.offset != layout.extents[split].offset:
            raise AssertionError(f"HDF5 put {split} at {extent.offset}, its rows are at {layout.extents[split].offset}")
    flush_file(aside)
    os.replace(aside, space.skeleton)


def contents(
    plan: RowPlan,
    layout: RowLayout,
    journal: Journal,
    orders: dict[str, Order],
    config: PatchifyConfig,
    space: Workspace,
) -> tuple[Header, dict[str, SplitContent], Notes]:
    """All that the file says beside its rows."""
    digests = np.memmap(space.digests, np.uint8, "r", shape=(layout.total, DIGEST))
    labels, names = plan.column("label"), plan.column("name")
    splits = {
        name: SplitContent(
            layout.splits[name], len(order), Column(labels, order), Column(names, order), Column(digests, order)
        )
        for name, order in orders.items()
    }
    copies = find_copies({name: split.digests for name, split in splits.items()})
    rejects = [(names[row].decode(), reason) for row, reason in journal.rejects()]
    header = Header(
        geometry=plan.geometry,
        class_names=plan.class_names,
        fit=config.fit,
        source=printable(config.source),
        created_by=f"vitctl {__version__}",
        options=options_digest(config),
        plan=plan.digest,
        duplicates=copies.duplicates,
        leaked=copies.leaked,
        sampled=sum_samples(journal, plan.geometry.channels),
    )
    return header, splits, Notes([*plan.refused, *rejects], leak_names(copies, splits))


def options_digest(config: PatchifyConfig) -> str:
    """So that a finished file can be told from one that other options would make."""
    return hashlib.sha256(json.dumps(config.content(), sort_keys=True).encode()).hexdigest()[:16]


def leak_names(copies: Copies, splits: dict[str, SplitContent]) -> list[tuple[str, str, str, str]]:
    def name(split: str, row: int) -> str:
        return str(splits[split].names[row : row + 1][0].decode())

    return [(one, name(one, row), other, name(other, copy)) for one, row, other, copy in copies.pairs]


def sum_samples(journal: Journal, channels: int) -> Sampled:
    """Sums of integers over the sampled images: the same whoever added them."""
    results = [result for result in journal.done.values() if result.pixels]
    columns = [
        tuple(sum(getattr(result, name)[channel] for result in results) for channel in range(channels))
        for name in ("sums", "squares")
    ]
    return Sampled(sum(result.pixels for result in results), *columns)


def chunks_of(space: Workspace, layout: RowLayout, order: Order) -> Iterator[bytes]:
    """Compressed rows in their final order, a block's file at a time."""
    number, chunks = -1, list[bytes]()
    for start in range(0, len(order), CHUNK):
        for row in order[start : start + CHUNK].tolist():
            if row // layout.block != number:
                number = row // layout.block
                chunks = read_chunks(space.blocks / f"{number:08d}")
            yield chunks[row - number * layout.block]


def lay_over(skeleton: Path, rows: Path, layout: RowLayout, orders: dict[str, Order]) -> None:
    """Copies everything of the skeleton that is not a row into the file of rows, and cuts that to its length.

    The room behind each split's last row, where rejected images were planned, is cleared by the same copy.
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
                write_rows_at(target, np.frombuffer(piece, np.uint8), start)
            begin = offset + taken
        os.ftruncate(target, length)
    finally:
        os.close(source)
        os.close(target)
