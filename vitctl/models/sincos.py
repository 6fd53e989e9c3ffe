"""Fixed positions: waves of the line and the column."""

import torch
import torch.nn.functional as F

from vitctl.config.model import ModelSpec


def waves_with_prefix(spec: ModelSpec) -> torch.Tensor:
    """Fixed waves [1, T, D]; a token in front that has a position has zeros."""
    waves = sincos(spec.grid, spec.dim, spec.positions)[None]
    return F.pad(waves, (0, 0, spec.position_rows - waves.shape[1], 0))


def sincos(grid: tuple[int, int], dim: int, kind: str = "sincos") -> torch.Tensor:
    """[N, D]: waves of the column, then of the line, a quarter of the width each for sine and cosine.

    Frequencies fall from 1 to 1/10000: big_vision's reach it, MAE's stop one short of it.
    """
    quarter = dim // 4
    steps = quarter if kind == "sincos-mae" else max(quarter - 1, 1)
    frequency = 10000.0 ** -(torch.arange(quarter, dtype=torch.float64) / steps)
    y, x = torch.meshgrid(*(torch.arange(side, dtype=torch.float64) for side in grid), indexing="ij")
    angles = [place.flatten()[:, None] * frequency for place in (x, y)]  # [N, D/4] each
    return torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=1).float()
