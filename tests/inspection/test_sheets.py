from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitctl.inspection.sheets import CELL, draw_heads, draw_rollout, overlay


def test_light_falls_where_it_looks() -> None:
    weights = np.zeros((4, 4))
    weights[0, 0] = 1
    lit = np.asarray(overlay(np.full((64, 64, 3), 200, np.uint8), weights))
    assert lit.shape == (CELL, CELL, 3)
    assert lit[:20, :20].mean() > 3 * lit[-40:, -40:].mean()


@pytest.mark.parametrize("shape", [(28, 28, 1), (64, 96, 3)])
def test_the_figures(shape: tuple[int, int, int], tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, shape, np.uint8) for _ in range(3)]
    draw_rollout(images, random.random((3, 4, 6)), ["one", "two" * 40, "three"], tmp_path / "r.png", "title", "more")
    draw_heads(images, random.random((3, 12, 4, 6)), tmp_path / "h.png", "title", "more")
    for name in ("r.png", "h.png"):
        assert np.asarray(Image.open(tmp_path / name).convert("L")).std() > 10
