import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitctl.inspection.similarity import SimilarityPanel, draw_similarities, similarities, tile_table


def table(rows: int, columns: int, width: int = 5) -> np.ndarray:
    return np.random.default_rng(rows * 10 + columns).standard_normal((rows * columns, width)).astype(np.float32)


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(sum(a * b for a, b in zip(one, other, strict=True)) / (math.hypot(*one) * math.hypot(*other)))


@pytest.mark.parametrize("grid", [(1, 1), (2, 3), (4, 2), (3, 3)])
def test_a_tile_is_how_alike_its_position_is_to_all_others(grid: tuple[int, int]) -> None:
    rows, columns = grid
    positions = table(rows, columns)
    sheet = tile_table(positions, grid)
    assert sheet.shape == (rows * rows + rows - 1, columns * columns + columns - 1)
    seen = np.zeros(sheet.shape, bool)
    for row in range(rows):
        for column in range(columns):
            for line in range(rows):
                for place in range(columns):
                    y, x = row * (rows + 1) + line, column * (columns + 1) + place
                    expected = cosine(positions[row * columns + column], positions[line * columns + place])
                    assert sheet[y, x] == pytest.approx(expected, abs=1e-6)
                    seen[y, x] = True
    assert np.isnan(sheet[~seen]).all()
    assert not np.isnan(sheet[seen]).any()


def test_a_position_of_zeros_is_like_nothing() -> None:
    positions = table(2, 2)
    positions[1] = 0
    found = similarities(positions)
    assert (found[1] == 0).all()
    assert found[0, 0] == pytest.approx(1, abs=1e-6)
    assert np.array_equal(found, found.T)


def test_size_does_not_matter() -> None:
    positions = table(2, 3)
    np.testing.assert_allclose(similarities(positions * 1e-4), similarities(positions), atol=1e-6)


def test_the_file_has_a_panel_beside_the_other(tmp_path: Path) -> None:
    panels = [SimilarityPanel("before", table(3, 3), (3, 3)), SimilarityPanel("after", table(4, 6), (4, 6))]
    draw_similarities(panels, tmp_path / "two.png", "Similarity")
    draw_similarities(panels[:1], tmp_path / "one.png", "Similarity")
    with Image.open(tmp_path / "two.png") as two, Image.open(tmp_path / "one.png") as one:
        assert (two.format, two.height) == ("PNG", one.height)
        assert two.width > 1.7 * one.width
        pixels = np.asarray(two.convert("RGB"))
    assert (pixels[:3] == 255).all()
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 300  # colors, not a blank sheet


def test_the_same_positions_are_drawn_in_the_same_colors(tmp_path: Path) -> None:
    """The range of colors is fixed, so that figures can be compared."""
    same = np.ones((4, 3), np.float32)
    draw_similarities([SimilarityPanel("all alike", same, (2, 2))], tmp_path / "alike.png", "One")
    with Image.open(tmp_path / "alike.png") as drawn:
        pixels = np.asarray(drawn.convert("RGB")).reshape(-1, 3)
    top = np.array([253, 231, 37])  # the end of viridis
    assert (np.abs(pixels.astype(int) - top).max(1) < 4).mean() > 0.2
