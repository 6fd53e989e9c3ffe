"""Positions of one grid to another: the official way, and the usual others. Tensors in, tensors out; no module needed.

The official code calls scipy.ndimage.zoom(order=1), which is bilinear interpolation with aligned corners.
"""

import re
import zlib
from dataclasses import replace
from typing import Any, Literal

import torch
import torch.nn.functional as F

from vitctl.config.checks import one_of
from vitctl.config.model import ModelSpec
from vitctl.errors import UsageError
from vitctl.io.weights import Tensors, Weights
from vitctl.models.sincos import sincos, waves_with_prefix

Grid = tuple[int, int]
Method = Literal["official", "bilinear", "bicubic", "bicubic-aa", "fresh"]
METHODS: dict[str, dict[str, Any]] = {
    "official": {"mode": "bilinear", "align_corners": True},
    "bilinear": {"mode": "bilinear", "align_corners": False},
    "bicubic": {"mode": "bicubic", "align_corners": False},  # MAE's
    "bicubic-aa": {"mode": "bicubic", "align_corners": False, "antialias": True},  # timm's
}
FRESH = "fresh"  # nothing is kept: what interpolation is to be compared with
TABLE = r"(?:blocks\.\d+\.)?"


def resize_weights(weights: Weights, height: int, width: int, method: Method = "official") -> Weights:
    """The same weights for images of another size; what was done is in their history."""
    one_of("method", method, (*METHODS, FRESH))
    old = weights.spec
    if old.family == "timm":
        raise UsageError(
            f"{old.name}: only timm itself knows its positions; vitctl resizes those of plain ViTs and hybrids"
        )
    new = old.replace(height=height, width=width)
    if old.family == "bit":
        return replace(weights, spec=new)
    tensors = resize_tables(weights.tensors, old, new, method)
    step = {"step": "positions", "from": list(old.grid), "to": list(new.grid), "method": describe_method(old, method)}
    history = (*weights.about.history, step) if old.grid != new.grid else weights.about.history
    return replace(weights, spec=new, tensors=tensors, about=replace(weights.about, history=history))


def describe_method(spec: ModelSpec, method: str) -> str:
    if spec.positions in ("sincos", "sincos-mae"):
        return "computed anew"
    return {"none": "nothing to do", "relative": "bilinear in the distances"}.get(spec.positions, method)


def resize_tables(tensors: Tensors, old: ModelSpec, new: ModelSpec, method: Method) -> Tensors:
    """All position tables of a model, wherever they are added."""
    if old.grid == new.grid:
        return tensors
    changed = dict(tensors)
    for name, table in tensors.items():
        if name == "pos_embed" and old.positions != "1d":
            changed[name] = waves_with_prefix(new).to(table.dtype)
        elif re.fullmatch(rf"pos_embed|{TABLE}positions\.embed", name):
            changed[name] = resize_table(table, old.grid, new.grid, method)
        elif match := re.fullmatch(rf"{TABLE}positions\.([xy])", name):
            axis = "yx".index(match[1])
            changed[name] = resize_table(table, (old.grid[axis], 1), (new.grid[axis], 1), method)
        elif re.fullmatch(rf"{TABLE}attn\.offsets\.embed", name):
            changed[name] = resize_offsets(table, old.grid, new.grid)
    return changed


def resize_table(table: torch.Tensor, old: Grid, new: Grid, method: Method = "official") -> torch.Tensor:
    """[L, prefix + h*w, D] -> [L, prefix + H*W, D]; rows of tokens in front are kept as they are."""
    prefix = table.shape[1] - old[0] * old[1]
    front, grid = table[:, :prefix], table[:, prefix:]
    if method == FRESH:
        what_was = grid.detach().float().numpy().tobytes()
        random = torch.Generator().manual_seed(zlib.crc32(what_was))  # others for other weights
        drawn = torch.empty(len(grid), new[0] * new[1], grid.shape[2]).normal_(0.0, 0.02, generator=random)
        return torch.cat([front, drawn.to(table.dtype)], dim=1)
    picture = grid.double().reshape(len(grid), *old, -1).permute(0, 3, 1, 2)  # [L, D, h, w]
    picture = F.interpolate(picture, size=new, **METHODS[method])
    return torch.cat([front, picture.permute(0, 2, 3, 1).flatten(1, 2).to(table.dtype)], dim=1)


def resize_offsets(table: torch.Tensor, old: Grid, new: Grid) -> torch.Tensor:
    """[H, 2hw-1, Dh] -> [H, 2HW-1, Dh]: a distance in the sequence is so many lines and so many columns.

    There are several ways to take it apart (one line, or a line's length of columns); the one with the fewest columns
    for which the grid has lines is taken. The new distance, scaled in lines and columns as aligned corners scale, is
    then looked up between its four old neighbors.
    """
    last = new[0] * new[1] - 1
    distance = torch.arange(-last, last + 1, dtype=torch.float64)
    lines = torch.round(distance / new[1]).clamp(1 - new[0], new[0] - 1)
    steps = [lines * scale_ratio(old[0], new[0]), (distance - lines * new[1]) * scale_ratio(old[1], new[1])]
    floors = [step.floor() for step in steps]
    result = torch.zeros(table.shape[0], len(distance), table.shape[2], dtype=torch.float64)
    most = table.shape[1] - 1
    for down in (0, 1):
        for right in (0, 1):
            weight = torch.ones_like(distance)
            for step, floor, side in zip(steps, floors, (down, right), strict=True):
                weight = weight * (step - floor if side else 1 - (step - floor))
            place = (floors[0] + down) * old[1] + floors[1] + right + old[0] * old[1] - 1
            result += table[:, place.long().clamp(0, most)].double() * weight[:, None]
    return result.to(table.dtype)


def scale_ratio(old: int, new: int) -> float:
    return (old - 1) / (new - 1) if new > 1 else 0.0


def round_trip_error(weights: Weights, height: int, width: int, method: Method) -> float:
    """How much of the positions' size is lost on the way there and back: relative, root mean square."""
    back = resize_weights(
        resize_weights(weights, height, width, method), weights.spec.height, weights.spec.width, method
    )
    squares = [
        ((back.tensors[name].double() - table.double()).square().sum().item(), table.double().square().sum().item())
        for name, table in weights.tensors.items()
        if re.fullmatch(rf"pos_embed|{TABLE}positions\.(embed|x|y)|{TABLE}attn\.offsets\.embed", name)
    ]
    whole = sum(size for _, size in squares)
    return float((sum(error for error, _ in squares) / whole) ** 0.5) if whole else 0.0


def patch_positions(weights: Weights) -> torch.Tensor | None:
    """The table [N, D] of the patches' positions (of the first block where each has its own), or None."""
    if weights.spec.family == "timm":  # its grid is not known
        return None
    count = weights.spec.grid[0] * weights.spec.grid[1]
    for place in ("", "blocks.0."):
        for name in (f"{place}pos_embed", f"{place}positions.embed"):
            if name in weights.tensors:
                return weights.tensors[name][0, -count:]
        if f"{place}positions.x" in weights.tensors:
            x, y = (weights.tensors[f"{place}positions.{axis}"][0] for axis in "xy")
            rows, columns = len(y), len(x)
            return torch.cat([x.repeat(rows, 1), y.repeat_interleave(columns, 0)], dim=1)
    if weights.spec.positions in ("sincos", "sincos-mae"):  # those of blocks are computed, not stored
        return sincos(weights.spec.grid, weights.spec.dim, weights.spec.positions)
    return None
