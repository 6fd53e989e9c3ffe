"""Finds exact copies of images: duplicates within a split, leaks across splits."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

BUCKET = 4_000_000  # digests sorted at once
LISTED = 1000  # leaks that the file lists by name

Digests = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True)
class Copies:
    duplicates: int  # images that equal an earlier one of their own split
    leaked: int  # images that equal one of an earlier split
    pairs: list[tuple[str, int, str, int]]  # (split, row, earlier split, row) of the first leaks, in the order of rows


def find_copies(digests: Mapping[str, Digests]) -> Copies:
    """Compares all images by their digests, {split: uint8 [M, 16]}, a bucket of digests in memory at a time."""
    names = list(digests)
    total = sum(len(each) for each in digests.values())
    if not total:
        return Copies(0, 0, [])
    duplicates, leaked = 0, 0
    leaks: list[tuple[int, int, int, int]] = []
    for split, row, values in buckets(list(digests.values()), -(-total // BUCKET)):
        order = np.lexsort((row, split, values[:, 1], values[:, 0]))
        split, row, values = split[order], row[order], values[order]
        same = np.flatnonzero((values[1:] == values[:-1]).all(axis=1)) + 1  # equal to the one before
        first = np.arange(len(values))
        first[same] = 0
        first = np.maximum.accumulate(first)  # [M], where each run of equal digests begins
        duplicates += int((split[same] == split[same - 1]).sum())
        across = same[split[same] != split[first[same]]]
        leaked += len(across)
        fields = (split[across], row[across], split[first[across]], row[first[across]])
        leaks = sorted(leaks + list(zip(*(each.tolist() for each in fields), strict=True)))[:LISTED]
    pairs = [(names[one], row, names[other], copy) for one, row, other, copy in leaks]
    return Copies(duplicates, leaked, pairs)


def find_relabeled(digests: Digests, labels: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """int64 [n, 2]: the images of a split that equal an earlier one with another label, and that one."""
    first = find_first_copies(digests, np.zeros(len(digests), np.int64))
    rows = np.flatnonzero((first != np.arange(len(first))) & (labels != labels[first]) & (labels >= 0))
    rows = rows[labels[first[rows]] >= 0]
    return np.stack([rows, first[rows]], 1)


def find_first_copies(digests: Digests, split: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """int64 [M]: for each image, the first one of its split that equals it, or itself."""
    first = np.arange(len(digests))
    for _, row, values in buckets([digests], -(-len(digests) // BUCKET)):
        order = np.lexsort((row, split[row], values[:, 1], values[:, 0]))
        row, values = row[order], values[order]
        same = (values[1:] == values[:-1]).all(axis=1) & (split[row[1:]] == split[row[:-1]])
        begins = np.flatnonzero(np.concatenate(([True], ~same)[: 1 + len(same)])) if len(row) else row
        first[row] = np.repeat(row[begins], np.diff(np.append(begins, len(row))))
    return first


def buckets(digests: list[Digests], count: int) -> Iterator[tuple[Any, Any, Any]]:
    """(split number [m], row [m], digest as two words [m, 2]) of the images in each of `count` equal digest ranges."""
    for bucket in range(count):
        split, row, values = [], [], []
        for number, each in enumerate(digests):
            for start in range(0, len(each), BUCKET):
                words = np.ascontiguousarray(each[start : start + BUCKET]).view(">u8")  # [m, 2]
                chosen = np.flatnonzero((words[:, 0] >> np.uint64(32)) * np.uint64(count) >> np.uint64(32) == bucket)
                split.append(np.full(len(chosen), number))
                row.append(chosen + start)
                values.append(words[chosen])
        yield np.concatenate(split), np.concatenate(row), np.concatenate(values)
