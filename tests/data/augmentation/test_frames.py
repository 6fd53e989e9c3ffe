"""Whole images are squashed to one size and cropped in the coordinates of their originals: beside the originals' crops.

The originals are what every other tool trains from: torchvision's boxes and pixels, timm's evaluation.
"""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import chisquare, ks_2samp
from timm.data import create_transform
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms.functional import center_crop, resize

from vitctl.config.augment import AugmentConfig
from vitctl.config.eval_crop import EvalCrop
from vitctl.data.augmentation.augment import Augment
from vitctl.data.augmentation.frames import Frames, frame_centers, resize_short_side
from vitctl.data.patchifier.decode import Target, decode
from vitctl.workflows.bench.images import photograph

STORED = 352
SHAPES = [(375, 500), (500, 375), (400, 400), (320, 960), (1000, 300)]  # height, width


def original(size: tuple[int, int], seed: int = 0) -> np.ndarray[Any, Any]:
    """A synthetic photo, uint8 [H, W, 3], as soft as cameras make them."""
    photo = photograph(size[1] * 2 // 3, size[0] * 2 // 3, np.random.default_rng(seed))
    return np.array(photo.resize((size[1], size[0]), Image.Resampling.BICUBIC))


def squash(image: np.ndarray[Any, Any], stored: int = STORED) -> np.ndarray[Any, Any]:
    """uint8 [stored, stored, 3], as the patchifier stores it."""
    return decode(image, Target(stored, stored, 3, "whole"))


def cut(frames: Frames, image: np.ndarray[Any, Any], index: int = 0, divisor: int = 1) -> np.ndarray[Any, Any]:
    """As the loader does with a row whose decoder has divided its size."""
    stored = image.shape[0] * divisor, image.shape[1] * divisor
    top, left, height, width = frames.windows(stored, np.full(len(frames.flip), divisor))[index]
    window = image[top : top + height, left : left + width]
    return frames.cut(index, torch.from_numpy(window.copy())).numpy()


def draw(config: AugmentConfig, count: int, size: tuple[int, int], out: int, stored: int = STORED) -> Frames:
    augment = Augment(config, 0, (out, out))
    return augment.frames(np.arange(count), np.zeros(count, int), np.tile(size, (count, 1)), (stored, stored))


def differ(one: Any, other: Any) -> float:
    """The mean difference in grey levels."""
    return float(np.abs(np.asarray(one).astype(int) - np.asarray(other).astype(int)).mean())


@pytest.mark.parametrize("size", SHAPES)
def test_boxes_in_originals_are_those_of_torchvision_over_10000_draws(size: tuple[int, int]) -> None:
    """Stored at the size of the original, where a window is a box of the original."""
    count = 10_000
    augment = Augment(AugmentConfig(crop="random-resized", crop_area=(0.08, 1.0)), 0, (224, 224))
    ours = augment.frames(np.arange(count), np.zeros(count, int), np.tile(size, (count, 1)), size).window
    torch.manual_seed(0)
    image = torch.empty(1, *size)
    theirs = np.array([RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(count)])
    measures: dict[str, Any] = {
        "area": lambda box: box[:, 2] * box[:, 3],
        "ratio": lambda box: np.log(box[:, 3] / box[:, 2]),
        "middle": lambda box: box[:, 0] + box[:, 2] / 2,
        "center": lambda box: box[:, 1] + box[:, 3] / 2,
    }
    for name, measure in measures.items():
        assert ks_2samp(measure(ours), measure(theirs)).statistic < 0.025, name  # 0.0195 is the 95% quantile


@pytest.mark.parametrize("size", SHAPES)
def test_a_crop_has_the_pixels_of_the_crop_of_the_original(size: tuple[int, int]) -> None:
    """Where nothing is enlarged, the mean difference is under 3 grey levels; the boxes are drawn at random."""
    image, out = original(size), 64
    frames = draw(AugmentConfig(crop="random-resized", crop_area=(0.08, 1.0), filter="bicubic"), 40, size, out)
    stored, compared = squash(image), 0
    for index, (top, left, height, width) in enumerate(frames.window):
        if min(height, width) < out:
            continue
        box = np.array([left, top, left + width, top + height]) * np.tile([size[1], size[0]], 2) / STORED
        expected = Image.fromarray(image).resize((out, out), Image.Resampling.BICUBIC, box=tuple(box))
        assert differ(cut(frames, stored, index), expected) < 3
        compared += 1
    assert compared >= 10


@pytest.mark.parametrize("size", [*SHAPES[:3], (360, 640)])
@pytest.mark.parametrize("share", [0.875, 0.9, 1.0])
def test_evaluation_sees_what_timms_does(size: tuple[int, int], share: float) -> None:
    """Resize and center crop of the original at crop_pct, where the stored side is at least the resized one."""
    for seed in range(3):
        image = original(size, seed)
        transform = create_transform(224, interpolation="bicubic", crop_pct=share, mean=(0, 0, 0), std=(1, 1, 1))
        theirs = (transform(Image.fromarray(image)) * 255).round().permute(1, 2, 0)
        ours = cut(frame_centers(np.array([size]), (STORED, STORED), (224, 224), EvalCrop(share=share)), squash(image))
        assert differ(ours, theirs) < 2


@pytest.mark.parametrize("size", [(301, 457), (333, 250), (97, 640), (300, 300)])
def test_a_center_is_placed_as_torchvision_does(size: tuple[int, int]) -> None:
    """Of an original that is stored at its own size."""
    image = original(size)
    for share, resized in ((0.9, 248), (1.0, 224)):
        batch = torch.from_numpy(image)[None].permute(0, 3, 1, 2)
        expected = center_crop(resize(batch, [resized], InterpolationMode.BICUBIC, antialias=True), [224, 224])
        ours = cut(frame_centers(np.array([size]), size, (224, 224), EvalCrop(share=share)), image)
        assert differ(ours, expected[0].permute(1, 2, 0)) < 0.3  # the kernels for other layouts round otherwise


@pytest.mark.parametrize("crop", ["resize-small", "simple"])
def test_windows_are_drawn_in_the_resized_original(crop: Any) -> None:
    """A wide original leaves room along its width only, and each place is alike often."""
    config = AugmentConfig(crop=crop, crop_small=1.0, crop_pad=0)
    frames = draw(config, 4900, (240, 480), 48, 240)
    assert frames.size.tolist() == [[48, 96]] * 4900
    assert not frames.start[:, 0].any()
    assert chisquare(np.bincount(frames.start[:, 1], minlength=49)).pvalue > 0.01


def test_the_simple_crop_is_padded_by_reflection() -> None:
    image = original((12, 12))
    frames = draw(AugmentConfig(crop="simple"), 30, (12, 12), 12, 12)
    padded = np.pad(image, ((4, 4), (4, 4), (0, 0)), mode="reflect")
    for index, (top, left) in enumerate((frames.start + 4).tolist()):
        assert np.array_equal(cut(frames, image, index), padded[top : top + 12, left : left + 12])
    assert len(np.unique(frames.start, axis=0)) > 20


def test_a_flip_is_a_mirror_image() -> None:
    image = original((64, 64))
    plain, flipped = (draw(AugmentConfig(flip=flip), 1, (64, 64), 64, 64) for flip in (0.0, 1.0))
    assert np.array_equal(cut(plain, image), image)
    assert np.array_equal(cut(flipped, image), image[:, ::-1])


def test_a_decoder_divides_only_where_the_window_has_pixels_to_spare() -> None:
    frames = draw(AugmentConfig(crop="random-resized", crop_area=(0.01, 1.0), filter="bicubic"), 500, (300, 400), 40)
    divisors = frames.divisors((STORED, STORED))
    assert set(divisors.tolist()) == {1, 2, 4, 8}
    spare = (frames.window[:, 2:] / frames.size).min(1)
    assert (spare >= np.where(divisors > 1, divisors, 0)).all()
    assert (spare[divisors < 8] < 2 * divisors[divisors < 8]).all()
    assert set(draw(AugmentConfig(crop="inception"), 50, (300, 300), 16, 99).divisors((99, 99)).tolist()) == {1}
    stored = squash(original((300, 400)))
    half = np.asarray(Image.fromarray(stored).resize((STORED // 2, STORED // 2), Image.Resampling.BOX))
    for index in np.flatnonzero((divisors == 2) & ~frames.flip)[:20]:
        top, left, height, width = 2 * frames.windows((STORED, STORED), np.full(500, 2))[index]
        box = (left, top, left + width, top + height)
        expected = Image.fromarray(stored).resize((40, 40), Image.Resampling.BICUBIC, box=box)
        assert differ(cut(frames, half, index, 2), expected) < 3


@pytest.mark.parametrize("law", ["inception", "random-resized"])
def test_windows_stay_inside_whatever_the_shape(law: Any) -> None:
    for size in ((1, 5000), (5000, 1), (2, 2), (7, 900)):
        frames = draw(AugmentConfig(crop=law, crop_area=(0.0001, 1.0)), 300, size, 8, 32)
        for divisor in (1, 2, 4):
            windows = frames.windows((32, 32), np.full(300, divisor))
            assert (windows[:, :2] >= 0).all()
            assert (windows[:, 2:] >= 1).all()
            assert (windows[:, :2] + windows[:, 2:] <= 32 // divisor).all()
        assert cut(frames, squash(original((40, 40)), 32)).shape == (8, 8, 3)


def test_the_short_side_is_resized_to_what_is_asked() -> None:
    sizes = np.array([[100, 40], [40, 100], [40, 40], [333, 500], [1, 7000]])
    assert resize_short_side(sizes, (20, 20)).tolist() == [[50, 20], [20, 50], [20, 20], [20, 30], [20, 140000]]
    assert resize_short_side(sizes[:2], (30, 20)).tolist() == [[50, 20], [30, 75]]
