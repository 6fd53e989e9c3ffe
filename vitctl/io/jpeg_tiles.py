"""Parts of JPEGs: a window is cut out of the encoded bytes, so that only this part is decoded.

Nothing that a decoder remembers passes a restart marker. Where one follows each tile, which is a piece of a row of
blocks, the tiles of a rectangle make a JPEG of their own. Its pixels are those of the whole one, to the bit.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

BLOCK = 8  # pixels
MOST_BLOCKS = 11  # in a tile: 88 pixels, at which the markers add 1% to the bytes
BASELINE, SCAN, INTERVAL = 0xC0, 0xDA, 0xDD  # segments of a header
OTHER_FRAMES = {*range(0xC1, 0xD0)} - {0xC4, 0xC8, 0xCC}  # progressive, arithmetic, ...
RESTART = 0xD0  # to 0xD7: the markers are numbered in turn
NOT_SUBSAMPLED = 0x11

Window = tuple[int, int, int, int]  # top, left, height and width
Ints = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Tiling:
    height: int
    width: int
    side: int  # width of a tile in pixels
    frame: int  # where the header has the height and the width
    data: int  # where the header ends

    @property
    def columns(self) -> int:
        return -(-self.width // self.side)

    @property
    def rows(self) -> int:
        return -(-self.height // BLOCK)


def tile_blocks(width: int) -> int:
    """The blocks in a tile of an image of this width: they must divide a row of blocks."""
    row = -(-width // BLOCK)
    most = max(blocks for blocks in range(1, MOST_BLOCKS + 1) if row % blocks == 0)
    return most if 2 * most >= MOST_BLOCKS else row


def cut_tiles(content: Any, window: Window) -> tuple[bytearray, Window] | None:
    """A JPEG of the tiles that cover a window, and the window that they are. None if the JPEG has no tiles."""
    tiling = read_tiling(content)
    starts, ends = find_tiles(content, tiling.data) if tiling else (np.empty(0, int),) * 2
    if tiling is None or len(starts) != tiling.rows * tiling.columns:
        return None
    top, left, height, width = window
    rows = np.arange(top // BLOCK, -(-(top + height) // BLOCK))
    columns = np.arange(left // tiling.side, -(-(left + width) // tiling.side))
    tiles = rows[:, None] * tiling.columns + columns  # [rows, columns]
    top, left = int(rows[0]) * BLOCK, int(columns[0]) * tiling.side
    height = min(len(rows) * BLOCK, tiling.height - top)
    width = min(len(columns) * tiling.side, tiling.width - left)
    header = bytearray(content[: tiling.data])
    header[tiling.frame : tiling.frame + 4] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return header + join_tiles(content, starts[tiles], ends[tiles]), (top, left, height, width)


def join_tiles(content: Any, starts: Ints, ends: Ints) -> bytearray:
    """The data of the tiles at these places [rows, columns], whose markers are numbered again, and the end's marker."""
    begin, end = starts[:, 0], ends[:, -1]
    pieces = [content[first:last] for first, last in zip(begin.tolist(), end.tolist(), strict=True)]
    joined = bytearray(b"\xff\xd0").join([*pieces, b""])
    moved = np.concatenate([[0], np.cumsum(end - begin + 2)])[:-1]  # where each row begins now
    numbers = np.frombuffer(joined, np.uint8)
    numbers[(ends - begin[:, None] + moved[:, None] + 1).ravel()] = RESTART + np.arange(ends.size) % 8
    joined[-1] = 0xD9
    return joined


def find_tiles(content: Any, data: int) -> tuple[Ints, Ints]:
    """Where each tile begins and ends: before the next marker, or the end's."""
    values = np.frombuffer(content, np.uint8)
    marks = np.flatnonzero(values[data:-1] == 0xFF) + data
    marks = marks[values[marks + 1] & 0xF8 == RESTART]
    return np.concatenate([[data], marks + 2]), np.concatenate([marks, [len(values) - 2]])


def read_tiling(content: Any) -> Tiling | None:
    """None if the JPEG is not baseline, has colors at another resolution, or no tiles that divide its rows."""
    at, frame, blocks = 2, 0, 0
    while at + 4 <= len(content) and content[at] == 0xFF and content[at + 1] not in OTHER_FRAMES:
        kind, length = content[at + 1], int.from_bytes(content[at + 2 : at + 4], "big")
        if kind == BASELINE:
            frame = at + 5
        elif kind == INTERVAL:
            blocks = int.from_bytes(content[at + 4 : at + 6], "big")
        elif kind == SCAN:
            break
        at += 2 + length
    else:
        return None
    if not frame or not blocks or content[at + 4] != content[frame + 4]:  # all colors are in this scan
        return None
    if any(content[frame + 6 + 3 * color] != NOT_SUBSAMPLED for color in range(content[frame + 4])):
        return None
    height, width = (int.from_bytes(content[place : place + 2], "big") for place in (frame, frame + 2))
    return None if -(-width // BLOCK) % blocks else Tiling(height, width, blocks * BLOCK, frame, at + 2 + length)
