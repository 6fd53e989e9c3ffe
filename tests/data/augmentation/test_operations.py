import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageEnhance, ImageOps
from timm.data.auto_augment import AugmentOp, rand_augment_transform
from torchvision.transforms.v2 import functional as vision

from vitctl.data.augmentation.operations import (
    GRAY,
    OPERATIONS,
    SPACES,
    TF,
    TIMM_INC,
    WARPS,
    apply,
    box_mask,
    cutout_boxes,
    warp,
)

COUNT, HEIGHT, WIDTH = 12, 23, 34
LEVELS = np.linspace(0, 1, COUNT)


def pictures(channels: int = 3, height: int = HEIGHT, width: int = WIDTH) -> torch.Tensor:
    """uint8 [B, C, H, W], each with a range of values of its own; the last one is flat."""
    noise = torch.rand(COUNT, channels, height, width, generator=torch.Generator().manual_seed(0))
    smooth = F.avg_pool2d(noise, 3, stride=1, padding=1, count_include_pad=False)
    spread = torch.linspace(255, 60, COUNT)[:, None, None, None]
    images = (20 + smooth * spread).clamp(0, 255).to(torch.uint8)
    images[-1] = 100
    return images


def pil(image: torch.Tensor) -> Image.Image:
    array = image.permute(1, 2, 0).numpy()
    return Image.fromarray(array if array.shape[2] == 3 else array[:, :, 0])


def tensor(image: Image.Image) -> torch.Tensor:
    array = np.asarray(image).copy()
    return torch.from_numpy(array.reshape(*array.shape[:2], -1)).permute(2, 0, 1)


def solarize_add(image: Image.Image, amount: float) -> Image.Image:
    table = [min(255, value + int(amount)) if value < 128 else value for value in range(256)]
    return image.point(table * len(image.getbands()))


# the strengths to try, and what Pillow makes of an image with one of them
PILLOW: dict[str, tuple[np.ndarray, Callable[[Image.Image, float], Image.Image]]] = {
    "autocontrast": (LEVELS, lambda image, _: ImageOps.autocontrast(image)),
    "equalize": (LEVELS, lambda image, _: ImageOps.equalize(image)),
    "invert": (LEVELS, lambda image, _: ImageOps.invert(image)),
    "posterize": (np.arange(COUNT) % 8 + 1, lambda image, bits: ImageOps.posterize(image, int(bits))),
    "solarize": (np.arange(COUNT) * 28.0, lambda image, threshold: ImageOps.solarize(image, int(threshold))),
    "solarize-add": (np.arange(COUNT) * 23.0, solarize_add),
    "color": (LEVELS * 3.7, lambda image, factor: ImageEnhance.Color(image).enhance(factor)),
    "contrast": (LEVELS * 3.7, lambda image, factor: ImageEnhance.Contrast(image).enhance(factor)),
    "brightness": (LEVELS * 3.7, lambda image, factor: ImageEnhance.Brightness(image).enhance(factor)),
    "sharpness": (LEVELS * 3.7, lambda image, factor: ImageEnhance.Sharpness(image).enhance(factor)),
    "grayscale": (LEVELS, lambda image, _: ImageOps.grayscale(image).convert(image.mode)),
}
EXACT = {"equalize", "invert", "posterize", "solarize", "solarize-add", "grayscale"}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", list(PILLOW))
def test_an_operation_is_the_one_of_pillow(name: str, channels: int) -> None:
    strengths, oracle = PILLOW[name]
    images = pictures(channels)
    ours = OPERATIONS[name](images, strengths)
    theirs = torch.stack([tensor(oracle(pil(image), float(s))) for image, s in zip(images, strengths, strict=True)])
    off = (ours.int() - theirs.int()).abs()
    assert off.max() <= (0 if name in EXACT else 1)
    assert off.float().mean() < 0.1


def test_hue_is_the_one_of_torchvision() -> None:
    images, turns = pictures(), np.linspace(-0.5, 0.5, COUNT)
    theirs = torch.stack([vision.adjust_hue(image, turn) for image, turn in zip(images, turns, strict=True)])
    ours = OPERATIONS["hue"](images, turns)
    assert (ours.int() - theirs.int()).abs().max() <= 1
    assert torch.equal(OPERATIONS["hue"](images, np.zeros(COUNT)), images)


@pytest.mark.parametrize("name", ["color", "hue", "grayscale"])
def test_color_operations_leave_images_without_color_alone(name: str) -> None:
    assert torch.equal(OPERATIONS[name](pictures(1), LEVELS), pictures(1))


@pytest.mark.parametrize("name", list(OPERATIONS))
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 2, 5), (4, 6, 3)])
def test_images_of_any_shape_go_through(name: str, shape: tuple[int, int, int]) -> None:
    images = pictures(*shape)
    changed = OPERATIONS[name](images, PILLOW[name][0] if name in PILLOW else LEVELS + 0.1)
    assert changed.shape == images.shape
    assert changed.dtype == torch.uint8


# --- places ----------------------------------------------------------------------------------------------------------

AFFINE, BILINEAR = Image.Transform.AFFINE, Image.Resampling.BILINEAR
MATRICES = {
    "shear-x": lambda strength: (1, strength, 0, 0, 1, 0),
    "shear-y": lambda strength: (1, 0, 0, strength, 1, 0),
    "translate-x": lambda strength: (1, 0, strength * WIDTH, 0, 1, 0),
    "translate-y": lambda strength: (1, 0, 0, 0, 1, strength * HEIGHT),
}


def inner(image: Image.Image, matrix: tuple[float, ...] | None, degrees: float) -> torch.Tensor:
    """Where Pillow sees nothing but whole pixels of the image: bool [H, W]."""
    mask = Image.new("L", image.size, 0)
    mask.paste(255, (1, 1, image.size[0] - 1, image.size[1] - 1))
    moved = mask.rotate(degrees, BILINEAR) if matrix is None else mask.transform(image.size, AFFINE, matrix, BILINEAR)
    return torch.from_numpy(np.asarray(moved) == 255)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", list(MATRICES))
def test_a_warp_is_the_one_of_pillow(name: str, channels: int) -> None:
    images, strengths = pictures(channels), np.linspace(-0.6, 0.6, COUNT)
    ours = apply(images, np.full(COUNT, name), strengths)
    for image, warped, strength in zip(images, ours, strengths.tolist(), strict=True):
        matrix = MATRICES[name](strength)
        theirs = tensor(pil(image).transform((WIDTH, HEIGHT), AFFINE, matrix, BILINEAR))
        where = inner(pil(image), matrix, 0)
        assert where.float().mean() > 0.15
        assert (warped.int() - theirs.int()).abs()[:, where].max() <= 1


def test_a_rotation_is_the_one_of_pillow() -> None:
    images, degrees = pictures(), np.linspace(-60, 60, COUNT)
    ours = apply(images, np.full(COUNT, "rotate"), degrees)
    for image, turned, degree in zip(images, ours, degrees.tolist(), strict=True):
        theirs = tensor(pil(image).rotate(degree, BILINEAR))
        where = inner(pil(image), None, degree)
        assert where.float().mean() > 0.3
        assert (turned.int() - theirs.int()).abs()[:, where].max() <= 1


def test_what_a_warp_uncovers_is_gray() -> None:
    images = torch.full((5, 3, 20, 30), 250, dtype=torch.uint8)
    names = np.array(["translate-x", "translate-x", "translate-y", "rotate", "shear-x"])
    moved = apply(images, names, np.array([0.5, -0.5, 0.25, 45, 0.3]))
    assert (moved[0, :, :, 15:] == GRAY).all()
    assert (moved[0, :, :, :15] == 250).all()
    assert (moved[1, :, :, :15] == GRAY).all()
    assert (moved[2, :, 15:] == GRAY).all()
    assert (moved[3, :, 0, 0] == GRAY).all()
    assert (moved[4, :, -1, -5:] == GRAY).all()


def test_a_warp_that_moves_nothing_changes_nothing() -> None:
    images = pictures()
    for name in WARPS:
        assert torch.equal(apply(images, np.full(COUNT, name), np.zeros(COUNT)), images)


def test_warps_of_whole_pixels_copy_them() -> None:
    images = pictures()
    moved = warp(images, np.array([[1, 0, 3, 0, 1, 2]] * COUNT))
    assert torch.equal(moved[:, :, :-2, :-3], images[:, :, 2:, 3:])


def test_a_cutout_is_a_gray_square_about_its_place() -> None:
    images = torch.full((3, 3, 40, 60), 250, dtype=torch.uint8)
    places = np.array([[0.5, 0.5], [0.0, 0.0], [0.99, 0.5]])
    cut = apply(images, np.full(3, "cutout"), np.array([0.25, 0.25, 0.0]), places)
    square = torch.zeros(40, 60, dtype=torch.bool)
    square[10:30, 20:40] = True
    assert torch.equal(cut[0, 0] == GRAY, square)
    assert (cut[1, :, :10, :10] == GRAY).all()
    assert (cut[1] == GRAY).sum() == 3 * 100  # the rest fell outside
    assert (cut[2] == 250).all()


def test_cutout_boxes_are_centered_anywhere() -> None:
    places = np.random.default_rng(0).uniform(size=(20000, 2))
    boxes = cutout_boxes(np.full(20000, 0.2), places, 10, 20)
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    assert (boxes[:, 2:] - boxes[:, :2] == 4).all()
    for axis, size in enumerate((10, 20)):
        counts = np.bincount(centers[:, axis].astype(int), minlength=size)
        assert len(counts) == size
        assert np.abs(counts / 20000 * size - 1).max() < 0.15


def test_inside_marks_boxes() -> None:
    marked = box_mask(np.array([[1, 2, 3, 6], [0, 0, 0, 0], [-5, -5, 2, 2]]), 4, 8, torch.device("cpu"))
    assert marked.shape == (3, 1, 4, 8)
    assert marked.sum((1, 2, 3)).tolist() == [8, 0, 4]


# --- many at once ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_each_image_gets_its_own_operation_whatever_the_others_get(channels: int) -> None:
    known = [*OPERATIONS, *WARPS, "cutout", "identity"]
    draws = np.random.default_rng(0)
    images = pictures(channels).repeat(10, 1, 1, 1)
    names = np.array(known)[draws.integers(len(known), size=len(images))]
    strengths, places = draws.uniform(0.1, 2.0, len(images)), draws.uniform(size=(len(images), 2))
    before = images.clone()
    together = apply(images, names, strengths, places)
    assert torch.equal(images, before)
    for row in range(len(images)):
        one = slice(row, row + 1)
        alone = apply(images[one], names[one], strengths[one], places[one])
        assert torch.equal(together[one], alone), names[row]
        if names[row] == "identity":
            assert torch.equal(alone, images[one])


# --- scales: what levels 0, 1 (magnitude 10) and 2 (magnitude 20) mean -----------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("rotate", [0, 30, 60]),
        ("posterize", [1, 4, 8]),
        ("solarize", [0, 0, 0]),  # 256 and 512 as bytes
        ("solarize-add", [0, 110, 220]),
        ("color", [0.1, 1.9, 3.7]),
        ("contrast", [0.1, 1.9, 3.7]),
        ("brightness", [0.1, 1.9, 3.7]),
        ("sharpness", [0.1, 1.9, 3.7]),
        ("shear-x", [0, 0.3, 0.6]),
        ("shear-y", [0, 0.3, 0.6]),
        ("translate-x", [0, 100 / 224, 200 / 224]),
        ("translate-y", [0, 100 / 224, 200 / 224]),
        ("cutout", [0, 40 / 224, 80 / 224]),
    ],
)
def test_the_scales_of_big_vision(name: str, expected: list[float]) -> None:
    assert np.allclose(TF[name](np.array([0.0, 1.0, 2.0]), np.ones(3)), expected)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("rotate", [0, 27, 30]),
        ("posterize", [4, 1, 1]),
        ("solarize", [256, 26, 0]),
        ("solarize-add", [0, 99, 110]),
        ("color", [1, 1.81, 1.9]),
        ("contrast", [1, 1.81, 1.9]),
        ("brightness", [1, 1.81, 1.9]),
        ("sharpness", [1, 1.81, 1.9]),
        ("shear-x", [0, 0.27, 0.3]),
        ("shear-y", [0, 0.27, 0.3]),
        ("translate-x", [0, 0.405, 0.45]),
        ("translate-y", [0, 0.405, 0.45]),
    ],
)
def test_the_increasing_scales_of_timm(name: str, expected: list[float]) -> None:
    assert np.allclose(TIMM_INC[name](np.array([0.0, 0.9, 1.0]), np.ones(3)), expected)


@pytest.mark.parametrize("space", list(SPACES))
def test_signs_turn_what_has_two_directions(space: str) -> None:
    level = np.array([0.7])
    for name, scale in SPACES[space].items():
        plus, minus = scale(level, np.ones(1)), scale(level, -np.ones(1))
        if name in WARPS:
            assert plus == -minus
        elif space == "timm-inc" and name in ("color", "contrast", "brightness", "sharpness"):
            assert plus - 1 == pytest.approx(1 - minus)
        else:
            assert plus == minus


def test_every_operation_of_a_space_exists() -> None:
    for space in SPACES.values():
        assert set(space) <= {*OPERATIONS, *WARPS, "cutout"}
    assert (len(TF), len(SPACES["tf-unwrapped"]), len(TIMM_INC)) == (16, 16, 15)


@pytest.mark.parametrize(
    ("magnitude", "threshold"),
    [(0, 0), (5, 128), (10, 0), (15, 128), (20, 0)],  # AugReg's levels: 0, 256 and 512 invert the whole image
)
def test_solarize_compares_bytes_with_a_byte_as_in_big_vision(magnitude: float, threshold: int) -> None:
    """pp/autoaugment.py:180 and :513 of big_vision: tf.where(image < int(level / 10 * 256), ..), whose right side
    becomes uint8, as its issue 110 shows by `t < i`, which is true of no zero exactly where 256 divides i."""
    images = torch.arange(256, dtype=torch.uint8).repeat(3, 1)[None, :, None]  # every byte
    literal = np.array(int(magnitude / 10 * 256)).astype(np.uint8)
    theirs = np.where(images.numpy() < literal, images.numpy(), 255 - images.numpy())
    level = np.array([magnitude / 10])
    ours = apply(images, np.array(["solarize"]), TF["solarize"](level, np.ones(1)))
    assert literal == threshold
    assert np.array_equal(ours.numpy(), theirs)


# --- timm's ----------------------------------------------------------------------------------------------------------

TIMM = {
    "autocontrast": "AutoContrast", "equalize": "Equalize", "invert": "Invert", "rotate": "Rotate",
    "posterize": "PosterizeIncreasing", "solarize": "SolarizeIncreasing", "solarize-add": "SolarizeAdd",
    "color": "ColorIncreasing", "contrast": "ContrastIncreasing", "brightness": "BrightnessIncreasing",
    "sharpness": "SharpnessIncreasing", "shear-x": "ShearX", "shear-y": "ShearY", "translate-x": "TranslateXRel",
    "translate-y": "TranslateYRel",
}  # fmt: skip
SEEDS = {1.0: 1, -1.0: 0}  # of `random`, whose first draw keeps or turns the sign in timm


def test_the_operations_of_timm_are_those_of_its_increasing_randaugment() -> None:
    own = rand_augment_transform("rand-m9-mstd0.5-inc1", {})
    assert [op.name for op in own.ops] == [TIMM[name] for name in TIMM_INC]
    assert {(op.prob, op.magnitude, op.magnitude_std, op.magnitude_max) for op in own.ops} == {(0.5, 9, 0.5, None)}
    assert own.num_layers == 2


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("magnitude", [0.0, 3.0, 7.7, 8.5, 9.0, 9.6])
@pytest.mark.parametrize("name", list(TIMM_INC))
def test_an_operation_at_a_magnitude_is_timms(name: str, magnitude: float, sign: float) -> None:
    """The installed timm on the same images, with the same magnitude and the same sign."""
    hparams = {"img_mean": (GRAY,) * 3, "interpolation": Image.Resampling.BILINEAR, "translate_pct": 0.45}
    theirs = AugmentOp(TIMM[name], 1.0, magnitude, hparams)
    images, level = pictures(), np.array([magnitude / 10])
    strengths = np.repeat(TIMM_INC[name](level, np.array([sign])), COUNT)
    ours = apply(images, np.full(COUNT, name), strengths)
    for image, changed in zip(images, ours, strict=True):
        random.seed(SEEDS[sign])
        expected, where = tensor(theirs(pil(image))), torch.ones(HEIGHT, WIDTH, dtype=torch.bool)
        if name in WARPS:
            matrix = None if name == "rotate" else MATRICES[name](float(strengths[0]))
            where = inner(pil(image), matrix, float(strengths[0]))
        assert (changed.int() - expected.int()).abs()[:, where].max() <= (0 if name in EXACT else 1)
