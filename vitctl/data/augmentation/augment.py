"""Augments whole batches of images, on the device that holds them.

The augmentation of an image is a function of (seed, epoch, sample). Random choices are made on the CPU, so that they
are the same for every device and the CPU never waits for the device. No operation mixes samples.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import torch

from vitctl.config.augment import AugmentConfig
from vitctl.data.augmentation.boxes import ATTEMPTS, LAWS, log_uniform_between, pick_first_fit, uniform_between
from vitctl.data.augmentation.frames import Frames, frame_boxes, frame_centers, frame_whole, resize_short_side
from vitctl.data.augmentation.operations import HIGHEST, SPACES, apply, box_mask
from vitctl.data.augmentation.resampling import Axis, reflect, resample, to_device
from vitctl.randomness import Draws

ERASE_RATIO = (0.3, 1 / 0.3)  # height / width, as in arXiv 1708.04896
BLUR_SIGMA = (0.1, 2.0)  # pixels, as in DeiT III
HALF = 128  # threshold of solarize, as in DeiT III


class Augment:
    def __init__(
        self,
        config: AugmentConfig,
        seed: int,
        res: tuple[int, int] | None = None,
        mean: Sequence[float] = (0.5,),
        std: Sequence[float] = (0.5,),
    ) -> None:
        """`res`: height and width of the result, if they differ from those of the images. `mean` and `std`, of each
        channel or of all, are those of the pixels' normalization, in which erasing draws."""
        self.config, self.seed, self.res, self.mean, self.std = config, seed, res, mean, std

    def __call__(
        self, images: torch.Tensor, epoch: int | torch.Tensor, samples: torch.Tensor, cropped: bool = False
    ) -> torch.Tensor:
        """uint8 [B, H, W, C] -> uint8 [B, h, w, C]; float32 with erasing, whose noise may lie outside of 0 to 255.

        Keep `samples` [B], and `epoch` if it is [B], on the CPU, where they are read. `cropped` images are the frames
        of whole ones, already.
        """
        epochs = epoch.cpu().numpy() if isinstance(epoch, torch.Tensor) else epoch
        draws = Draws(self.seed, epochs, samples.cpu().numpy())
        config, res = self.config, self.res or (images.shape[1], images.shape[2])
        pixels = images.permute(0, 3, 1, 2)
        if not cropped:
            pixels = crop_and_resize(config, draws, pixels, res)  # [B, C, h, w]
        for layer in range(config.randaug_layers):
            pixels = apply(pixels, *randaug(config, draws, layer))
        if config.three:
            pixels = apply(pixels, *three(draws))
        for choice in jitter(config, draws):
            pixels = apply(pixels, *choice)
        if config.grayscale:
            gray = draws.uniform("grayscale")[:, 0] < config.grayscale
            pixels = apply(pixels, np.where(gray, "grayscale", "identity"), np.zeros(len(gray)))
        if config.erase:
            pixels = erase(config, draws, pixels, self.mean, self.std)
        return pixels.permute(0, 2, 3, 1).contiguous()

    def frames(self, rows: np.ndarray, epochs: np.ndarray, sizes: np.ndarray, stored: tuple[int, int]) -> Frames:
        """The crops and flips of whole images, stored at one size, whose originals have `sizes` [B, 2]."""
        return draw_frames(self.config, Draws(self.seed, epochs, rows), sizes, stored, self.res or stored)


# --- crop and resize -------------------------------------------------------------------------------------------------


def draw_frames(
    config: AugmentConfig, draws: Draws, sizes: np.ndarray, stored: tuple[int, int], res: tuple[int, int]
) -> Frames:
    """As the originals would be cropped; without crops, the centers."""
    flips = draws.uniform("flip")[:, 0] < config.flip  # [B]
    if config.crop == "none":
        return replace(frame_centers(sizes, stored, res), flip=flips, filter=config.kernel)
    if config.crop in LAWS:
        window = frame_boxes(LAWS[config.crop](config, draws, sizes), sizes, stored)
        size = np.tile(np.array(res), (len(sizes), 1))
        return Frames(window, size, np.zeros_like(size), flips, res, config.kernel)
    small, pad = (1.0, config.crop_pad) if config.crop == "simple" else (config.crop_small, 0)
    size = resize_short_side(sizes, (round(res[0] * small), round(res[1] * small)))
    room = size + 2 * pad - np.array(res) + 1
    start = np.floor(draws.uniform("crop-place", 2).astype(np.float64) * room).astype(np.int64) - pad
    return Frames(frame_whole(sizes, stored), size, start, flips, res, config.kernel)


def crop_and_resize(config: AugmentConfig, draws: Draws, images: torch.Tensor, res: tuple[int, int]) -> torch.Tensor:
    """Crop, flip and resize: [B, C, H, W] -> [B, C, h, w]."""
    height, width = images.shape[-2:]
    flips = draws.uniform("flip")[:, 0] < config.flip  # [B]
    if config.crop == "none" and res == (height, width):
        if not config.flip:
            return images
        flags = to_device(flips, images.device)[:, None, None, None]
        return torch.where(flags, images.flip(-1), images)
    rows, columns = draw_frame(config, draws, (height, width), res)
    return resample(images, rows, columns.flip(flips), config.kernel)


def draw_frame(config: AugmentConfig, draws: Draws, size: tuple[int, int], res: tuple[int, int]) -> tuple[Axis, Axis]:
    """Where the rows and columns of the crops, at resolution `res`, lie in images of `size`."""
    if config.crop in LAWS:
        top, left, height, width = LAWS[config.crop](config, draws, np.tile(size, (len(draws.samples), 1))).T
        return Axis.box(top, height, res[0]), Axis.box(left, width, res[1])
    places = draws.uniform("crop-place", 2).astype(np.float64)  # [B, 2]
    if config.crop == "none":
        start = np.zeros(len(places))
        return Axis.box(start, start + size[0], res[0]), Axis.box(start, start + size[1], res[1])
    simple = config.crop == "simple"
    pace = min(size[0] / res[0], size[1] / res[1]) / (1.0 if simple else config.crop_small)
    pad = config.crop_pad if simple else 0
    rows = draw_window(places[:, 0], grow_side(size[0], pace, res[0]), res[0], pad)
    columns = draw_window(places[:, 1], grow_side(size[1], pace, res[1]), res[1], pad)
    paces = np.full(len(places), pace)
    return Axis.pick(rows, paces), Axis.pick(columns, paces)


def grow_side(size: int, pace: float, res: int) -> int:
    return max(res, math.floor(size / pace + 1e-6))  # 1e-6: a quotient of floats may fall just short


def draw_window(places: np.ndarray, size: int, out: int, pad: int) -> np.ndarray:
    """int64 [B, out]: `out` consecutive ones of `size` pixels, with `pad` reflected pixels at each border."""
    start = np.floor(places * (size + 2 * pad - out + 1)).astype(np.int64) - pad
    return reflect(start[:, None] + np.arange(out), size)


# --- the operation of each image -------------------------------------------------------------------------------------

Choice = tuple[np.ndarray, np.ndarray]  # names [B], strengths [B]


def randaug(config: AugmentConfig, draws: Draws, layer: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Names [B], strengths [B], and places [B, 2] for the operations that use one."""
    scales = SPACES[config.randaug_space]
    purpose = f"randaug-{layer}"
    names = np.array(list(scales))[draws.integers(f"{purpose}-name", len(scales))[:, 0]]
    level = config.randaug_magnitude + config.randaug_std * draws.normal(f"{purpose}-level")[:, 0]
    level = np.clip(level / 10, 0, HIGHEST[config.randaug_space])
    sign = np.where(draws.uniform(f"{purpose}-sign")[:, 0] < 0.5, -1, 1)
    strengths = np.zeros(len(names))
    for name, scale in scales.items():
        strengths = np.where(names == name, scale(level, sign), strengths)
    skipped = draws.uniform(f"{purpose}-use")[:, 0] >= config.randaug_probability
    return np.where(skipped, "identity", names), strengths, draws.uniform(f"{purpose}-place", 2)


def three(draws: Draws) -> Choice:
    """DeiT III's three-augment: grayscale, solarize or blur."""
    names = np.array(["grayscale", "solarize", "blur"])[draws.integers("three-name", 3)[:, 0]]
    sigmas = uniform_between(BLUR_SIGMA, draws.uniform("three-sigma")[:, 0])
    return names, np.where(names == "solarize", HALF, sigmas)


def jitter(config: AugmentConfig, draws: Draws) -> list[Choice]:
    """Color jitter: every change once per image, in a random order for each image."""
    names = ("brightness", "contrast", "color", "hue")
    amounts = (config.brightness, config.contrast, config.saturation, config.hue)
    changes = {name: amount for name, amount in zip(names, amounts, strict=True) if amount}
    if not changes:
        return []
    spread = (2 * draws.uniform("jitter-factor", len(changes)) - 1) * list(changes.values())  # [B, changes]
    strengths = np.where(np.array(list(changes)) == "hue", spread, np.maximum(0, 1 + spread))
    order = draws.uniform("jitter-order", len(changes)).argsort(1, kind="stable")
    return [(np.array(list(changes))[turn], strengths[np.arange(len(turn)), turn]) for turn in order.T]


# --- random erasing --------------------------------------------------------------------------------------------------


def erase(
    config: AugmentConfig, draws: Draws, pixels: torch.Tensor, mean: Sequence[float], std: Sequence[float]
) -> torch.Tensor:
    """Fills a box of some images [B, C, h, w] with noise: all bytes alike often, as in arXiv 1708.04896, or N(0, 1)
    after the normalization, as in timm's RandomErasing."""
    if config.erase_fill == "normal":
        pixels = pixels.float()  # also without a box: the type is that of all batches
    boxes = erase_boxes(config, draws, pixels.shape[2], pixels.shape[3])  # [B, 4]
    rows = np.flatnonzero((draws.uniform("erase")[:, 0] < config.erase) & (boxes[:, 2] > boxes[:, 0]))
    if not len(rows):
        return pixels
    index = to_device(rows, pixels.device)
    own = [to_device(keys[rows], pixels.device) for keys in (draws.epochs, draws.samples)]
    erased = pixels[index]
    noise = draw_noise(config, Draws(draws.seed, *own), erased[0].numel()).view_as(erased)
    if config.erase_fill == "normal":
        scale, shift = (pixels.new_tensor(each).mul(255).view(-1, 1, 1) for each in (std, mean))
        noise = noise.mul(scale).add_(shift)  # two roundings in every batch
    result = pixels.clone()
    result[index] = torch.where(box_mask(boxes[rows], erased.shape[2], erased.shape[3], erased.device), noise, erased)
    return result


def draw_noise(config: AugmentConfig, draws: Draws, count: int) -> torch.Tensor:
    """[n, count], on the device of the draws."""
    values = 8 if config.erase_fill == "bytes" else 4  # of a word
    words: torch.Tensor = draws.bits("erase-noise", -(-count // values))  # int64 [n, words]
    if config.erase_fill == "bytes":
        return words.view(torch.uint8)[:, :count]
    quantiles = normal_quantiles().to(words.device)
    return quantiles[words.view(torch.int16)[:, :count].int() + 2**15]


@cache
def normal_quantiles() -> torch.Tensor:
    """float32 [2^16], of N(0, 1) at equal steps: a table, so that noise does not depend on a device's functions."""
    quantiles: torch.Tensor = torch.special.ndtri((torch.arange(2**16, dtype=torch.float64) + 0.5) / 2**16)
    return quantiles.float()


def erase_boxes(config: AugmentConfig, draws: Draws, height: int, width: int) -> np.ndarray:
    """int64 [B, 4]: top, left, bottom, right; empty if none fits."""
    areas = uniform_between(config.erase_area, draws.uniform("erase-area", ATTEMPTS)) * height * width
    ratios = log_uniform_between(ERASE_RATIO, draws.uniform("erase-ratio", ATTEMPTS))
    sides = np.rint(np.stack([np.sqrt(areas * ratios), np.sqrt(areas / ratios)], axis=-1))  # [B, ATTEMPTS, 2]
    size = np.array([height, width])
    fits = np.all((sides > 0) & (sides < size), axis=-1)
    chosen = pick_first_fit(sides, fits) * fits.any(axis=1)[:, None]  # [B, 2]
    start = np.floor(draws.uniform("erase-place", 2) * (size - chosen + 1))
    return np.concatenate([start, start + chosen], axis=1).astype(np.int64)
