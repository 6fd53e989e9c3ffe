"""Position embeddings on another grid. Tensors in, tensors out; no module and no timm is needed.

The official code calls scipy.ndimage.zoom(order=1), which is bilinear interpolation with aligned corners.
"""

import math
import re
import zlib
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F

from vitctl.config.checks import one_of
from vitctl.config.interpolate import Method
from vitctl.config.model import ModelSpec, Rope
from vitctl.io.weights import Tensors, Weights

Grid = tuple[int, int]
METHODS: dict[str, dict[str, Any]] = {
    "official": {"mode": "bilinear", "align_corners": True},
    "bilinear": {"mode": "bilinear", "align_corners": False},
    "bicubic": {"mode": "bicubic", "align_corners": False},  # MAE's
    "bicubic-aa": {"mode": "bicubic", "align_corners": False, "antialias": True},  # timm's
}
FRESH = "fresh"  # re-initializes the table: the baseline for interpolation
BLOCK = r"(?:blocks\.\d+\.)?"
TABLES = re.compile(rf"pos_embed|{BLOCK}positions\.(embed|x|y)|{BLOCK}attn\.offsets\.embed")
WAVES = ("sincos", "sincos-mae")


def resize_weights(weights: Weights, height: int, width: int, method: Method = "official") -> Weights:
    """The same weights for images of another size; the change is recorded in their history."""
    one_of("method", method, (*METHODS, FRESH))
    old = weights.spec
    new = old.replace(height=height, width=width)
    if old.family == "bit":
        return replace(weights, spec=new)
    tensors = resize_tables(weights.tensors, old, new, method)
    step = {"step": "positions", "from": list(old.grid), "to": list(new.grid), "method": describe_method(old, method)}
    history = (*weights.about.history, step) if old.grid != new.grid else weights.about.history
    return replace(weights, spec=new, tensors=tensors, about=replace(weights.about, history=history))


def describe_method(spec: ModelSpec, method: str) -> str:
    if spec.family == "timm":
        return "timm's own"
    if spec.positions in WAVES:
        return "recomputed"
    idle = {"none": "nothing to do", "rope": "none needed: rotary positions are computed for any grid"}
    return (idle | {"relative": "bilinear in the distances"}).get(spec.positions, method)


def resize_tables(tensors: Tensors, old: ModelSpec, new: ModelSpec, method: Method) -> Tensors:
    """All position tables of a model, at the stem and in the blocks."""
    if old.grid == new.grid:
        return tensors
    changed = dict(tensors)
    for name, table in tensors.items():
        if name == "pos_embed" and old.positions in WAVES:
            changed[name] = waves_with_prefix(new).to(table.dtype)
        elif re.fullmatch(rf"pos_embed|{BLOCK}positions\.embed", name):
            changed[name] = resize_table(table, old.grid, new.grid, method)
        elif match := re.fullmatch(rf"{BLOCK}positions\.([xy])", name):
            axis = "yx".index(match[1])
            changed[name] = resize_table(table, (old.grid[axis], 1), (new.grid[axis], 1), method)
        elif re.fullmatch(rf"{BLOCK}attn\.offsets\.embed", name):
            changed[name] = resize_offsets(table, old.grid, new.grid)
    return changed


def resize_table(table: torch.Tensor, old: Grid, new: Grid, method: Method = "official") -> torch.Tensor:
    """[L, prefix + h*w, D] -> [L, prefix + H*W, D]; the rows of prefix tokens do not change."""
    prefix = table.shape[1] - old[0] * old[1]
    front, grid = table[:, :prefix], table[:, prefix:]
    if method == FRESH:
        seed = zlib.crc32(grid.detach().float().numpy().tobytes())  # other weights draw other values
        random = torch.Generator().manual_seed(seed)
        values = torch.empty(len(grid), new[0] * new[1], grid.shape[2]).normal_(0.0, 0.02, generator=random)
        return torch.cat([front, values.to(table.dtype)], dim=1)
    maps = grid.double().reshape(len(grid), *old, -1).permute(0, 3, 1, 2)  # [L, D, h, w]
    maps = F.interpolate(maps, size=new, **METHODS[method])
    return torch.cat([front, maps.permute(0, 2, 3, 1).flatten(1, 2).to(table.dtype)], dim=1)


def resize_offsets(table: torch.Tensor, old: Grid, new: Grid) -> torch.Tensor:
    """[H, 2hw-1, Dh] -> [H, 2HW-1, Dh]: a distance in the sequence is a number of rows plus a number of columns.

    There are several ways to split it (one row, or a row's length of columns). The split with the fewest columns whose
    rows exist in the grid is used. Rows and columns are scaled with aligned corners, and the result is interpolated
    bilinearly between its four old neighbors.
    """
    last = new[0] * new[1] - 1
    distance = torch.arange(-last, last + 1, dtype=torch.float64)
    rows = torch.round(distance / new[1]).clamp(1 - new[0], new[0] - 1)
    steps = [rows * scale_ratio(old[0], new[0]), (distance - rows * new[1]) * scale_ratio(old[1], new[1])]
    floors = [step.floor() for step in steps]
    result = torch.zeros(table.shape[0], len(distance), table.shape[2], dtype=torch.float64)
    for down in (0, 1):
        for right in (0, 1):
            weight = torch.ones_like(distance)
            for step, floor, side in zip(steps, floors, (down, right), strict=True):
                weight = weight * (step - floor if side else 1 - (step - floor))
            index = (floors[0] + down) * old[1] + floors[1] + right + old[0] * old[1] - 1
            result += table[:, index.long().clamp(0, table.shape[1] - 1)].double() * weight[:, None]
    return result.to(table.dtype)


def scale_ratio(old: int, new: int) -> float:
    return (old - 1) / (new - 1) if new > 1 else 0.0


def patch_positions(weights: Weights) -> torch.Tensor | None:
    """The table [N, D] of the patches' positions, of the first block if each block has its own; None without one."""
    spec = weights.spec
    if spec.family == "timm":  # its grid is not known
        return None
    for prefix in ("", "blocks.0."):
        for name in (f"{prefix}pos_embed", f"{prefix}positions.embed"):
            if name in weights.tensors:
                return weights.tensors[name][0, -spec.grid[0] * spec.grid[1] :]
        if f"{prefix}positions.x" in weights.tensors:
            x, y = (weights.tensors[f"{prefix}positions.{axis}"][0] for axis in "xy")
            return torch.cat([x.repeat(len(y), 1), y.repeat_interleave(len(x), 0)], dim=1)
    # waves that are added in blocks are computed, not stored
    return sincos(spec.grid, spec.dim, spec.positions) if spec.positions in WAVES else None


def waves_with_prefix(spec: ModelSpec) -> torch.Tensor:
    """Fixed waves [1, T, D]; prefix tokens that have a position get zeros."""
    waves = sincos(spec.grid, spec.dim, spec.positions)[None]
    return F.pad(waves, (0, 0, spec.position_rows - waves.shape[1], 0))


def sincos(grid: Grid, dim: int, kind: str = "sincos") -> torch.Tensor:
    """[N, D]: waves of the column, then of the row, a quarter of the width each for sine and cosine.

    Frequencies fall from 1 to 1/10000: big_vision includes 1/10000, MAE stops one step before it.
    """
    quarter = dim // 4
    steps = quarter if kind == "sincos-mae" else max(quarter - 1, 1)
    frequency = 10000.0 ** -(torch.arange(quarter, dtype=torch.float64) / steps)
    y, x = torch.meshgrid(*(torch.arange(side, dtype=torch.float64) for side in grid), indexing="ij")
    angles = [place.flatten()[:, None] * frequency for place in (x, y)]  # [N, D/4] each
    return torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=1).float()


def rope_waves(rope: Rope, grid: Grid, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines [N, width] of the angles by which a head is turned; both halves of it have the same."""
    quarter = width // 4
    frequency = rope.temperature ** -(torch.arange(quarter, dtype=torch.float64) / quarter)
    sides = []
    for axis, count in enumerate(grid):
        index = torch.arange(count, dtype=torch.float64)
        if rope.place == "center":
            sides.append(2 * math.pi * ((index + 0.5) / count * 2 - 1))
        else:
            sides.append((index + rope.offset) * (rope.grid[axis] / count if rope.grid else 1.0))
    y, x = torch.meshgrid(*sides, indexing="ij")
    places = (y, x) if rope.order == "yx" else (x, y)
    angles = torch.cat([place.flatten()[:, None] * frequency for place in places] * 2, dim=1)
    return angles.cos().float(), angles.sin().float()
