"""How alike positions are: the tiled figure of the paper (Figure 7, center)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vitctl.inspection.figures import canvas, save_figure

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class SimilarityPanel:
    title: str
    table: Array  # [N, D]
    grid: tuple[int, int]


def similarities(table: Array) -> Array:
    """Cosines [N, N] of all pairs of rows."""
    unit = table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-12)
    return np.asarray(unit @ unit.T)


def tile_table(table: Array, grid: tuple[int, int]) -> Array:
    """A tile for each position, in its place: how alike it is to all others. Lines of NaN between the tiles."""
    rows, columns = grid
    maps = similarities(table).reshape(rows, columns, rows, columns)
    sheet = np.full((rows * (rows + 1) - 1, columns * (columns + 1) - 1), np.nan)
    for row in range(rows):
        for column in range(columns):
            top, left = row * (rows + 1), column * (columns + 1)
            sheet[top : top + rows, left : left + columns] = maps[row, column]
    return sheet


def draw_similarities(panels: Sequence[SimilarityPanel], path: Path, heading: str) -> None:
    figure = canvas(5.6 * len(panels) + 0.8, 6.2, heading)
    for number, panel in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), number + 1)
        sheet = tile_table(panel.table, panel.grid)
        shown = axes.imshow(sheet, vmin=-1, vmax=1, cmap="viridis", interpolation="none")  # the paper's range
        axes.set_title(panel.title, fontsize=10)
        axes.set_xlabel("column of the patch")
        axes.set_ylabel("row of the patch" if number == 0 else "")
        ticks(axes, panel.grid)
    bar = figure.colorbar(shown, ax=figure.axes, shrink=0.75, pad=0.02)
    bar.set_label("cosine similarity")
    save_figure(figure, path)


def ticks(axes: Any, grid: tuple[int, int]) -> None:
    """Numbers of rows and columns at the middle of some tiles, from 1 as in the paper."""
    for count, put in ((grid[1], axes.set_xticks), (grid[0], axes.set_yticks)):
        every = max(1, count // 7)
        shown = range(0, count, every)
        put(
            [place * (count + 1) + (count - 1) / 2 for place in shown],
            [str(place + 1) for place in shown],
            fontsize=8,
        )
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
