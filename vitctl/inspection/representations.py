"""The paper's figures of a trained model: position embeddings, filters, attention distance and layers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vitctl.inspection.charts import PAGE, add_color_bar, canvas, hide_axes, save_figure, show_percent, style_axes

Array = np.ndarray[Any, Any]
LAYER = "layer (0: input of the first block)"


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
    """One tile per position, at its place in the grid: its similarity to all others. Tiles are separated by NaN."""
    rows, columns = grid
    maps = similarities(table).reshape(rows, columns, rows, columns)
    sheet = np.full((rows * (rows + 1) - 1, columns * (columns + 1) - 1), np.nan)
    for row in range(rows):
        for column in range(columns):
            top, left = row * (rows + 1), column * (columns + 1)
            sheet[top : top + rows, left : left + columns] = maps[row, column]
    return sheet


def draw_similarities(panels: Sequence[SimilarityPanel], path: Path, heading: str) -> None:
    """Similarity of position embeddings: Figure 7, center."""
    figure = canvas(5.6 * len(panels) + 0.8, 6.2, heading)
    for number, panel in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), number + 1)
        sheet = tile_table(panel.table, panel.grid)
        image = axes.imshow(sheet, vmin=-1, vmax=1, cmap="viridis", interpolation="none")  # the paper's range
        axes.set_title(panel.title, fontsize=10)
        axes.set_xlabel("column of the patch")
        axes.set_ylabel("row of the patch" if number == 0 else "")
        ticks(axes, panel.grid)
    figure.colorbar(image, ax=figure.axes, shrink=0.75, pad=0.02).set_label("cosine similarity")
    save_figure(figure, path)


def ticks(axes: Any, grid: tuple[int, int]) -> None:
    """Numbers of rows and columns at the middle of some tiles, from 1 as in the paper."""
    for count, set_ticks in ((grid[1], axes.set_xticks), (grid[0], axes.set_yticks)):
        numbers = range(0, count, max(1, count // 7))
        middles = [number * (count + 1) + (count - 1) / 2 for number in numbers]
        set_ticks(middles, [str(number + 1) for number in numbers], fontsize=8)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def components(kernels: Array, count: int = 28) -> tuple[Array, Array]:
    """Principal components of filters [D, P, P, C]: [k, P, P, C], and the share of the variance of each."""
    flat = kernels.reshape(len(kernels), -1).astype(np.float64)
    _, sizes, vectors = np.linalg.svd(flat - flat.mean(0), full_matrices=False)
    count = min(count, len(vectors))
    shares = sizes**2 / max(float((sizes**2).sum()), 1e-30)
    vectors = vectors[:count]
    largest = np.take_along_axis(
        vectors, np.abs(vectors).argmax(1)[:, None], 1
    )  # made positive, because SVD signs are arbitrary
    return (vectors * np.sign(largest)).reshape(count, *kernels.shape[1:]), shares[:count]


def draw_filters(filters: Array, shares: Array, path: Path, title: str) -> None:
    """Principal components of the first layer's filters: Figure 7, left."""
    columns = min(7, len(filters))
    rows = -(-len(filters) // columns)
    figure = canvas(columns * 1.15, rows * 1.32 + 0.5, title)
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes in grid:
        hide_axes(axes)
    for axes, component, share in zip(grid, filters, shares, strict=False):
        axes.imshow(**component_image(component), interpolation="nearest")
        axes.set_title(f"{share:.1%}", fontsize=7.5, color=PAGE.quiet, pad=2)
    save_figure(figure, path)


def component_image(component: Array) -> dict[str, Any]:
    """Three channels in color, where gray is zero; otherwise the first channel in gray."""
    scaled = component / (2 * max(float(np.abs(component).max()), 1e-12)) + 0.5
    if component.shape[-1] == 3:
        return {"X": scaled}
    return {"X": scaled[..., 0], "cmap": "gray", "vmin": 0, "vmax": 1}


def pixel_distances(grid: tuple[int, int], reach: int) -> torch.Tensor:
    """[N, N] between the centers of all patches, which are `reach` pixels wide."""
    rows, columns = torch.meshgrid(*(torch.arange(side, dtype=torch.float64) for side in grid), indexing="ij")
    places = torch.stack([rows.flatten(), columns.flatten()], dim=1) * reach
    return torch.cdist(places, places)


def uniform_distance(grid: tuple[int, int], reach: int) -> float:
    """The mean attention distance of a head that attends uniformly."""
    return float(pixel_distances(grid, reach).mean())


def mean_distances(attention: torch.Tensor, distances: torch.Tensor, prefix: int) -> torch.Tensor:
    """Attention [B, H, T, T] to [B, H]: the mean over queries of distances weighted by attention (appendix D.7).

    As in the authors' code, rows and columns of prefix tokens are dropped without normalizing the rest again.
    """
    patches = attention[:, :, prefix:, prefix:].to(distances.dtype)
    return torch.einsum("bhqk,qk->bh", patches, distances) / patches.shape[2]


def draw_distances(distances: Array, uniform: float, labels: list[str], path: Path, title: str) -> None:
    """`distances` [L, H], means over images."""
    figure = canvas(max(5.6, 0.3 * len(distances) + 2.6), 4.2, title)
    axes = figure.subplots()
    depth = np.repeat(np.arange(1, len(distances) + 1), distances.shape[1])
    axes.axhline(uniform, color=PAGE.quiet, linestyle="--", linewidth=1, label=f"uniform attention, {uniform:.1f} px")
    axes.scatter(depth, distances.flatten(), s=22, color=PAGE.main, alpha=0.7, linewidths=0, label="head")
    axes.plot(range(1, len(distances) + 1), distances.mean(1), color=PAGE.second, linewidth=1.4, label="mean of heads")
    every = max(1, len(distances) // 16)
    axes.set_xticks(range(1, len(distances) + 1, every), labels[::every])
    axes.set_xlabel("layer")
    axes.set_ylabel("mean attention distance in pixels")
    axes.margins(y=0.12)
    style_axes(axes)
    axes.legend(frameon=False, fontsize=8)
    save_figure(figure, path)


def alignments(layers: list[Array]) -> Array:
    """Linear CKA [L, L] of features [M, D] of the same images.

    It uses the unbiased estimate of HSIC (Song et al. 2012), because the usual one is too high for few images.
    """
    grams = [center_gram(each.astype(np.float64) @ each.astype(np.float64).T) for each in layers]
    products = np.array([[independence(one, other) for other in grams] for one in grams])
    sizes = np.sqrt(np.maximum(np.diag(products), 1e-30))
    return np.asarray(products / np.outer(sizes, sizes))


def center_gram(gram: Array) -> Array:
    """Without the diagonal, the similarity of an image to itself."""
    return np.asarray(gram - np.diag(np.diag(gram)))


def independence(one: Array, other: Array) -> float:
    """The unbiased estimate of HSIC for two Gram matrices without diagonals."""
    count = len(one)
    trace = float((one * other).sum())
    sums = float(one.sum() * other.sum()) / ((count - 1) * (count - 2))
    cross = 2.0 * float(one.sum(0) @ other.sum(0)) / (count - 2)
    return (trace + sums - cross) / (count * (count - 3))


def draw_alignments(cka: Array, path: Path, title: str) -> None:
    figure = canvas(5.6, 4.8, title)
    axes = figure.subplots()
    image = axes.imshow(cka, cmap="magma", vmin=0, vmax=1, origin="lower", interpolation="nearest")
    layers = range(0, len(cka), max(1, len(cka) // 12))
    axes.set_xticks(layers, [str(layer) for layer in layers])
    axes.set_yticks(layers, [str(layer) for layer in layers])
    axes.set_xlabel(LAYER)
    axes.set_ylabel("layer")
    add_color_bar(figure, axes, image, "linear CKA", 0.85)
    save_figure(figure, path)


def draw_worth(scores: list[float], path: Path, title: str, shots: int, chance: float) -> None:
    """Accuracy of a few-shot probe on each layer."""
    figure = canvas(max(5.6, 0.3 * len(scores) + 2.6), 3.8, title)
    axes = figure.subplots()
    axes.plot(range(len(scores)), scores, color=PAGE.main, marker="o", markersize=4)
    axes.axhline(chance, color=PAGE.quiet, linestyle="--", linewidth=1, label="chance")
    axes.set_xticks(range(0, len(scores), max(1, len(scores) // 16)))
    axes.set_xlabel(LAYER)
    axes.set_ylabel(f"top-1 accuracy, {shots} shots per class")
    axes.set_ylim(0, min(1.02, max(scores) * 1.15 + 0.02))
    show_percent(axes.yaxis)
    style_axes(axes)
    axes.legend(frameon=False, fontsize=8)
    save_figure(figure, path)
