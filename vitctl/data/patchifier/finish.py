"""From rows to a file: the gaps closed, what HDF5 needs laid around them, and the whole put into its place."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vitctl import __version__
from vitctl.config.patchify import PatchifyConfig
from vitctl.data.patchifier.duplicates import Copies, find_copies
from vitctl.data.patchifier.plan import Plan
from vitctl.data.patchifier.worker import Layout, read_chunks, write_at
from vitctl.data.patchifier.workspace import Journal, Workspace
from vitctl.errors import DataError
from vitctl.io import patch_writer
from vitctl.io.atomic import flush_file, flush_folder, write_bytes
from vitctl.io.patch_file import DIGEST, Header, Notes
from vitctl.io.patch_writer import SplitContent

COPY = 1 << 20


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
        patch_writer.write_compressed(
            target, header, splits, notes, chunks, patch_writer.filter_options(config.codec, config.level)
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
    extents = patch_writer.write_skeleton(aside, header, splits, notes)
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
        f"vitctl {__version__}",
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
