"""Makes equal files one image that has the labels of all of them."""

import hashlib
import os
from typing import Any

import numpy as np

from vitctl.data.patchifier.duplicates import find_first_copies
from vitctl.data.patchifier.scan import NO_CLASS, Ints, Scan
from vitctl.data.sources.contract import Source
from vitctl.data.sources.files import LargeFile
from vitctl.errors import DataError
from vitctl.io.patch_format import DIGEST, EMPTY_SET
from vitctl.reporting import Reporter, format_count

STEP = 1024  # files between two lookups of names


def merge_copies(scan: Scan, source: Source, reporter: Reporter) -> str:
    """Within each split of the source, the first of equal files stays, with the classes of all; returns a note."""
    if scan.has_numbers:
        raise DataError("--merge-copies makes sets of classes, but the labels are numbers")
    first = find_first_copies(digest_files(scan, source, reporter), scan.column("split"))
    rows = np.arange(scan.count)
    dropped = first != rows
    own, owner = scan.members_of(rows)
    pairs = np.unique(np.stack([first[owner], own], 1), axis=0)  # [n, 2], in the order of rows
    counts = np.bincount(pairs[:, 0], minlength=scan.count)
    known = np.bincount(first[scan.column("label") != NO_CLASS], minlength=scan.count) > 0
    replace_column(scan, "member", pairs[:, 1])
    replace_column(scan, "members", np.cumsum(counts))
    replace_column(scan, "label", np.where(known, EMPTY_SET, NO_CLASS))
    replace_column(scan, "split", np.where(dropped, -1, scan.column("split")))  # -1 is no split: they have no row
    scan.has_sets, scan.member_count = True, len(pairs)
    several = int((counts[np.unique(first[dropped])] > 1).sum())
    merged = format_count(int(dropped.sum()), "equal file")
    return f"merged {merged}: {format_count(several, 'image')} of several classes"


def replace_column(scan: Scan, name: str, values: Ints) -> None:
    """Under another name first: the old column may be mapped."""
    path = scan.folder / f"scan.{name}"
    aside = path.with_suffix(".part")
    values.astype(np.int64).tofile(aside)
    os.replace(aside, path)


def digest_files(scan: Scan, source: Source, reporter: Reporter) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """uint8 [count, 16]: the digests of the files' bytes. A file that cannot be read equals no other."""
    path = scan.folder / "scan.digests"
    places = [scan.column(name) for name in ("file", "offset", "size")]
    with reporter.progress("compare", scan.count) as bar, open(path, "wb") as out:
        for start in range(0, scan.count, STEP):
            rows = np.arange(start, min(start + STEP, scan.count))
            for row, name in zip(rows.tolist(), scan.names(rows), strict=True):
                out.write(digest_file(source, name.decode(), [int(place[row]) for place in places], row))
            bar.advance(len(rows))
    return np.memmap(path, np.uint8, "r", shape=(scan.count, DIGEST))


def digest_file(source: Source, name: str, place: list[int], row: int) -> bytes:
    digest = hashlib.sha256()
    try:
        content = source.read(name, *place)
        if isinstance(content, np.ndarray):
            digest.update(repr(content.shape).encode())
            content = np.ascontiguousarray(content).tobytes()
        for piece in content.pieces if isinstance(content, LargeFile) else [content]:
            digest.update(piece)
    except (DataError, OSError):
        digest = hashlib.sha256(f"unreadable {row}".encode())
    return digest.digest()[:DIGEST]
