"""Random boxes of an image, by the laws of two libraries.

    inception         TensorFlow's sample_distorted_bounding_box, which big_vision and vision_transformer call
    random-resized    torchvision's RandomResizedCrop, and timm's

They differ: TensorFlow draws the height uniformly, which makes small areas more likely; torchvision draws the area.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from vitctl.config.augment import AugmentConfig
from vitctl.randomness import Draws

ATTEMPTS = 10  # random boxes to try, as in torchvision and timm
TF_ATTEMPTS = 100  # as in tf.image.sample_distorted_bounding_box

Ints = np.ndarray[Any, np.dtype[np.int64]]


def draw_inception_boxes(config: AugmentConfig, draws: Draws, size: Ints) -> np.ndarray:
    """float64 [B, 4]: top, left, height and width, in whole pixels, of boxes in images of `size` [B, 2].

    If no attempt fits, the whole image.
    """
    boxes, left = np.concatenate([np.zeros_like(size), size], axis=1), np.arange(len(size))
    for attempt in range(TF_ATTEMPTS):
        some = Draws(draws.seed, draws.epochs[left], draws.samples[left])
        found, fits = try_inception_box(config, some.uniform(f"inception-{attempt}", 4), size[left])
        boxes[left[fits]] = found[fits]
        left = left[~fits]
        if not len(left):
            break
    return boxes.astype(np.float64)


def try_inception_box(config: AugmentConfig, shares: np.ndarray, size: Ints) -> tuple[Ints, np.ndarray]:
    """Boxes [B, 4] from uniform float32 [B, 4], and whether they fit [B]. Float32 where TensorFlow's kernel has it."""
    low, high = np.array(config.ratio, np.float32)
    ratios, (heights, widths) = shares[:, 0] * (high - low) + low, size.T
    least, most = (np.float32(limit) * widths.astype(np.float32) * heights for limit in config.crop_area)
    lowest, highest = (np.rint(np.sqrt(area / ratios)).astype(np.int64) for area in (least, most))
    highest = np.minimum(
        np.where(round_width(highest, ratios) > widths, tallest_within(widths, ratios), highest), heights
    )
    lowest = np.minimum(lowest, highest)
    height = lowest + np.floor(shares[:, 1].astype(np.float64) * (highest - lowest + 1)).astype(np.int64)
    height += round_area(height, ratios) < least  # just outside of the limits: a row more, or a row less
    height -= round_area(height, ratios) > most
    width, area = round_width(height, ratios), round_area(height, ratios)
    fits = (area >= least) & (area <= most) & (width <= widths) & (height <= heights) & (area > 0)
    chosen = np.stack([height, width], axis=1)
    start = np.floor(shares[:, 2:].astype(np.float64) * (size - chosen)).astype(np.int64)  # never the last place
    return np.concatenate([start, chosen], axis=1), fits


def round_width(height: Ints, ratios: np.ndarray) -> Ints:
    width: Ints = np.rint(height.astype(np.float32) * ratios).astype(np.int64)
    return width


def round_area(height: Ints, ratios: np.ndarray) -> np.ndarray:
    return (height * round_width(height, ratios)).astype(np.float32)


def tallest_within(widths: Ints, ratios: np.ndarray) -> Ints:
    """The largest heights whose width is not above `widths`."""
    height: Ints = np.floor((widths + 0.5 - 1e-7) / ratios).astype(np.int64)
    return height - (round_width(height, ratios) > widths).astype(np.int64)


def draw_resized_boxes(config: AugmentConfig, draws: Draws, size: Ints) -> np.ndarray:
    """float64 [B, 4]: top, left, height and width, of random area and ratio. If none fits, a large center crop."""
    heights, widths = size.T
    shares = uniform_between(config.crop_area, draws.uniform("crop-area", ATTEMPTS))  # [B, ATTEMPTS]
    areas = shares * heights[:, None] * widths[:, None]
    ratios = log_uniform_between(config.ratio, draws.uniform("crop-ratio", ATTEMPTS))
    sides = np.stack([np.sqrt(areas / ratios), np.sqrt(areas * ratios)], axis=-1)  # [B, ATTEMPTS, 2]
    fits = np.all(sides <= size[:, None], axis=-1)
    low, high = config.ratio
    # the largest box within the allowed ratios
    whole = np.stack([np.minimum(heights, widths / low), np.minimum(widths, heights * high)], axis=1)
    any_fits = fits.any(axis=1)[:, None]
    chosen = np.where(any_fits, pick_first_fit(sides, fits), whole)  # [B, 2]
    places = np.where(any_fits, draws.uniform("crop-place", 2), 0.5)
    return np.concatenate([places * (size - chosen), chosen], axis=1)


def pick_first_fit(options: np.ndarray, fits: np.ndarray) -> np.ndarray:
    """Of the options [B, ATTEMPTS, ..], the first that fits, or the first one if none does: [B, ..]."""
    chosen: np.ndarray = options[np.arange(len(options)), fits.argmax(axis=1)]
    return chosen


def uniform_between(limits: tuple[float, float], shares: np.ndarray) -> np.ndarray:
    return limits[0] + (limits[1] - limits[0]) * shares.astype(np.float64)


def log_uniform_between(limits: tuple[float, float], shares: np.ndarray) -> np.ndarray:
    values: np.ndarray = np.exp(uniform_between((math.log(limits[0]), math.log(limits[1])), shares))
    return values


LAWS: dict[str, Callable[[AugmentConfig, Draws, Ints], np.ndarray]] = {
    "inception": draw_inception_boxes,
    "random-resized": draw_resized_boxes,
}
