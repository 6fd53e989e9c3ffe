"""What was taken for what."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vitctl.inspection.figures import PAGE, canvas, save_figure

NUMBERED, NAMED = 20, 60  # classes up to which cells have numbers, and lines names


def draw_confusion(counts: Any, names: Sequence[str], path: Path, title: str) -> None:
    """`counts` [K, K]: row the class, column the answer; a row's shares are drawn."""
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = min(12.0, max(4.6, 0.42 * len(names) + 2.2))
    figure = canvas(side + 0.9, side, title)
    axes = figure.subplots()
    shown = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    axes.set_xlabel("answer")
    axes.set_ylabel("class")
    if len(names) <= NAMED:
        short = [name if len(name) <= 18 else f"{name[:17]}…" for name in names]
        axes.set_xticks(range(len(names)), short, rotation=90 if max(map(len, short)) > 2 else 0, fontsize=8)
        axes.set_yticks(range(len(names)), short, fontsize=8)
    if len(names) <= NUMBERED:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                ink = "white" if shares[row, column] > 0.55 else PAGE.ink
                axes.text(column, row, f"{count:,}", ha="center", va="center", fontsize=7, color=ink)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(shown, ax=axes, shrink=0.8, pad=0.02)
    bar.set_label("share of the class")
    bar.outline.set_visible(False)
    save_figure(figure, path)
