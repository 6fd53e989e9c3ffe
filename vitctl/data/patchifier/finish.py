"""From rows to a file: fills the gaps of rejected images, writes the HDF5 metadata, and moves the file to its name."""

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
from vitctl.data.patchifier.duplicates import find_copies
from vitctl.data.patchifier.worker import RowLayout, read_chunks, read_lengths, write_rows_at
from vitctl.data.patchifier.workspace import Build, Journal, Workspace
from vitctl.data.sources.names import printable
from vitctl.errors import DataError
from vitctl.io import patch_writer
from vitctl.io.atomic import flush_file, flush_folder, write_bytes
from vitctl.io.patch_format import CHUNK, DIGEST, Header, Notes, Sampled
from vitctl.io.patch_writer import EncodedRows, SplitContent

COPY = 1 << 20


def finish(build: Build, layout: RowLayout, journal: Journal) -> None:
    """Makes the file from the decoded rows.

    Every step can be repeated after a kill, because it reads only what no later step changes.
    """
    space, config, plan = build.space, build.config, layout.plan
    rejects = journal.rejects()
    orders = final_orders(layout, [row for row, _ in rejects])
    if not any(len(order) for order in orders.values()):
        name, reason = plan.column("name")[0].decode(), rejects[0][1]
        raise DataError(f"none of the {plan.total} images could be read; the first is {name}: {reason}")
    if plan.codec != "raw":
        target = space.folder / "whole.h5"
        rows = {name: EncodedRows(lengths_of(space, layout, order), chunks_of(space, layout, order))
                for name, order in orders.items()}  # fmt: skip
        patch_writer.write_encoded(target, *contents(build, layout, journal, orders), rows, config.level)
    else:
        target = space.rows
        fill_gaps(layout, orders, space)
        if not space.skeleton.exists():
            start_output(build, layout, journal, orders)
        lay_over(space.skeleton, target, layout, orders)
    flush_file(target)
    os.replace(target, space.out)
    flush_folder(space.out.parent)


@dataclass(frozen=True)
class Order:
    """The planned rows of a split in their final order. A row from the end of the split replaces each rejected one.

    Only the exceptions are stored. A slice of the order is an array of row numbers.
    """

    begin: int
    rows: int  # that were not rejected
    holes: np.ndarray[Any, Any]  # positions of rejected rows among them, ascending
    fillers: np.ndarray[Any, Any]  # the planned rows that go there

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
    """A column [total, ..] of the plan, as the rows of one split in their final order. Read it by slices."""

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
    for split, begin in layout.split_starts().items():
        end = begin + layout.plan.splits[split]
        missing = np.array([row for row in rejected if begin <= row < end], np.int64)
        count = end - begin - len(missing)
        holes = missing[missing < begin + count] - begin
        orders[split] = Order(begin, count, holes, np.setdiff1d(np.arange(begin + count, end), missing))
    return orders


def fill_gaps(layout: RowLayout, orders: dict[str, Order], space: Workspace) -> None:
    """Copies rows from the end of a split to the places of rejected ones, once."""
    if space.filled.exists():
        return
    handle = os.open(space.rows, os.O_RDWR)
    try:
        for order in orders.values():
            for hole, filler in zip(order.holes.tolist(), order.fillers.tolist(), strict=True):
                row = os.pread(handle, layout.plan.geometry.row, layout.offset(filler))
                write_rows_at(handle, np.frombuffer(row, np.uint8), layout.offset(order.begin + hole))
        os.fsync(handle)
    finally:
        os.close(handle)
    write_bytes(space.filled, b"")


def start_output(build: Build, layout: RowLayout, journal: Journal, orders: dict[str, Order]) -> None:
    aside = build.space.folder / "skeleton.tmp"
    extents = patch_writer.write_skeleton(aside, *contents(build, layout, journal, orders))
    for split, extent in extents.items():
        if extent.size and extent.offset != layout.extents[split].offset:
            raise AssertionError(f"HDF5 put {split} at {extent.offset}, its rows are at {layout.extents[split].offset}")
    flush_file(aside)
    os.replace(aside, build.space.skeleton)


def contents(
    build: Build, layout: RowLayout, journal: Journal, orders: dict[str, Order]
) -> tuple[Header, dict[str, SplitContent], Notes]:
    """Everything in the file except the rows."""
    plan, config = layout.plan, build.config
    columns = (
        plan.column("label"),
        plan.column("name"),
        np.memmap(build.space.digests, np.uint8, "r", shape=(plan.total, DIGEST)),
        np.memmap(build.space.sizes, np.int32, "r", shape=(plan.total, 2)),
    )
    task_column = {"sets": "label_sets", "numbers": "targets"}.get(plan.task)
    more = {task_column: plan.column(task_column)} if task_column else {}
    splits = {
        name: SplitContent(
            plan.splits[name], len(order), *(Column(column, order) for column in columns),
            **{each: Column(values, order) for each, values in more.items()},
        )
        for name, order in orders.items()
    }  # fmt: skip
    copies = find_copies({name: split.digests for name, split in splits.items()})
    rejects = [(columns[1][row].decode(), reason) for row, reason in journal.rejects()]
    header = Header(
        geometry=plan.geometry,
        class_names=plan.class_names,
        fit=plan.fit,
        codec=plan.codec,
        task=plan.task,
        source=printable(config.source),
        created_by=f"vitctl {__version__}",
        options=options_digest(config),
        plan=plan.digest,
        duplicates=copies.duplicates,
        leaked=copies.leaked,
        sampled=sum_samples(journal, plan.geometry.channels),
    )

    def name(split: str, row: int) -> str:
        return str(splits[split].names[row : row + 1][0].decode())

    leaks = [(one, name(one, row), other, name(other, copy)) for one, row, other, copy in copies.pairs]
    return header, splits, Notes([*plan.refused, *rejects], leaks)


def options_digest(config: PatchifyConfig) -> str:
    """Stored in the file, so that --resume recognizes a file made with other options."""
    return hashlib.sha256(json.dumps(config.content(), sort_keys=True).encode()).hexdigest()[:16]


def sum_samples(journal: Journal, channels: int) -> Sampled:
    """Sums of integers over the sampled images: the order of the blocks does not change them."""
    results = [result for result in journal.done.values() if result.pixels]
    columns = [
        tuple(sum(getattr(result, name)[channel] for result in results) for channel in range(channels))
        for name in ("sums", "squares")
    ]
    return Sampled(sum(result.pixels for result in results), *columns)


def lengths_of(space: Workspace, layout: RowLayout, order: Order) -> np.ndarray[Any, Any]:
    """int64 [rows]: the lengths of the encoded rows in their final order."""
    lengths = np.concatenate([read_lengths(space.blocks / f"{number:08d}") for number in range(layout.blocks)])
    return np.asarray(lengths[order[: len(order)]])


def chunks_of(space: Workspace, layout: RowLayout, order: Order) -> Iterator[bytes]:
    """Encoded rows in their final order; one block's file is in memory at a time."""
    number, chunks = -1, list[bytes]()
    for start in range(0, len(order), CHUNK):
        for row in order[start : start + CHUNK].tolist():
            if row // layout.block != number:
                number = row // layout.block
                chunks = read_chunks(space.blocks / f"{number:08d}")
            yield chunks[row - number * layout.block]


def lay_over(skeleton: Path, rows: Path, layout: RowLayout, orders: dict[str, Order]) -> None:
    """Copies everything in the skeleton except its rows into the file of rows, and cuts that file to the same length.

    This also clears the space after the last row of each split, where rows were moved away or rejected.
    """
    length, size = skeleton.stat().st_size, layout.plan.geometry.row
    extents = sorted((layout.extents[split].offset, len(order) * size) for split, order in orders.items())
    source, target = os.open(skeleton, os.O_RDONLY), os.open(rows, os.O_RDWR)
    try:
        begin = 0
        for offset, used in [*extents, (length, 0)]:
            for start in range(begin, offset, COPY):
                piece = os.pread(source, min(COPY, offset - start), start)
                write_rows_at(target, np.frombuffer(piece, np.uint8), start)
            begin = offset + used
        os.ftruncate(target, length)
    finally:
        os.close(source)
        os.close(target)
