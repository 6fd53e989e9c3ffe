"""What the first layer looks for: the principal components of its filters (Figure 7, left)."""

from pathlib import Path
from typing import Any

import numpy as np

from vitctl.inspection.figures import PAGE, canvas, hide_axes, save_figure

Array = np.ndarray[Any, Any]
SHOWN = 28


def components(kernels: Array, count: int = SHOWN) -> tuple[Array, Array]:
    """Filters [D, P, P, C] to components [k, P, P, C] and the share of the variance that each of them explains."""
    flat = kernels.reshape(len(kernels), -1).astype(np.float64)
    _, sizes, lines = np.linalg.svd(flat - flat.mean(0), full_matrices=False)
    count = min(count, len(lines))
    shares = sizes**2 / max(float((sizes**2).sum()), 1e-30)
    lines = lines[:count]
    strongest = np.take_along_axis(lines, np.abs(lines).argmax(1)[:, None], 1)
    return (lines * np.sign(strongest)).reshape(count, *kernels.shape[1:]), shares[:count]


def draw_filters(found: Array, shares: Array, path: Path, title: str) -> None:
    columns = min(7, len(found))
    rows = -(-len(found) // columns)
    figure = canvas(columns * 1.15, rows * 1.32 + 0.5, title)
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes in grid:
        hide_axes(axes)
    for axes, component, share in zip(grid, found, shares, strict=False):
        axes.imshow(**component_image(component), interpolation="nearest")
        axes.set_title(f"{share:.1%}", fontsize=7.5, color=PAGE.quiet, pad=2)
    save_figure(figure, path)


def component_image(component: Array) -> dict[str, Any]:
    """In color where there are three channels: gray is nothing. Else its first channel."""
    scaled = component / (2 * max(float(np.abs(component).max()), 1e-12)) + 0.5
    if component.shape[-1] == 3:
        return {"X": scaled}
    return {"X": scaled[..., 0], "cmap": "gray", "vmin": 0, "vmax": 1}
