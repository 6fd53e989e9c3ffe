from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import binomtest, chisquare, ks_2samp, kstest
from timm.data.random_erasing import RandomErasing

from vitctl.config.augment import PRESETS, AugmentConfig
from vitctl.data.augmentation.augment import (
    Augment,
    draw_frame,
    draw_window,
    erase_boxes,
    jitter,
    randaug,
    three,
)
from vitctl.data.augmentation.operations import GRAY, SPACES
from vitctl.data.loader import resize_images
from vitctl.models.input import normalize
from vitctl.randomness import Draws

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

EVERYTHING = AugmentConfig(
    crop="inception",
    filter="bicubic",
    flip=0.5,
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.1,
    grayscale=0.3,
    randaug_layers=2,
    randaug_std=2.0,
    randaug_probability=0.8,
    three=True,
    erase=0.5,
)
CONFIGS = {**PRESETS, "everything": EVERYTHING}


def pictures(count: int, height: int = 40, width: int = 28, channels: int = 3) -> torch.Tensor:
    """uint8 [B, H, W, C]"""
    noise = torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(count))
    smooth = F.avg_pool2d(noise, 3, stride=1, padding=1, count_include_pad=False) * 255
    return smooth.to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def draws(count: int, seed: int = 0, epoch: int = 0) -> Draws:
    return Draws(seed, epoch, np.arange(count))


# --- what a sample becomes depends on (seed, epoch, sample) alone ----------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("res", [None, (24, 32)])
@pytest.mark.parametrize("name", list(CONFIGS))
def test_a_sample_is_the_same_in_any_batch(name: str, res: tuple[int, int] | None, channels: int) -> None:
    augment = Augment(CONFIGS[name], seed=3, res=res)
    images, samples = pictures(37, channels=channels), torch.arange(37) * 1001 + 5
    whole = augment(images, 2, samples)
    assert whole.shape == (37, *(res or (40, 28)), channels)
    assert whole.dtype == (torch.float32 if CONFIGS[name].erase else torch.uint8)
    assert whole.is_contiguous()
    order = torch.randperm(37, generator=torch.Generator().manual_seed(0))
    assert torch.equal(augment(images[order], 2, samples[order]), whole[order])
    for parts in ((1, 36), (5, 16, 16), (13, 13, 11)):
        split = zip(images.split(parts), samples.split(parts), strict=True)
        assert torch.equal(torch.cat([augment(some, 2, keys) for some, keys in split]), whole)


def test_images_of_usual_size_do_not_see_their_batch_either() -> None:
    augment, images, samples = Augment(EVERYTHING, 0, (96, 96)), pictures(6, 112, 128), torch.arange(6)
    whole = augment(images, 0, samples)
    for row in range(6):
        assert torch.equal(augment(images[row : row + 1], 0, samples[row : row + 1]), whole[row : row + 1])


def test_threads_do_not_change_an_image() -> None:
    augment, images, samples = Augment(EVERYTHING, 0), pictures(16, 64, 64), torch.arange(16)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(augment(images, 0, samples))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_seeds_epochs_and_samples_differ() -> None:
    images, samples = pictures(1).expand(8, -1, -1, -1), torch.arange(8)
    first = Augment(EVERYTHING, 0)(images, 0, samples)
    assert not torch.equal(first, Augment(EVERYTHING, 1)(images, 0, samples))
    assert not torch.equal(first, Augment(EVERYTHING, 0)(images, 1, samples))
    assert len({picture.numpy().tobytes() for picture in first}) == 8
    assert torch.equal(first, Augment(EVERYTHING, 0)(images, 0, samples))


def test_a_batch_may_lie_in_two_epochs() -> None:
    augment, images, samples = Augment(EVERYTHING, 0), pictures(6), torch.tensor([8, 9, 0, 1, 2, 3])
    mixed = augment(images, torch.tensor([4, 4, 5, 5, 5, 5]), samples)
    assert torch.equal(mixed[:2], augment(images[:2], 4, samples[:2]))
    assert torch.equal(mixed[2:], augment(images[2:], 5, samples[2:]))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", list(CONFIGS))
def test_what_goes_in_is_left_as_it_was(name: str, channels: int) -> None:
    images = pictures(9, channels=channels)
    before = images.clone()
    Augment(CONFIGS[name], 0)(images, 0, torch.arange(9))
    assert torch.equal(images, before)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 1), (8, 8, 1), (3, 2, 3)])
@pytest.mark.parametrize("name", list(CONFIGS))
def test_tiny_images_go_through(name: str, shape: tuple[int, int, int]) -> None:
    images = torch.randint(0, 256, (7, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert Augment(CONFIGS[name], 0, (8, 6))(images, 0, torch.arange(7)).shape == (7, 8, 6, shape[2])


# --- crops and flips -------------------------------------------------------------------------------------------------


def test_none_is_nothing() -> None:
    images = pictures(5)
    assert torch.equal(Augment(PRESETS["none"], 0)(images, 0, torch.arange(5)), images)


@pytest.mark.parametrize("res", [(20, 14), (60, 50)])
def test_without_a_crop_a_model_is_trained_on_what_it_is_evaluated_on(res: tuple[int, int]) -> None:
    """The same filter at another resolution; the two kernels round differently."""
    images = pictures(9)
    ours = Augment(AugmentConfig(), 0, res)(images, 0, torch.arange(9))
    assert (ours.int() - resize_images(images, *res).int()).abs().max() <= 1
    linear = Augment(AugmentConfig(filter="bilinear"), 0, res)(images, 0, torch.arange(9))
    assert (linear.int() - resize_images(images, *res).int()).abs().max() > 3


def test_flips_are_mirror_images_at_their_rate() -> None:
    images, samples = pictures(3, 6, 5).repeat(400, 1, 1, 1), torch.arange(1200)
    changed = Augment(AugmentConfig(flip=0.3), 0)(images, 0, samples)
    flipped = (changed != images).flatten(1).any(1)
    assert torch.equal(changed[flipped], images[flipped].flip(2))
    assert binomtest(int(flipped.sum()), 1200, 0.3).pvalue > 0.01


@pytest.mark.parametrize("config", [AugmentConfig(flip=0.5), AugmentConfig(flip=0.5, crop="simple", crop_pad=0)])
def test_a_flip_is_the_same_with_and_without_resampling(config: AugmentConfig) -> None:
    images, samples = pictures(20), torch.arange(20)
    expected = Augment(AugmentConfig(flip=0.5), 0)(images, 0, samples)
    assert torch.equal(Augment(config, 0)(images, 0, samples), expected)


def test_resize_small_is_a_crop_of_the_resized_image() -> None:
    config = AugmentConfig(crop="resize-small", crop_small=2.0)
    rows, columns = draw_frame(config, draws(500), (100, 60), (10, 10))
    assert np.allclose(rows.pace, 3)  # 60 pixels become 20
    tops, lefts = rows.centers[:, 0] / 3 - 0.5, columns.centers[:, 0] / 3 - 0.5
    assert set(np.rint(tops).astype(int)) == set(range(24))  # 33 rows, 10 of them seen
    assert set(np.rint(lefts).astype(int)) == set(range(11))
    assert np.allclose(np.diff(rows.centers), 3)
    assert rows.centers.max() < 100


def test_resize_small_copies_pixels_where_the_sizes_ask_for_it() -> None:
    images, samples = pictures(12, 256 // 8, 256 // 8), torch.arange(12)
    crops = Augment(AugmentConfig(crop="resize-small", crop_small=32 / 28), 0, (28, 28))(images, 0, samples)
    for image, crop in zip(images, crops, strict=True):
        places = [(top, left) for top in range(5) for left in range(5)]
        assert any(torch.equal(image[top : top + 28, left : left + 28], crop) for top, left in places)


def test_the_simple_crop_is_padded_by_reflection() -> None:
    images, samples = pictures(30, 12, 12), torch.arange(30)
    padded = F.pad(images.permute(0, 3, 1, 2).float(), (4, 4, 4, 4), mode="reflect").permute(0, 2, 3, 1).byte()
    crops = Augment(AugmentConfig(crop="simple"), 0)(images, 0, samples)
    found = set()
    for image, crop in zip(padded, crops, strict=True):
        places = [(top, left) for top in range(9) for left in range(9)]
        found |= {(y, x) for y, x in places if torch.equal(image[y : y + 12, x : x + 12], crop)}
    assert len(found) > 15


def test_windows_are_anywhere_alike_often() -> None:
    starts = draw_window(draws(9000).uniform("crop-place")[:, 0], 20, 12, 0)[:, 0]
    assert chisquare(np.bincount(starts, minlength=9)).pvalue > 0.01


# --- RandAugment and friends -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", list(SPACES))
def test_every_operation_is_drawn_alike_often_in_every_layer(space: str) -> None:
    config = AugmentConfig(randaug_layers=2, randaug_space=space)  # type: ignore[arg-type]
    layers = [randaug(config, draws(8000), layer)[0] for layer in range(2)]
    for names in layers:
        kinds, counts = np.unique(names, return_counts=True)
        assert set(kinds) == set(SPACES[space])
        assert chisquare(counts).pvalue > 0.01
    assert (layers[0] == layers[1]).mean() == pytest.approx(1 / len(SPACES[space]), abs=0.02)


def test_a_layer_is_left_out_at_its_rate() -> None:
    names, _, _ = randaug(AugmentConfig(randaug_probability=0.5), draws(4000), 0)
    assert binomtest(int((names == "identity").sum()), 4000, 0.5).pvalue > 0.01


def test_magnitudes_spread_and_are_cut_where_the_space_ends() -> None:
    config = AugmentConfig(randaug_magnitude=9, randaug_std=0.5, randaug_space="timm-inc")
    names, strengths, _ = randaug(config, draws(40000), 0)
    slopes = np.abs(strengths[names == "shear-x"]) / 0.03
    assert slopes.max() == pytest.approx(10)
    assert (slopes > 9.9999).mean() == pytest.approx(0.0228, abs=0.01)
    assert np.median(slopes) == pytest.approx(9, abs=0.05)
    assert slopes[slopes < 10].std() == pytest.approx(0.48, abs=0.03)
    assert (strengths[names == "rotate"] > 0).mean() == pytest.approx(0.5, abs=0.05)


def test_the_space_of_big_vision_goes_beyond_ten() -> None:
    names, strengths, _ = randaug(AugmentConfig(randaug_magnitude=20), draws(2000), 0)
    assert np.allclose(np.abs(strengths[names == "rotate"]), 60)


def test_three_draws_each_alike_often() -> None:
    names, strengths = three(draws(6000))
    assert chisquare(np.unique(names, return_counts=True)[1]).pvalue > 0.01
    assert kstest((strengths[names == "blur"] - 0.1) / 1.9, "uniform").pvalue > 0.01
    assert (strengths[names == "solarize"] == 128).all()


def test_jitter_makes_each_change_once_in_any_order() -> None:
    rounds = jitter(AugmentConfig(brightness=0.3, contrast=0.2, saturation=0.1, hue=0.05), draws(6000))
    names = np.stack([names for names, _ in rounds], axis=1)  # [B, 4]
    strengths = np.stack([strengths for _, strengths in rounds], axis=1)
    assert (np.sort(names, axis=1) == ["brightness", "color", "contrast", "hue"]).all()
    assert chisquare(np.unique(names, axis=0, return_counts=True)[1]).pvalue > 0.01
    assert len(np.unique(names, axis=0)) == 24
    for name, center, amount in (("brightness", 1, 0.3), ("contrast", 1, 0.2), ("color", 1, 0.1), ("hue", 0, 0.05)):
        drawn = strengths[names == name]
        assert kstest((drawn - center + amount) / (2 * amount), "uniform").pvalue > 0.01


def test_the_order_of_jitter_knows_nothing_of_its_strength() -> None:
    for _, strengths in jitter(AugmentConfig(brightness=0.3, contrast=0.2), draws(6000)):
        assert binomtest(int((strengths > 1).sum()), 6000, 0.5).pvalue > 0.01


def test_jitter_that_is_off_draws_nothing() -> None:
    assert jitter(AugmentConfig(), draws(3)) == []
    assert [set(names) for names, _ in jitter(AugmentConfig(contrast=0.3), draws(3))] == [{"contrast"}]


def test_grayscale_has_no_color_left() -> None:
    images = pictures(600, 4, 4)
    changed = Augment(AugmentConfig(grayscale=0.2), 0)(images, 0, torch.arange(600))
    gray = (changed == changed[..., :1]).flatten(1).all(1)
    assert binomtest(int(gray.sum()), 600, 0.2).pvalue > 0.01
    assert torch.equal(changed[~gray], images[~gray])


def test_a_randaugmented_flat_image_is_gray_only_where_it_was_moved_away() -> None:
    images = torch.full((300, 16, 16, 3), 200, dtype=torch.uint8)
    changed = Augment(AugmentConfig(randaug_layers=1), 0)(images, 0, torch.arange(300))
    names, _, _ = randaug(AugmentConfig(randaug_layers=1), draws(300), 0)
    for name in ("translate-x", "translate-y", "cutout"):
        assert ((changed[names == name] == GRAY) | (changed[names == name] > 127)).all()
    assert (changed[names == "translate-x"] == GRAY).any()
    assert (changed[names == "autocontrast"] == 200).all()


# --- random erasing --------------------------------------------------------------------------------------------------


def test_erased_boxes_have_the_area_and_ratio_that_was_asked_for() -> None:
    config = AugmentConfig(erase_area=(0.02, 0.09))  # all fit
    top, left, bottom, right = erase_boxes(config, draws(4000), 1000, 1000).T
    height, width = bottom - top, right - left
    assert kstest((height * width / 1e6 - 0.02) / 0.07, "uniform").pvalue > 0.01
    assert kstest((np.log(height / width) - np.log(0.3)) / (2 * np.log(1 / 0.3)), "uniform").pvalue > 0.01
    assert kstest(top / (1000 - height), "uniform").pvalue > 0.01
    assert kstest(left / (1000 - width), "uniform").pvalue > 0.01


def test_erased_boxes_reach_every_border() -> None:
    boxes = erase_boxes(AugmentConfig(erase_area=(0.25, 0.25)), draws(3000), 8, 8)
    for axis in (0, 1):
        start, stop = boxes[:, axis], boxes[:, axis + 2]
        for side in np.unique(stop - start):
            assert set(start[stop - start == side]) == set(range(8 - side + 1))


def test_boxes_stay_inside_and_are_empty_where_none_fits() -> None:
    for size in ((37, 90), (3, 3), (2, 50), (1, 1)):
        top, left, bottom, right = erase_boxes(AugmentConfig(), draws(500), *size).T
        assert (top >= 0).all()
        assert (left >= 0).all()
        assert (bottom <= size[0]).all()
        assert (right <= size[1]).all()
        assert ((bottom > top) == (right > left)).all()
    assert (bottom == top).all()  # one pixel is never erased


@pytest.mark.parametrize("fill", ["normal", "bytes"])
@pytest.mark.parametrize("channels", [1, 3])
def test_erasing_puts_noise_into_a_box(channels: int, fill: Any) -> None:
    images, samples = torch.full((400, 30, 20, channels), 77, dtype=torch.uint8), torch.arange(400)
    config = AugmentConfig(erase=0.25, erase_area=(0.1, 0.3), erase_fill=fill)
    mean, std = IMAGENET if channels == 3 else ((0.5,), (0.5,))
    changed = Augment(config, 0, None, mean, std)(images, 0, samples)
    hit = (changed != 77).flatten(1).any(1)
    assert binomtest(int(hit.sum()), 400, 0.25).pvalue > 0.01
    boxes = erase_boxes(config, draws(400), 30, 20)
    noise = []
    for picture, (top, left, bottom, right) in zip(changed[hit], boxes[hit.numpy()], strict=True):
        noise.append(picture[top:bottom, left:right].reshape(-1, channels).clone())
        picture[top:bottom, left:right] = 77
        assert (picture == 77).all()  # nothing outside of the box
    assert len({part[:16].numpy().tobytes() for part in noise}) == len(noise)
    if fill == "bytes":
        assert chisquare(np.bincount(torch.cat(noise).flatten().numpy(), minlength=256)).pvalue > 0.01
        return
    drawn = normalize(torch.cat(noise)[None, None], mean, std)[0, 0]  # what the model sees
    for channel in drawn.T:
        assert kstest(channel.numpy(), "norm").pvalue > 0.01
    assert np.abs(np.corrcoef(drawn.T.numpy()) - np.eye(channels)).max() < 0.02


def test_normal_noise_is_that_of_timm() -> None:
    """In every channel of the normalized image: mode pixel of timm's RandomErasing, on the same pictures."""
    theirs = RandomErasing(1.0, 0.2, 0.3, mode="pixel", device="cpu")(torch.zeros(300, 3, 24, 24))
    config = AugmentConfig(erase=1.0, erase_area=(0.2, 0.3))
    black = torch.zeros(300, 24, 24, 3, dtype=torch.uint8)
    ours = normalize(Augment(config, 0, None, *IMAGENET)(black, 0, torch.arange(300)), *IMAGENET).movedim(-1, 1)
    background = normalize(black[:1], *IMAGENET).movedim(-1, 1)
    ours, theirs = ours[(ours != background)], theirs[theirs != 0]
    assert ks_2samp(ours.numpy(), theirs.numpy()).statistic < 0.01
    assert len(ours) == pytest.approx(len(theirs), rel=0.02)


def test_the_type_of_what_is_erased_does_not_depend_on_whether_it_is() -> None:
    images = pictures(9)
    whole = Augment(AugmentConfig(erase=0.5), 0)(images, 0, torch.arange(9))
    assert whole.dtype == torch.float32
    for row in range(9):
        assert torch.equal(
            Augment(AugmentConfig(erase=0.5), 0)(images[row : row + 1], 0, torch.tensor([row]))[0], whole[row]
        )


def test_erasing_always_and_never() -> None:
    images, samples = pictures(50), torch.arange(50)
    assert torch.equal(Augment(AugmentConfig(erase=0.0), 0)(images, 0, samples), images)
    changed = Augment(replace(AugmentConfig(), erase=1.0), 0)(images, 0, samples)
    assert (changed != images).flatten(1).any(1).all()
