from pathlib import Path

import numpy as np
from PIL import Image

from vitctl.inspection.layers import alignments, draw_alignments, draw_worth


def features(seed: int, rows: int = 60, dim: int = 20) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, dim))


def test_the_same_features_are_wholly_alike_however_they_are_turned_and_scaled() -> None:
    one = features(0)
    turn, _ = np.linalg.qr(features(1, 20))
    found = alignments([one, 3 * one @ turn, one + 5])
    np.testing.assert_allclose(found[0, 1], 1, atol=1e-9)
    np.testing.assert_allclose(np.diag(found), 1)
    np.testing.assert_allclose(found[0, 2], 1, atol=1e-6)  # a shift is not seen: it is centered


def test_features_that_have_nothing_to_do_with_each_other_are_not_alike_even_for_few_images() -> None:
    """What the plain estimate gets wrong: with more features than images it says 0.7."""
    found = [alignments([features(2 * seed, 30, 200), features(2 * seed + 1, 30, 200)])[0, 1] for seed in range(40)]
    assert abs(float(np.mean(found))) < 0.02


def test_by_definition() -> None:
    """HSIC by its sum over four different images (Song et al. 2012), written out."""
    one, other = features(5, 7, 3), features(6, 7, 4)
    k, m = one @ one.T, other @ other.T
    rows = range(7)
    quadruples = [(a, b, c, d) for a in rows for b in rows for c in rows for d in rows if len({a, b, c, d}) == 4]

    def hsic(x: np.ndarray, y: np.ndarray) -> float:
        return float(np.mean([x[a, b] * (y[a, b] + y[c, d] - 2 * y[a, c]) for a, b, c, d in quadruples]))

    wanted = hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))
    np.testing.assert_allclose(alignments([one, other])[0, 1], wanted, rtol=1e-9)


def test_the_figures(tmp_path: Path) -> None:
    draw_alignments(alignments([features(seed) for seed in range(25)]), tmp_path / "c.png", "a model")
    draw_worth([0.1, 0.4, 0.6], tmp_path / "w.png", "a model", 10, 0.1)
    for name in ("c.png", "w.png"):
        assert np.asarray(Image.open(tmp_path / name).convert("L")).std() > 10
