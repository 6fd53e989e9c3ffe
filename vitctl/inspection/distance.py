"""How far heads look: the mean attention distance of appendix D.7, in pixels."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from vitctl.inspection.figures import PAGE, canvas, save_figure, style_axes

Array = np.ndarray[Any, Any]


def pixel_distances(grid: tuple[int, int], reach: int) -> torch.Tensor:
    """[N, N]: from the middle of each patch to that of each other."""
    rows, columns = torch.meshgrid(*(torch.arange(side, dtype=torch.float64) for side in grid), indexing="ij")
    places = torch.stack([rows.flatten(), columns.flatten()], dim=1) * reach
    return torch.cdist(places, places)


def uniform_distance(grid: tuple[int, int], reach: int) -> float:
    """Of a head that looks everywhere alike."""
    return float(pixel_distances(grid, reach).mean())


def mean_distances(attention: torch.Tensor, distances: torch.Tensor, prefix: int) -> torch.Tensor:
    """[B, H, T, T] to [B, H]: the mean over queries of distances weighed by attention.

    Rows and columns of tokens that are not patches are dropped, and nothing is normalized anew, as the authors did.
    """
    patches = attention[:, :, prefix:, prefix:].to(distances.dtype)
    return torch.einsum("bhqk,qk->bh", patches, distances) / patches.shape[2]


def draw_distances(distances: Array, uniform: float, labels: list[str], path: Path, title: str) -> None:
    """`distances` [L, H], the mean over images; a dot for each head."""
    figure = canvas(max(5.6, 0.3 * len(distances) + 2.6), 4.2, title)
    axes = figure.subplots()
    depth = np.repeat(np.arange(1, len(distances) + 1), distances.shape[1])
    axes.axhline(uniform, color=PAGE.quiet, linestyle="--", linewidth=1, label=f"uniform attention, {uniform:.1f} px")
    axes.scatter(depth, distances.flatten(), s=22, color=PAGE.main, alpha=0.7, linewidths=0, label="a head")
    axes.plot(range(1, len(distances) + 1), distances.mean(1), color=PAGE.second, linewidth=1.4, label="mean of heads")
    every = max(1, len(distances) // 16)
    axes.set_xticks(range(1, len(distances) + 1, every), labels[::every])
    axes.set_xlabel("layer")
    axes.set_ylabel("mean attention distance in pixels")
    axes.set_ylim(0, max(uniform, float(distances.max())) * 1.12)
    style_axes(axes)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    save_figure(figure, path)
