from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.decomposition import PCA

from vitctl.inspection.filters import components, draw_filters


@pytest.mark.parametrize(("dim", "patch", "channels"), [(192, 4, 3), (40, 8, 1), (20, 2, 4)])
def test_the_same_as_scikit_learn(dim: int, patch: int, channels: int) -> None:
    kernels = np.random.default_rng(0).normal(size=(dim, patch, patch, channels))
    found, shares = components(kernels, 8)
    oracle = PCA(8).fit(kernels.reshape(dim, -1))
    np.testing.assert_allclose(shares, oracle.explained_variance_ratio_, rtol=1e-9)
    cosines = np.abs((found.reshape(8, -1) * oracle.components_).sum(1))
    np.testing.assert_allclose(cosines, 1, atol=1e-6)


def test_signs_do_not_depend_on_chance() -> None:
    kernels = np.random.default_rng(1).normal(size=(64, 4, 4, 3))
    one, other = components(kernels)[0], components(kernels[::-1])[0]
    np.testing.assert_allclose(one[:5], other[:5], atol=1e-8)
    assert (np.abs(one).reshape(28, -1).max(1) == one.reshape(28, -1).max(1)).all()


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_the_figure(channels: int, tmp_path: Path) -> None:
    draw_filters(*components(np.random.default_rng(0).normal(size=(48, 4, 4, channels))), tmp_path / "f.png", "a model")
    with Image.open(tmp_path / "f.png") as figure:
        assert figure.size[0] > 600
