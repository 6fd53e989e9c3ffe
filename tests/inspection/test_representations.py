import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.decomposition import PCA

from vitctl.inspection.representations import (
    SimilarityPanel,
    alignments,
    components,
    draw_alignments,
    draw_distances,
    draw_filters,
    draw_similarities,
    draw_worth,
    mean_distances,
    pixel_distances,
    similarities,
    tile_table,
    uniform_distance,
)


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
    inside = np.zeros(sheet.shape, bool)
    for row in range(rows):
        for column in range(columns):
            for line in range(rows):
                for place in range(columns):
                    y, x = row * (rows + 1) + line, column * (columns + 1) + place
                    expected = cosine(positions[row * columns + column], positions[line * columns + place])
                    assert sheet[y, x] == pytest.approx(expected, abs=1e-6)
                    inside[y, x] = True
    assert np.isnan(sheet[~inside]).all()
    assert not np.isnan(sheet[inside]).any()


def test_a_position_of_zeros_is_like_nothing() -> None:
    positions = table(2, 2)
    positions[1] = 0
    cosines = similarities(positions)
    assert (cosines[1] == 0).all()
    assert cosines[0, 0] == pytest.approx(1, abs=1e-6)
    assert np.array_equal(cosines, cosines.T)


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


@pytest.mark.parametrize(("dim", "patch", "channels"), [(192, 4, 3), (40, 8, 1), (20, 2, 4)])
def test_the_same_as_scikit_learn(dim: int, patch: int, channels: int) -> None:
    kernels = np.random.default_rng(0).normal(size=(dim, patch, patch, channels))
    parts, shares = components(kernels, 8)
    oracle = PCA(8).fit(kernels.reshape(dim, -1))
    np.testing.assert_allclose(shares, oracle.explained_variance_ratio_, rtol=1e-9)
    cosines = np.abs((parts.reshape(8, -1) * oracle.components_).sum(1))
    np.testing.assert_allclose(cosines, 1, atol=1e-6)


def test_signs_do_not_depend_on_chance() -> None:
    kernels = np.random.default_rng(1).normal(size=(64, 4, 4, 3))
    one, other = components(kernels)[0], components(kernels[::-1])[0]
    np.testing.assert_allclose(one[:5], other[:5], atol=1e-8)
    assert (np.abs(one).reshape(28, -1).max(1) == one.reshape(28, -1).max(1)).all()


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_the_figure_of_filters(channels: int, tmp_path: Path) -> None:
    draw_filters(*components(np.random.default_rng(0).normal(size=(48, 4, 4, channels))), tmp_path / "f.png", "a model")
    with Image.open(tmp_path / "f.png") as figure:
        assert figure.size[0] > 600


@pytest.mark.parametrize(
    ("grid", "reach", "pixels"),
    [((14, 14), 16, 116.4922), ((7, 7), 32, 115.5029), ((16, 16), 14, 116.5651), ((24, 24), 16, 200.0480)],
)
def test_uniform_attention(grid: tuple[int, int], reach: int, pixels: float) -> None:
    assert uniform_distance(grid, reach) == pytest.approx(pixels, abs=5e-5)
    count = grid[0] * grid[1]
    attention = torch.full((1, 2, count, count), 1 / count)
    distances = mean_distances(attention, pixel_distances(grid, reach), prefix=0)
    assert distances.tolist() == [[pytest.approx(pixels, abs=5e-4)] * 2]


def test_the_class_token_is_dropped_and_the_rest_not_normalized_again() -> None:
    attention = torch.full((1, 1, 197, 197), 1 / 197)
    distances = mean_distances(attention, pixel_distances((14, 14), 16), prefix=1)
    assert float(distances) == pytest.approx(115.9009, abs=1e-3)
    registers = torch.full((1, 1, 201, 201), 1 / 201)
    distances = mean_distances(registers, pixel_distances((14, 14), 16), prefix=5)
    assert float(distances) == pytest.approx(116.4922 * 196 / 201, abs=1e-3)


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


def test_the_figure_of_distances(tmp_path: Path) -> None:
    draw_distances(np.random.default_rng(0).uniform(20, 90, (12, 3)), 80.0, [str(n) for n in range(12)],
                   tmp_path / "d.png", "a model")  # fmt: skip
    with Image.open(tmp_path / "d.png") as figure:
        assert figure.size[0] > 800


def features(seed: int, rows: int = 60, dim: int = 20) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, dim))


def test_the_same_features_are_wholly_alike_however_they_are_turned_and_scaled() -> None:
    one = features(0)
    turn, _ = np.linalg.qr(features(1, 20))
    cka = alignments([one, 3 * one @ turn, one + 5])
    np.testing.assert_allclose(cka[0, 1], 1, atol=1e-9)
    np.testing.assert_allclose(np.diag(cka), 1)
    np.testing.assert_allclose(cka[0, 2], 1, atol=1e-6)  # a shift is not seen: it is centered


def test_features_that_have_nothing_to_do_with_each_other_are_not_alike_even_for_few_images() -> None:
    """What the plain estimate gets wrong: with more features than images it says 0.7."""
    cka = [alignments([features(2 * seed, 30, 200), features(2 * seed + 1, 30, 200)])[0, 1] for seed in range(40)]
    assert abs(float(np.mean(cka))) < 0.02


def test_by_definition() -> None:
    """HSIC by its sum over four different images (Song et al. 2012), written out."""
    one, other = features(5, 7, 3), features(6, 7, 4)
    k, m = one @ one.T, other @ other.T
    rows = range(7)
    quadruples = [(a, b, c, d) for a in rows for b in rows for c in rows for d in rows if len({a, b, c, d}) == 4]

    def hsic(x: np.ndarray, y: np.ndarray) -> float:
        return float(np.mean([x[a, b] * (y[a, b] + y[c, d] - 2 * y[a, c]) for a, b, c, d in quadruples]))

    expected = hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))
    np.testing.assert_allclose(alignments([one, other])[0, 1], expected, rtol=1e-9)


def test_the_figures_of_layers(tmp_path: Path) -> None:
    draw_alignments(alignments([features(seed) for seed in range(25)]), tmp_path / "c.png", "a model")
    draw_worth([0.1, 0.4, 0.6], tmp_path / "w.png", "a model", 10, 0.1)
    for name in ("c.png", "w.png"):
        assert np.asarray(Image.open(tmp_path / name).convert("L")).std() > 10
