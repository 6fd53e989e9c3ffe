import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vitctl.errors import ConfigError
from vitctl.patches import patchify_images, unpatchify_images


@st.composite
def grids(draw: st.DrawFn) -> tuple[int, int, int, int, tuple[int, ...]]:
    patch, rows, columns = draw(st.integers(1, 5)), draw(st.integers(1, 4)), draw(st.integers(1, 4))
    return (
        patch,
        rows * patch,
        columns * patch,
        draw(st.sampled_from([1, 3])),
        draw(st.sampled_from([(), (2,), (2, 3)])),
    )


@given(grids())
def test_patches_have_the_papers_order_and_round_trip(grid: tuple[int, int, int, int, tuple[int, ...]]) -> None:
    patch, height, width, channels, lead = grid
    shape = (*lead, height, width, channels)
    images = np.arange(np.prod(shape), dtype=np.int64).reshape(shape)
    patches = patchify_images(images, patch)
    expected = [
        images[..., y : y + patch, x : x + patch, :].reshape(*lead, -1)
        for y in range(0, height, patch)
        for x in range(0, width, patch)
    ]
    assert np.array_equal(patches, np.stack(expected, axis=-2))
    assert np.array_equal(unpatchify_images(patches, height, width, patch), images)
    tensors = patchify_images(torch.from_numpy(images), patch)
    assert torch.equal(tensors, torch.from_numpy(patches))
    assert torch.equal(unpatchify_images(tensors, height, width, patch), torch.from_numpy(images))


@pytest.mark.parametrize(
    ("height", "width", "patch", "end"),
    [
        (224, 230, 16, "the nearest are 224x224 and 224x240"),
        (8, 8, 16, "the nearest are 16x16"),
        (10, 10, 0, "use a patch size above 0"),
    ],
)
def test_a_size_that_is_not_divisible_names_the_nearest(height: int, width: int, patch: int, end: str) -> None:
    expected = f"^patches of {patch} do not divide an image of {height}x{width}; {end}$"
    with pytest.raises(ConfigError, match=expected):
        patchify_images(np.zeros((height, width, 3), np.uint8), patch)


def test_unpatchify_checks_the_image_size() -> None:
    with pytest.raises(ConfigError, match="do not make an image"):
        unpatchify_images(np.zeros((4, 48), np.uint8), 8, 12, 4)
