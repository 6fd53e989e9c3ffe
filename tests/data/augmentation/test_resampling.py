import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms.v2 import functional as vision

from vitctl.data.augmentation.resampling import ONE, Axis, Taps, blur, blur_taps, reflect, resample, resize_taps, weigh

PIL_FILTER = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def pictures(count: int, height: int, width: int, channels: int = 3, seed: int = 0) -> torch.Tensor:
    """Half smooth, half noise: uint8 [B, C, H, W]."""
    noise = torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(seed)) * 255
    smooth = F.avg_pool2d(noise, 5, stride=1, padding=2, count_include_pad=False) * 3 - 255
    mixed = torch.where(torch.arange(count)[:, None, None, None] % 2 == 0, noise, smooth)
    return mixed.clamp(0, 255).to(torch.uint8)


def boxes(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """float64 [B, 4]: top, left, height, width."""
    draws = np.random.default_rng(seed)
    sides = draws.uniform(0.15, 1.0, (count, 2)) * (height, width)
    return np.concatenate([draws.uniform(0, (height, width) - sides), sides], axis=1)


def pil_crop(image: torch.Tensor, box: np.ndarray, out: tuple[int, int], name: str) -> torch.Tensor:
    """In two calls, because the side that Pillow resizes first depends on its version and on the box."""
    top, left, height, width = box.tolist()
    planes = []
    for plane in image:
        wide = Image.fromarray(plane.numpy()).resize(
            (out[1], plane.shape[0]), PIL_FILTER[name], box=(left, 0, left + width, plane.shape[0])
        )
        planes.append(np.asarray(wide.resize(out[::-1], PIL_FILTER[name], box=(0, top, out[1], top + height))))
    return torch.from_numpy(np.stack(planes))


def levels(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    return (ours.int() - theirs.int()).abs()


@pytest.mark.parametrize("name", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("size", "out", "channels"), [((64, 48), (32, 40), 3), ((33, 70), (64, 64), 1), ((40, 40), (7, 9), 3)]
)
def test_a_crop_is_the_one_that_pillow_makes(
    name: str, size: tuple[int, int], out: tuple[int, int], channels: int
) -> None:
    images, frames = pictures(8, *size, channels), boxes(8, *size)
    top, left, height, width = frames.T
    ours = resample(images, Axis.box(top, height, out[0]), Axis.box(left, width, out[1]), name)
    theirs = torch.stack([pil_crop(image, box, out, name) for image, box in zip(images, frames, strict=True)])
    off = levels(ours, theirs)
    assert off.max() <= 1
    assert off.float().mean() < 0.01  # the levels that differ are ties


@pytest.mark.parametrize("name", ["bilinear", "bicubic"])
@pytest.mark.parametrize("out", [(24, 31), (90, 77)])
def test_a_whole_image_is_resized_as_torch_does(name: str, out: tuple[int, int]) -> None:
    images = pictures(4, 56, 47)
    start = np.zeros(4)
    ours = resample(images, Axis.box(start, start + 56, out[0]), Axis.box(start, start + 47, out[1]), name)
    theirs = images.float()
    for size in ((56, out[1]), out):  # in bytes between the sides, as we have it
        theirs = F.interpolate(theirs, size, mode=name, antialias=True).round().clamp(0, 255)
    assert levels(ours, theirs).max() <= 1


def test_flipped_columns_mirror_the_result() -> None:
    images, frames = pictures(6, 30, 44), boxes(6, 30, 44)
    top, left, height, width = frames.T
    rows, columns = Axis.box(top, height, 24), Axis.box(left, width, 20)
    flags = np.array([True, False, True, True, False, False])
    plain, ours = resample(images, rows, columns, "bicubic"), resample(images, rows, columns.flip(flags), "bicubic")
    assert torch.equal(ours[flags], plain[flags].flip(-1))
    assert torch.equal(ours[~flags], plain[~flags])


def test_what_is_not_resized_is_copied() -> None:
    images = pictures(3, 20, 30)
    start = np.zeros(3)
    rows, columns = Axis.box(start, start + 20, 20), Axis.box(start, start + 30, 30)
    for name in ("bilinear", "bicubic"):
        assert torch.equal(resample(images, rows, columns, name), images)


def test_picked_pixels_are_a_crop_from_a_reflected_border() -> None:
    images = pictures(1, 16, 12)
    padded = F.pad(images.float(), (4, 4, 4, 4), mode="reflect").to(torch.uint8)
    for top, left in ((0, 0), (3, 8), (8, 1)):
        rows = reflect(np.arange(16)[None] + top - 4, 16)
        columns = reflect(np.arange(12)[None] + left - 4, 12)
        ours = resample(images, Axis.pick(rows, np.ones(1)), Axis.pick(columns, np.ones(1)), "bilinear")
        assert torch.equal(ours, padded[:, :, top : top + 16, left : left + 12])


def test_picked_pixels_are_those_of_the_resized_image() -> None:
    images = pictures(2, 60, 60)
    whole = torch.stack([pil_crop(image, np.array([0, 0, 60, 60]), (40, 40), "bilinear") for image in images])
    rows, columns = np.arange(5, 29)[None].repeat(2, 0), np.arange(11, 35)[None].repeat(2, 0)
    pace = np.full(2, 1.5)
    ours = resample(images, Axis.pick(rows, pace), Axis.pick(columns, pace), "bilinear")
    assert levels(ours, whole[:, :, 5:29, 11:35]).max() <= 1


@settings(max_examples=40, deadline=None)
@given(
    level=st.integers(0, 255),
    size=st.tuples(st.integers(1, 300), st.integers(1, 40)),
    out=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    name=st.sampled_from(["bilinear", "bicubic"]),
    seed=st.integers(0, 1000),
)
def test_a_flat_image_stays_flat(level: int, size: tuple[int, int], out: tuple[int, int], name: str, seed: int) -> None:
    top, left, height, width = boxes(2, *size, seed=seed).T
    images = torch.full((2, 1, *size), level, dtype=torch.uint8)
    ours = resample(images, Axis.box(top, height, out[0]), Axis.box(left, width, out[1]), name)
    assert torch.equal(ours, torch.full_like(ours, level))


def exact(images: torch.Tensor, down: Taps, across: Taps) -> torch.Tensor:
    """The same sums in whole numbers, where no order matters."""

    def dense(taps: Taps, size: int) -> torch.Tensor:
        weights = torch.from_numpy((taps.weights * ONE).astype(np.int64))
        return weights.new_zeros(*weights.shape[:2], size).scatter_add_(2, torch.from_numpy(taps.pixels), weights)

    def byte(sums: torch.Tensor) -> torch.Tensor:
        return ((sums + ONE // 2) // ONE).clamp(0, 255)

    height, width = images.shape[-2:]
    wide = byte(torch.einsum("bchw,bow->bcho", images.long(), dense(across, width)))
    return byte(torch.einsum("bchw,boh->bcow", wide, dense(down, height))).to(torch.uint8)


@pytest.mark.parametrize("name", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("size", "out"), [(256, 224), (97, 131), (300, 16)])
def test_the_float_sums_are_exact(name: str, size: int, out: int) -> None:
    images = pictures(3, size, size)
    top, left, height, width = boxes(3, size, size).T
    down = resize_taps(Axis.box(top, height, out), size, name)
    across = resize_taps(Axis.box(left, width, out), size, name)
    assert torch.equal(weigh(images, down, across), exact(images, down, across))


@pytest.mark.parametrize(
    "taps",
    [
        resize_taps(Axis.box(np.array([0.3]), np.array([211.7]), 32), 224, "bicubic"),
        resize_taps(Axis.box(np.array([100.3]), np.array([11.7]), 32), 224, "bilinear"),
        blur_taps(np.array([0.1, 1.3]), 32),
    ],
)
def test_weights_are_whole_parts_of_one(taps: Taps) -> None:
    whole = taps.weights.astype(np.float64) * ONE
    assert (whole == np.rint(whole)).all()
    assert (whole.sum(-1) == ONE).all()


def test_a_sample_does_not_see_its_batch() -> None:
    images, frames = pictures(9, 70, 50), boxes(9, 70, 50)
    sigmas = np.linspace(0.1, 2.0, 9)

    def both(chosen: list[int]) -> torch.Tensor:
        top, left, height, width = frames[chosen].T
        cropped = resample(images[chosen], Axis.box(top, height, 33), Axis.box(left, width, 35), "bicubic")
        return blur(cropped, sigmas[chosen])

    whole = both(list(range(9)))
    for chosen in ([4], [8, 0], [1, 2, 3], [7, 6, 5, 4, 3, 2, 1, 0]):
        assert torch.equal(both(chosen), whole[chosen])


@pytest.mark.parametrize("sigma", [0.1, 0.7, 1.0, 1.9, 2.0])
@pytest.mark.parametrize("channels", [1, 3])
def test_blur_is_the_one_of_torchvision(sigma: float, channels: int) -> None:
    images = pictures(4, 26, 37, channels)
    side = 2 * int(np.ceil(3 * sigma)) + 1
    theirs = vision.gaussian_blur(images, [side, side], [sigma, sigma])
    assert levels(blur(images, np.full(4, sigma)), theirs).max() <= 1


def test_blur_of_an_image_smaller_than_its_kernel() -> None:
    images = pictures(2, 1, 3, 1)
    blurred = blur(images, np.array([2.0, 2.0]))
    assert blurred.shape == images.shape
    assert torch.equal(blur(torch.full_like(images, 77), np.array([2.0, 0.1])), torch.full_like(images, 77))


@given(size=st.integers(1, 9), pad=st.integers(0, 30))
def test_reflect_is_numpys(size: int, pad: int) -> None:
    expected = np.pad(np.arange(size), pad, mode="reflect")
    assert np.array_equal(reflect(np.arange(-pad, size + pad), size), expected)
