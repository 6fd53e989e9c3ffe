"""What is asked of a hidden patch, by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vitctl.config.masking import MaskingConfig
from vitctl.training.targets import (
    class_colors,
    color_classes,
    color_outputs,
    downsample_colors,
    mean_colors,
    normalize_patches,
)


def patch(picture: object) -> torch.Tensor:
    """[P, P, C] as one patch of one image, [1, 1, P*P*C]."""
    return torch.as_tensor(np.asarray(picture, np.uint8)).reshape(1, 1, -1)


def test_colors_are_numbered_red_first() -> None:
    plain = MaskingConfig()
    for color, wanted in (((255, 0, 0), 7 * 64), ((0, 255, 0), 7 * 8), ((0, 0, 255), 7), ((32, 31, 96), 64 + 3)):
        assert mean_colors(patch(np.tile(color, (4, 4, 1))), 3, plain).tolist() == [[[wanted]]]


def test_the_mean_decides_and_not_a_single_pixel() -> None:
    half = np.zeros((4, 4, 3))
    half[:2] = 255  # 127.5 on the average: the fourth part of eight
    assert mean_colors(patch(half), 3, MaskingConfig()).item() == 3 * 64 + 3 * 8 + 3
    assert mean_colors(patch(half), 3, MaskingConfig(bits=1)).item() == 0
    half[2, 0] = 255  # and now it is above the middle
    assert mean_colors(patch(half), 3, MaskingConfig(bits=1)).item() == 7


def test_a_drawn_patch_made_smaller() -> None:
    """Sixteen areas, line by line."""
    drawn = np.kron(np.arange(16).reshape(4, 4) * 16, np.ones((4, 4)))[..., None].repeat(3, -1)
    levels = [number * 16 // 32 for number in range(16)]
    assert downsample_colors(patch(drawn), 3, MaskingConfig()).flatten().tolist() == [level * 73 for level in levels]


def test_areas_of_a_patch_that_four_does_not_divide() -> None:
    found = downsample_colors(patch(np.full((14, 14, 3), 200)), 3, MaskingConfig())
    assert found.flatten().tolist() == [6 * 73] * 16


@pytest.mark.parametrize(("channels", "ways"), [(1, (1, 8)), (3, (1, 512)), (4, (1, 4096)), (6, (6, 8))])
def test_any_number_of_channels(channels: int, ways: tuple[int, int]) -> None:
    assert color_outputs(channels, 3) == ways
    found = mean_colors(patch(np.full((2, 2, channels), 255)), channels, MaskingConfig())
    assert found.shape == (1, 1, ways[0])
    assert (found == ways[1] - 1).all()


@given(st.lists(st.integers(0, 255), min_size=3, max_size=3), st.integers(1, 8))
def test_the_color_of_a_class_is_near_the_color(color: list[int], bits: int) -> None:
    one = torch.tensor(color).float()
    there = class_colors(color_classes(one, bits), 3, bits)
    assert (there - one).abs().max() <= 128 / 2**bits
    assert torch.equal(color_classes(there.floor(), bits), color_classes(one, bits))


def test_classes_come_from_bytes_and_differ() -> None:
    """Made of normalized values they would all be the same: the bug of a public implementation."""
    pixels = torch.randint(0, 256, (8, 16, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pixels[:, ::2] //= 4
    assert len(mean_colors(pixels, 3, MaskingConfig()).unique()) > 5


def test_patches_are_normalized_as_mae_does() -> None:
    values = torch.tensor([[[1.0, 2.0, 3.0, 6.0], [5.0, 5.0, 5.0, 5.0]]])
    found = normalize_patches(values)
    wanted = (values[0, 0] - 3) / (values[0, 0].var(unbiased=True) + 1e-6).sqrt()
    torch.testing.assert_close(found[0, 0], wanted)
    assert found[0, 1].tolist() == [0.0] * 4  # of one color: finite
