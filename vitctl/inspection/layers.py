"""How alike layers are (linear CKA), and what each is worth in a probe."""

from pathlib import Path
from typing import Any

import numpy as np

from vitctl.inspection.figures import PAGE, canvas, save_figure, style_axes

Array = np.ndarray[Any, Any]


def alignments(layers: list[Array]) -> Array:
    """CKA [L, L] of features [M, D] of the same images, without the bias of few images (Song et al. 2012)."""
    grams = [center_gram(each.astype(np.float64) @ each.astype(np.float64).T) for each in layers]
    products = np.array([[independence(one, other) for other in grams] for one in grams])
    sizes = np.sqrt(np.maximum(np.diag(products), 1e-30))
    return np.asarray(products / np.outer(sizes, sizes))


def center_gram(gram: Array) -> Array:
    """Without the diagonal, which says how alike an image is to itself."""
    return np.asarray(gram - np.diag(np.diag(gram)))


def independence(one: Array, other: Array) -> float:
    """The unbiased estimate of HSIC, of two Gram matrices without diagonals."""
    count = len(one)
    trace = float((one * other).sum())
    sums = float(one.sum() * other.sum()) / ((count - 1) * (count - 2))
    cross = 2.0 * float(one.sum(0) @ other.sum(0)) / (count - 2)
    return (trace + sums - cross) / (count * (count - 3))


def draw_alignments(found: Array, path: Path, title: str) -> None:
    figure = canvas(5.6, 4.8, title)
    axes = figure.subplots()
    drawn = axes.imshow(found, cmap="magma", vmin=0, vmax=1, origin="lower", interpolation="nearest")
    every = max(1, len(found) // 12)
    places = range(0, len(found), every)
    axes.set_xticks(places, [str(each) for each in places])
    axes.set_yticks(places, [str(each) for each in places])
    axes.set_xlabel("layer (0: patches with positions)")
    axes.set_ylabel("layer")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(drawn, ax=axes, shrink=0.85, pad=0.02)
    bar.set_label("linear CKA")
    bar.outline.set_visible(False)
    save_figure(figure, path)


def draw_worth(scores: list[float], path: Path, title: str, shots: int, chance: float) -> None:
    """Top-1 of a few-shot probe on each layer."""
    figure = canvas(max(5.6, 0.3 * len(scores) + 2.6), 3.8, title)
    axes = figure.subplots()
    axes.plot(range(len(scores)), scores, color=PAGE.main, marker="o", markersize=4)
    axes.axhline(chance, color=PAGE.quiet, linestyle="--", linewidth=1, label="chance")
    axes.set_xticks(range(0, len(scores), max(1, len(scores) // 16)))
    axes.set_xlabel("layer (0: patches with positions)")
    axes.set_ylabel(f"top-1, {shots} shots per class")
    axes.set_ylim(0, min(1.02, max(scores) * 1.15 + 0.02))
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}%")
    style_axes(axes)
    axes.legend(frameon=False, fontsize=8)
    save_figure(figure, path)
