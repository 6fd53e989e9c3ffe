"""Random boxes beside the libraries whose laws they follow.

TensorFlow's law is restated from tensorflow/core/kernels/image/sample_distorted_bounding_box_op.cc (commit 27b00cb,
GenerateRandomCrop and the loop of Compute), with the arguments of big_vision's pp/ops_image.py:180-185 and
vision_transformer's input_pipeline.py:199-204: area_range 0.05 to 1, min_object_covered 0, and the op's defaults of
aspect_ratio_range, 0.75 to 1.33, and max_attempts, 100.
"""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp, kstest
from torchvision.transforms import RandomResizedCrop

from vitctl.config.augment import PRESETS, AugmentConfig
from vitctl.data.augmentation.augment import Augment
from vitctl.data.augmentation.boxes import LAWS, draw_inception_boxes, draw_resized_boxes
from vitctl.randomness import Draws

COUNT = 10_000
SHAPES = [(224, 224), (375, 500), (500, 333), (240, 960), (1000, 90)]  # height, width
F = np.float32
INCEPTION = PRESETS["inception"]


def draws(count: int = COUNT) -> Draws:
    return Draws(0, 0, np.arange(count))


def sizes(size: tuple[int, int], count: int = COUNT) -> np.ndarray[Any, Any]:
    return np.tile(size, (count, 1))


def tensorflow_try(
    size: tuple[int, int], area: tuple[float, float], ratios: tuple[float, float], shares: Any
) -> tuple[int, ...] | None:
    """One attempt, with four uniform numbers: (top, left, height, width), or None where it fails."""
    rows, columns = size
    ratio = F(shares[0]) * (F(ratios[1]) - F(ratios[0])) + F(ratios[0])
    least, most = F(area[0]) * F(columns) * F(rows), F(area[1]) * F(columns) * F(rows)
    wide = lambda height: int(np.rint(F(height) * ratio))  # noqa: E731
    low, high = int(np.rint(np.sqrt(least / ratio))), int(np.rint(np.sqrt(most / ratio)))
    if wide(high) > columns:
        high = int((columns + 0.5 - F(1e-7)) / ratio)
        if wide(high) > columns:
            high -= 1
    high = min(high, rows)
    height = min(low, high)
    if height < high:
        height += int(float(shares[1]) * (high - height + 1))
    if F(height * wide(height)) < least:
        height += 1
    if F(height * wide(height)) > most:
        height -= 1
    width = wide(height)
    if not (least <= F(height * width) <= most) or width > columns or height > rows or width <= 0 or height <= 0:
        return None
    top = int(float(shares[2]) * (rows - height)) if height < rows else 0
    left = int(float(shares[3]) * (columns - width)) if width < columns else 0
    return top, left, height, width


def tensorflow_box(size: tuple[int, int], area: tuple[float, float], tries: Any) -> tuple[int, ...]:
    for shares in tries:
        box = tensorflow_try(size, area, (0.75, 1.33), shares)
        if box:
            return box
    return 0, 0, *size


MEASURES: dict[str, Any] = {
    "area": lambda box: box[:, 2] * box[:, 3],
    "ratio": lambda box: np.log(box[:, 3] / box[:, 2]),
    "top": lambda box: box[:, 0],
    "left": lambda box: box[:, 1],
    "middle": lambda box: box[:, 0] + box[:, 2] / 2,
    "center": lambda box: box[:, 1] + box[:, 3] / 2,
}


@pytest.mark.parametrize("size", SHAPES)
def test_10000_inception_boxes_are_distributed_as_tensorflows(size: tuple[int, int]) -> None:
    random = np.random.default_rng(1)
    theirs = np.array([tensorflow_box(size, (0.05, 1.0), (random.random(4) for _ in range(100))) for _ in range(COUNT)])
    ours = draw_inception_boxes(INCEPTION, draws(), sizes(size))
    for name, measure in MEASURES.items():
        assert ks_2samp(measure(ours), measure(theirs)).statistic < 0.025, name  # 0.0192 is the 95% quantile
    assert MEASURES["area"](ours).mean() == pytest.approx(MEASURES["area"](theirs).mean(), rel=0.02)


@pytest.mark.parametrize("area", [(0.05, 1.0), (0.3, 0.31), (0.5, 1.0)])
@pytest.mark.parametrize("size", [*SHAPES, (7, 5), (1, 40)])
def test_an_inception_box_is_tensorflows_of_the_same_draws(size: tuple[int, int], area: tuple[float, float]) -> None:
    config, count = AugmentConfig(crop="inception", crop_area=area), 400
    tries = np.stack([draws(count).uniform(f"inception-{attempt}", 4) for attempt in range(100)], axis=1)
    theirs = [tensorflow_box(size, area, own) for own in tries]
    assert draw_inception_boxes(config, draws(count), sizes(size, count)).tolist() == np.array(theirs).tolist()


def test_the_two_laws_differ_as_measured() -> None:
    """Of squares at 0.05 to 1: TensorFlow's crops are smaller."""
    configs = {law: AugmentConfig(crop=law, crop_area=(0.05, 1.0)) for law in LAWS}  # type: ignore[arg-type]
    one, other = (MEASURES["area"](LAWS[law](configs[law], draws(), sizes((224, 224)))) / 224**2 for law in LAWS)
    assert (one.mean(), other.mean()) == (pytest.approx(0.376, abs=0.01), pytest.approx(0.463, abs=0.01))
    assert ((one < 0.2).mean(), (other < 0.2).mean()) == (pytest.approx(0.32, abs=0.01), pytest.approx(0.18, abs=0.01))


def test_the_law_of_a_square_is_that_of_a_whole_image_of_its_size() -> None:
    """Both ways of training cut the same boxes: squares in the batch, whole images in their own coordinates."""
    rows = np.arange(COUNT)
    frames = Augment(INCEPTION, 0, (64, 64)).frames(rows, np.zeros_like(rows), sizes((224, 224)), (224, 224))
    assert np.array_equal(frames.window, draw_inception_boxes(INCEPTION, draws(), sizes((224, 224))))


def test_where_no_attempt_fits_tensorflow_takes_the_whole_image() -> None:
    boxes = draw_inception_boxes(
        AugmentConfig(crop="inception", crop_area=(0.9, 1.0)), draws(50), sizes((100, 400), 50)
    )
    assert boxes.tolist() == [[0, 0, 100, 400]] * 50


def test_boxes_do_not_depend_on_their_batch() -> None:
    config = AugmentConfig(crop="inception", crop_area=(0.441, 1.0))
    size = np.array([[100, 300], [300, 100], [90, 270], [64, 64]] * 50)
    whole = draw_inception_boxes(config, draws(200), size)
    assert (whole[:, 2:] == size).all(1).any()  # so that some rows need many attempts
    parts = [draw_inception_boxes(config, Draws(0, 0, np.array([row])), size[row : row + 1])[0] for row in range(200)]
    assert np.array_equal(whole, parts)


@pytest.mark.parametrize("law", list(LAWS))
@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (2, 3)])
def test_boxes_stay_inside_of_any_image(law: str, size: tuple[int, int]) -> None:
    boxes = LAWS[law](AugmentConfig(crop_area=(0.0001, 1.0)), draws(500), sizes(size, 500))
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] > 0).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= np.array(size) + 1e-9).all()


@pytest.mark.parametrize("size", [(600, 600), (500, 1100)])
def test_resized_boxes_are_those_of_torchvision(size: tuple[int, int]) -> None:
    ours = draw_resized_boxes(
        AugmentConfig(crop="random-resized", crop_area=(0.05, 1.0)), draws(4000), sizes(size, 4000)
    )
    torch.manual_seed(0)
    image = torch.empty(1, *size)
    theirs = np.array([RandomResizedCrop.get_params(image, [0.05, 1.0], [3 / 4, 4 / 3]) for _ in range(4000)])
    for name in ("area", "ratio", "top", "left"):
        assert ks_2samp(MEASURES[name](ours), MEASURES[name](theirs)).pvalue > 0.001, name


def test_resized_areas_and_ratios_are_uniform_where_all_fit() -> None:
    config = AugmentConfig(crop_area=(0.05, 0.5), crop_ratio=(0.75, 4 / 3))
    top, left, height, width = draw_resized_boxes(config, draws(4000), sizes((300, 300), 4000)).T
    assert kstest((height * width / 90000 - 0.05) / 0.45, "uniform").pvalue > 0.01
    assert kstest((np.log(width / height) - np.log(0.75)) / np.log(16 / 9), "uniform").pvalue > 0.01
    assert kstest(top / (300 - height), "uniform").pvalue > 0.01
    assert kstest(left / (300 - width), "uniform").pvalue > 0.01


def test_where_no_box_fits_the_resized_crop_is_the_largest_in_the_center() -> None:
    config = AugmentConfig(crop="random-resized", crop_area=(1.0, 1.0))
    boxes = draw_resized_boxes(config, draws(5), sizes((100, 400), 5))
    assert np.allclose(boxes, [0, (400 - 400 / 3) / 2, 100, 400 / 3])
