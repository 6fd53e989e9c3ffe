"""A subset of the rows of a split, with the same methods."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from vitctl.io.patch_file import Ints, Split
from vitctl.io.patch_format import CHUNK


class Subset(Split):
    def __init__(self, whole: Split, index: Ints, name: str) -> None:
        super().__init__(name, whole.segments, whole.header)
        self.lowest_label = whole.lowest_label
        index = np.asarray(index, np.int64)
        self.index: Ints = whole.index[index] if isinstance(whole, Subset) else index  # rows of the split in the file

    @property
    def rows(self) -> int:
        return len(self.index)

    def file_rows(self, rows: Ints) -> Ints:
        return self.check_rows(self.index[rows])

    def take(self, name: str, rows: Ints | None) -> Any:
        return super().take(name, np.arange(self.rows) if rows is None else rows)

    def slices(self, name: str) -> Iterator[Any]:
        for start in range(0, self.rows, CHUNK):
            yield self.take(name, np.arange(start, min(start + CHUNK, self.rows)))
