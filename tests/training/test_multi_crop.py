import pytest
import torch
from torch import nn

from vitctl.training.multi_crop import MultiCrop, cut_corners


class Mean(nn.Module):
    """Logits that are the mean of each channel: what a crop holds can be told from its answer."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.float().mean((1, 2))


def test_the_center_and_the_corners() -> None:
    places = torch.arange(64).reshape(1, 8, 8, 1)
    firsts = [int(each[0, 0, 0, 0]) for each in cut_corners(places)]
    assert firsts == [0, 0, 1, 8, 9]
    assert {tuple(each.shape) for each in cut_corners(places)} == {(1, 7, 7, 1)}
    assert [int(each[0, 0, 0, 0]) for each in cut_corners(torch.arange(256).reshape(1, 16, 16, 1))] == [
        17,
        0,
        2,
        32,
        34,
    ]


@pytest.mark.parametrize("count", [5, 10])
def test_probabilities_are_averaged(count: int) -> None:
    pixels = torch.randint(0, 5, (3, 16, 16, 4), dtype=torch.uint8)
    model = MultiCrop(Mean(), lambda each: each, (14, 14), count)
    looks = model.make_crops(pixels)
    assert len(looks) == count
    chances = torch.stack([Mean()(each).softmax(1) for each in looks]).mean(0)
    torch.testing.assert_close(model(pixels).exp(), chances)
    torch.testing.assert_close(model(pixels).exp().sum(1), torch.ones(3))


def test_mirror_images() -> None:
    pixels = torch.randint(0, 255, (1, 8, 8, 3), dtype=torch.uint8)
    looks = MultiCrop(Mean(), lambda each: each, (7, 7), 10).make_crops(pixels)
    for plain, mirrored in zip(looks[:5], looks[5:], strict=True):
        assert torch.equal(plain.flip(2), mirrored)
