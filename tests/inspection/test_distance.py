from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vitctl.inspection.distance import draw_distances, mean_distances, pixel_distances, uniform_distance


@pytest.mark.parametrize(
    ("grid", "reach", "pixels"),
    [((14, 14), 16, 116.4922), ((7, 7), 32, 115.5029), ((16, 16), 14, 116.5651), ((24, 24), 16, 200.0480)],
)
def test_uniform_attention(grid: tuple[int, int], reach: int, pixels: float) -> None:
    assert uniform_distance(grid, reach) == pytest.approx(pixels, abs=5e-5)
    count = grid[0] * grid[1]
    attention = torch.full((1, 2, count, count), 1 / count)
    found = mean_distances(attention, pixel_distances(grid, reach), prefix=0)
    assert found.tolist() == [[pytest.approx(pixels, abs=5e-4)] * 2]


def test_the_class_token_is_dropped_and_nothing_normalized_anew() -> None:
    attention = torch.full((1, 1, 197, 197), 1 / 197)
    found = mean_distances(attention, pixel_distances((14, 14), 16), prefix=1)
    assert float(found) == pytest.approx(115.9009, abs=1e-3)
    registers = torch.full((1, 1, 201, 201), 1 / 201)
    found = mean_distances(registers, pixel_distances((14, 14), 16), prefix=5)
    assert float(found) == pytest.approx(116.4922 * 196 / 201, abs=1e-3)


def test_a_head_that_looks_at_itself_looks_nowhere() -> None:
    assert float(mean_distances(torch.eye(196)[None, None], pixel_distances((14, 14), 16), 0)) == 0.0


def test_the_farthest_patch() -> None:
    table = pixel_distances((14, 14), 16)
    assert float(table.max()) == pytest.approx(294.156, abs=1e-3)
    assert table[0, 1] == 16.0
    assert table[0, 14] == 16.0


def test_grids_that_are_not_square() -> None:
    table = pixel_distances((2, 3), 10)
    assert table[0].tolist() == pytest.approx([0, 10, 20, 10, 200**0.5, 500**0.5])


def test_the_figure(tmp_path: Path) -> None:
    draw_distances(np.random.default_rng(0).uniform(20, 90, (12, 3)), 80.0, [str(n) for n in range(12)],
                   tmp_path / "d.png", "a model")  # fmt: skip
    with Image.open(tmp_path / "d.png") as figure:
        assert figure.size[0] > 800
