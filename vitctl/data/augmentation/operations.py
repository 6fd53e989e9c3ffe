"""The operations of RandAugment and DeiT III, each on many images at once, with a strength per image.

Images are uint8 [n, C, H, W]. Strengths are NumPy [n], because they are sampled on the CPU. Operations on colors leave
gray images unchanged.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torchvision.transforms.v2 import functional as vision

from vitctl.data.augmentation.resampling import blur, portions, to_device

GRAY = 128  # fills cutouts, and areas that a warp leaves empty
LUMA = (19595, 38470, 7471)  # red, green and blue in gray (ITU-R 601-2), in units of 2^-16

Operation = Callable[[torch.Tensor, np.ndarray], torch.Tensor]
Scale = Callable[[np.ndarray, np.ndarray], np.ndarray]  # level [B] in units of ten, sign [B] -> strength [B]


def apply(
    images: torch.Tensor, names: np.ndarray, strengths: np.ndarray, places: np.ndarray | float = 0.5
) -> torch.Tensor:
    """Applies to each image its own operation: names [B], strengths [B], and places of cutouts [B, 2] in [0, 1)."""
    images = images.clone()
    places = np.broadcast_to(places, (len(names), 2))
    kinds = np.where(np.isin(names, list(WARPS)), "warp", names)  # warps differ only in their matrices
    for kind in sorted(set(kinds.tolist()) - {"identity"}):
        rows = np.flatnonzero(kinds == kind)
        for part in portions(images, len(rows)):
            some = rows[part]
            index = to_device(some, images.device)
            changed = one_kind(kind, images.index_select(0, index), names[some], strengths[some], places[some])
            images.index_copy_(0, index, changed)
    return images


def one_kind(
    kind: str, images: torch.Tensor, names: np.ndarray, strengths: np.ndarray, places: np.ndarray
) -> torch.Tensor:
    height, width = images.shape[-2:]
    if kind == "warp":
        each = zip(names.tolist(), strengths.tolist(), strict=True)
        return warp(images, np.array([WARPS[name](strength, height, width) for name, strength in each]))
    if kind == "cutout":
        boxes = cutout_boxes(strengths, places, height, width)
        return images.masked_fill(box_mask(boxes, height, width, images.device), GRAY)
    return OPERATIONS[kind](images, strengths)


# --- colors ----------------------------------------------------------------------------------------------------------


def per_image(values: np.ndarray, images: torch.Tensor) -> torch.Tensor:
    """[n] -> float32 [n, 1, 1, 1] on the device of the images."""
    return to_device(values.astype(np.float32), images.device).view(-1, 1, 1, 1)


def blend(images: torch.Tensor, plain: torch.Tensor | float, factors: np.ndarray) -> torch.Tensor:
    """Interpolates from `plain` (factor 0) to the images (factor 1) and beyond. Fractions are dropped, as in PIL."""
    mixed = images.float().sub_(plain).mul_(per_image(factors, images)).add_(plain)
    return mixed.clamp_(0, 255).to(torch.uint8)


def luma(images: torch.Tensor) -> torch.Tensor:
    """float32 [n, 1, H, W], whole numbers: PIL's mode L."""
    if images.shape[1] != 3:
        return images.float().mean(1, keepdim=True).round_()
    red, green, blue = images.float().chunk(3, dim=1)
    total = red * LUMA[0] + green * LUMA[1] + blue * LUMA[2] + 2**15  # below 2^24: exact
    return total.div_(2**16).floor_()


def grayscale(images: torch.Tensor, _: np.ndarray) -> torch.Tensor:
    return luma(images).to(torch.uint8).expand_as(images) if images.shape[1] == 3 else images


def color(images: torch.Tensor, factors: np.ndarray) -> torch.Tensor:
    return blend(images, luma(images), factors) if images.shape[1] == 3 else images


def contrast(images: torch.Tensor, factors: np.ndarray) -> torch.Tensor:
    pixels = images.shape[-2] * images.shape[-1]
    total = luma(images).to(torch.int64).sum((1, 2, 3), keepdim=True)  # integers: the order of the sum does not matter
    return blend(images, ((2 * total + pixels) // (2 * pixels)).float(), factors)


def sharpness(images: torch.Tensor, factors: np.ndarray) -> torch.Tensor:
    """Blends with a smoothing by [1 1 1; 1 5 1; 1 1 1] / 13, which leaves the border unchanged."""
    smooth = images.float()
    if min(images.shape[-2:]) >= 3:
        threes = smooth[:, :, :-2] + smooth[:, :, 1:-1] + smooth[:, :, 2:]
        nines = threes[..., :-2] + threes[..., 1:-1] + threes[..., 2:]
        inner = ((nines + 4 * smooth[:, :, 1:-1, 1:-1]) / 13 + 0.5).floor_()
        smooth[:, :, 1:-1, 1:-1] = inner
    return blend(images, smooth, factors)


def hue(images: torch.Tensor, turns: np.ndarray) -> torch.Tensor:
    """Rotates the hue in HSV. The largest and the smallest channel of each pixel keep their values."""
    if images.shape[1] != 3:
        return images
    pixels = images.float()
    red, green, blue = pixels.chunk(3, dim=1)
    value, darkest = pixels.amax(1, keepdim=True), pixels.amin(1, keepdim=True)
    chroma = value - darkest
    safe = chroma.clamp(min=1.0)  # a gray pixel has any hue
    sextant = torch.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4)
    sextant = torch.where(value == red, (green - blue) / safe, sextant) + 6 * per_image(turns, images)
    channels = torch.cat([(sextant + shift) % 6 for shift in (5, 3, 1)], dim=1)
    lost = torch.minimum(channels, 4 - channels).clamp_(0, 1)  # the share of the chroma that each channel lacks
    return (value - chroma * lost + 0.5).clamp_(0, 255).to(torch.uint8)


def autocontrast(images: torch.Tensor, _: np.ndarray) -> torch.Tensor:
    stretched: torch.Tensor = vision.autocontrast(images.flatten(0, 1)[:, None])  # channels one by one
    return stretched.view_as(images)


def equalize(images: torch.Tensor, _: np.ndarray) -> torch.Tensor:
    equalized: torch.Tensor = vision.equalize(images)
    return equalized


def posterize(images: torch.Tensor, bits: np.ndarray) -> torch.Tensor:
    return images & per_image(0xFF << (8 - bits.astype(np.int64)) & 0xFF, images).to(torch.uint8)


def solarize(images: torch.Tensor, thresholds: np.ndarray) -> torch.Tensor:
    light = images >= per_image(thresholds, images)
    return images ^ light.to(torch.uint8).neg_()  # 255 - x flips every bit of x


def solarize_add(images: torch.Tensor, amounts: np.ndarray) -> torch.Tensor:
    """Adds to dark pixels; amounts must be integers."""
    amount = per_image(amounts, images).to(torch.uint8)
    dark = (images < 128).to(torch.uint8)
    return torch.minimum(images, 255 - amount * dark) + amount * dark  # never above 255


OPERATIONS: dict[str, Operation] = {
    "grayscale": grayscale,
    "color": color,
    "contrast": contrast,
    "brightness": lambda images, factors: blend(images, 0.0, factors),
    "sharpness": sharpness,
    "hue": hue,
    "autocontrast": autocontrast,
    "equalize": equalize,
    "invert": lambda images, _: 255 - images,
    "posterize": posterize,  # strength: bits to keep
    "solarize": solarize,  # threshold
    "solarize-add": solarize_add,
    "blur": blur,  # sigma in pixels
}


# --- warps and cutouts -----------------------------------------------------------------------------------------------

Matrix = tuple[float, float, float, float, float, float]  # a b c d e f, where x = a X + b Y + c and y = d X + e Y + f


def rotate(degrees: float, height: int, width: int) -> Matrix:
    """Counterclockwise about the center."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    x, y = width / 2, height / 2
    return cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y


WARPS: dict[str, Callable[[float, int, int], Matrix]] = {  # strength, height, width
    "rotate": rotate,
    "shear-x": lambda slope, height, width: (1.0, slope, 0.0, 0.0, 1.0, 0.0),
    "shear-y": lambda slope, height, width: (1.0, 0.0, 0.0, slope, 1.0, 0.0),
    "translate-x": lambda share, height, width: (1.0, 0.0, share * width, 0.0, 1.0, 0.0),
    "translate-y": lambda share, height, width: (1.0, 0.0, 0.0, 0.0, 1.0, share * height),
}


def warp(images: torch.Tensor, matrices: np.ndarray) -> torch.Tensor:
    """Bilinear. Matrices [n, 6] map the center X, Y of an output pixel to the input. Outside of it is gray."""
    height, width = images.shape[-2:]
    matrix = to_device(matrices.astype(np.float32), images.device)
    a, b, c, d, e, f = matrix[:, :, None, None].unbind(1)  # [n, 1, 1] each
    across = torch.arange(width, device=images.device) + 0.5  # [W]
    down = torch.arange(height, device=images.device)[:, None] + 0.5  # [H, 1]
    grid = images.new_empty(len(images), height, width, 2, dtype=torch.float32)
    grid[..., 0] = (a * across + b * down + c) * (2 / width) - 1
    grid[..., 1] = (d * across + e * down + f) * (2 / height) - 1
    moved = F.grid_sample(images.float().sub_(GRAY), grid, padding_mode="zeros", align_corners=False)
    return moved.add_(GRAY + 0.5).clamp_(0, 255).to(torch.uint8)


def cutout_boxes(shares: np.ndarray, places: np.ndarray, height: int, width: int) -> np.ndarray:
    """int64 [n, 4]: top, left, bottom, right; half a side is a share of the image's shorter side."""
    half = np.floor(shares * min(height, width))[:, None]
    center = np.floor(places * (height, width))
    return np.concatenate([center - half, center + half], axis=1).astype(np.int64)


def box_mask(boxes: np.ndarray, height: int, width: int, device: torch.device) -> torch.Tensor:
    """Boxes [n, 4] (top, left, bottom, right) as bool [n, 1, H, W]."""
    edges = to_device(boxes, device)
    top, left, bottom, right = edges[:, :, None, None, None].unbind(1)  # [n, 1, 1, 1] each
    down = torch.arange(height, device=device)[:, None]
    across = torch.arange(width, device=device)
    return (down >= top) & (down < bottom) & (across >= left) & (across < right)


# --- scales ----------------------------------------------------------------------------------------------------------


def no_argument(level: np.ndarray, sign: np.ndarray) -> np.ndarray:
    return level


# RandAugment as in big_vision's pp/autoaugment.py, which comes from TensorFlow's models. Its pixel counts, 100 for
# translations and 40 for cutouts, become shares of the 224 pixels that they were used with. Levels above one are valid:
# AugReg goes to two. The threshold of solarize is compared with bytes as a byte (big_vision#110): 256 and 512 are 0,
# which inverts the whole image, and 384 is 128. Differences: warps are bilinear here, nearest there; and contrast
# pivots on the mean gray, while their code divides the count of the pixels. Posterize with zero bits keeps one there
# too.
TF: dict[str, Scale] = {
    **dict.fromkeys(("autocontrast", "equalize", "invert"), no_argument),
    "rotate": lambda level, sign: 30 * level * sign,
    "posterize": lambda level, sign: np.clip(np.floor(4 * level), 1, 8),
    "solarize": lambda level, sign: np.floor(256 * level) % 256,
    **dict.fromkeys(("color", "contrast", "brightness", "sharpness"), lambda level, sign: 1.8 * level + 0.1),
    **dict.fromkeys(("shear-x", "shear-y"), lambda level, sign: 0.3 * level * sign),
    **dict.fromkeys(("translate-x", "translate-y"), lambda level, sign: 100 / 224 * level * sign),
    "cutout": lambda level, sign: 40 / 224 * level,
    "solarize-add": lambda level, sign: np.clip(np.floor(110 * level), 0, 255),
}


def away(level: np.ndarray, sign: np.ndarray) -> np.ndarray:
    factor = 1 + 0.9 * level * sign
    return np.where(factor > 0.1, factor, 0.1)


# timm's "inc" operations (timm/data/auto_augment.py): a higher level is always a stronger change, up to ten.
# Difference: posterize keeps at least one bit, while timm can make the whole image black.
TIMM_INC: dict[str, Scale] = {
    **dict.fromkeys(("autocontrast", "equalize", "invert"), no_argument),
    "rotate": lambda level, sign: 30 * level * sign,
    "posterize": lambda level, sign: np.maximum(4 - np.floor(4 * level), 1),
    "solarize": lambda level, sign: 256 - np.floor(256 * level),
    "solarize-add": lambda level, sign: np.clip(np.floor(110 * level), 0, 255),
    **dict.fromkeys(("color", "contrast", "brightness", "sharpness"), away),
    **dict.fromkeys(("shear-x", "shear-y"), lambda level, sign: 0.3 * level * sign),
    **dict.fromkeys(("translate-x", "translate-y"), lambda level, sign: 0.45 * level * sign),
}

# What 0.1 took for TF's space: there, solarize leaves an image alone from level one on.
TF_UNWRAPPED: dict[str, Scale] = TF | {"solarize": lambda level, sign: np.floor(256 * level)}

SPACES: dict[str, dict[str, Scale]] = {"tf": TF, "tf-unwrapped": TF_UNWRAPPED, "timm-inc": TIMM_INC}
HIGHEST = {"tf": np.inf, "tf-unwrapped": np.inf, "timm-inc": 1.0}  # level, in units of ten
