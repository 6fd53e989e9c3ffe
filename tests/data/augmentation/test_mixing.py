import numpy as np
import pytest
import torch
from scipy.stats import beta, binomtest, kstest

from vitctl.config.augment import PRESETS, AugmentConfig
from vitctl.data.augmentation.mixing import Mixing
from vitctl.randomness import Draws

BOTH = PRESETS["deit3"]


def pictures(count: int, height: int = 12, width: int = 20, channels: int = 3) -> torch.Tensor:
    """uint8 [B, H, W, C]"""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, height, width, channels), dtype=torch.uint8, generator=generator)


def lambdas(config: AugmentConfig, pairs: int) -> np.ndarray:
    return Mixing(config, 0).plan(0, torch.arange(2 * pairs), 64, 64).lam[::2]


@pytest.mark.parametrize("alpha", [0.2, 0.5, 0.8, 1.0, 3.0])
def test_the_shares_of_mixup_are_beta(alpha: float) -> None:
    lam = lambdas(AugmentConfig(mixup=alpha), 20000)
    assert lam.mean() == pytest.approx(0.5, abs=0.01)
    assert lam.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.03)
    low, cdf = lam[lam < 0.5], beta(alpha, alpha).cdf  # near one a float32 has no room for the tail
    assert kstest(low, lambda share: 2 * cdf(share)).pvalue > 0.01
    assert binomtest(len(low), len(lam), 0.5).pvalue > 0.01


def test_neighbors_are_pairs_with_one_share() -> None:
    plan = Mixing(AugmentConfig(mixup=0.8), 0).plan(0, torch.arange(8), 12, 20)
    assert plan.partner.tolist() == [1, 0, 3, 2, 5, 4, 7, 6]
    assert (plan.lam[::2] == plan.lam[1::2]).all()
    assert len(set(plan.lam.tolist())) == 4


def test_mixup_is_a_weighted_mean() -> None:
    images = pictures(6)
    plan = Mixing(AugmentConfig(mixup=0.8), 0).plan(0, torch.arange(6), 12, 20)
    lam, partner = torch.from_numpy(plan.lam).double()[:, None, None, None], images[plan.partner].double()
    expected = lam * images.double() + (1 - lam) * partner
    assert torch.allclose(plan.images(images.double()), expected, atol=1e-4)
    assert torch.equal(plan.images(images), (expected + 0.5).floor().to(torch.uint8))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_floats_stay_what_they_are(dtype: torch.dtype) -> None:
    plan = Mixing(BOTH, 0).plan(0, torch.arange(6), 12, 20)
    images = torch.randn(6, 12, 20, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    mixed = plan.images(images)
    assert mixed.dtype == dtype
    expected = plan.images(images.float())
    assert torch.allclose(mixed.float(), expected, atol=2 * torch.finfo(dtype).eps * 4, rtol=torch.finfo(dtype).eps)


def test_cutmix_swaps_one_box_of_each_pair() -> None:
    images = pictures(200)
    plan = Mixing(AugmentConfig(cutmix=1.0), 0).plan(0, torch.arange(200), 12, 20)
    mixed = plan.images(images)
    assert plan.cut.all()
    for row, (top, left, bottom, right) in enumerate(plan.boxes.tolist()):
        expected = images[row].clone()
        expected[top:bottom, left:right] = images[row ^ 1][top:bottom, left:right]
        assert torch.equal(mixed[row], expected)
        assert plan.lam[row] == pytest.approx(1 - (bottom - top) * (right - left) / 240)
    assert (plan.boxes[::2] == plan.boxes[1::2]).all()


def test_cutmix_boxes_are_centered_anywhere_with_the_area_that_was_drawn() -> None:
    plan = Mixing(AugmentConfig(cutmix=1.0), 0).plan(0, torch.arange(20000), 1000, 1000)
    top, left, bottom, right = plan.boxes[::2].T
    whole = (top > 0) & (left > 0) & (bottom < 1000) & (right < 1000)  # not clipped: still squares
    assert (bottom - top == right - left)[whole].all()
    cut, area = Mixing(AugmentConfig(cutmix=1.0), 0).lambdas(Draws(0, 0, np.arange(0, 20000, 2)))
    assert cut.all()
    assert ((bottom - top) == np.floor(1000 * np.sqrt(1 - area)))[whole].all()
    # about a uniform center, a box of side s loses s / 4 of its length on average: E[(s - s^2 / 4)^2], s^2 uniform
    kept = np.linspace(0, 1, 100001)
    assert 1 - plan.lam.mean() == pytest.approx(np.mean((np.sqrt(kept) - kept / 4) ** 2), abs=0.01)


def test_how_often_pairs_are_mixed_and_how() -> None:
    config = AugmentConfig(mixup=0.8, cutmix=1.0, mix_probability=0.7, mix_switch=0.3)
    plan = Mixing(config, 0).plan(0, torch.arange(8000), 64, 64)
    assert binomtest(int(plan.cut[::2].sum()), 4000, 0.21).pvalue > 0.01
    alone = (plan.lam == 1) & ~plan.cut
    assert binomtest(int(alone[::2].sum()), 4000, 0.3).pvalue > 0.01
    assert (plan.boxes[~plan.cut, :2] == plan.boxes[~plan.cut, 2:]).all()  # empty


def test_what_is_off_mixes_nothing() -> None:
    images = pictures(6)
    for config in (AugmentConfig(), AugmentConfig(mixup=0.8, cutmix=1.0, mix_probability=0.0)):
        plan = Mixing(config, 0).plan(0, torch.arange(6), 12, 20)
        assert torch.equal(plan.images(images), images)
        assert torch.equal(plan.targets(torch.arange(6), 6), torch.eye(6))


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_a_last_odd_image_stays_as_it_is(count: int) -> None:
    images, labels = pictures(count), torch.arange(count)
    plan = Mixing(BOTH, 0).plan(0, torch.arange(count), 12, 20)
    assert plan.images(images).shape == images.shape
    assert plan.targets(labels, 10).shape == (count, 10)
    if count % 2:
        assert torch.equal(plan.images(images)[-1], images[-1])
        assert plan.targets(labels, 10)[-1].tolist() == [float(k == count - 1) for k in range(10)]


@pytest.mark.parametrize("parts", [(2, 34), (12, 12, 12), (8, 6, 22)])
def test_nothing_changes_when_a_batch_is_split(parts: tuple[int, ...]) -> None:
    images, labels = pictures(36), torch.arange(36) % 10
    samples = torch.randperm(1000, generator=torch.Generator().manual_seed(0))[:36]
    epochs = torch.arange(36) // 20
    mixing = Mixing(BOTH, 5)
    whole = mixing.plan(epochs, samples, 12, 20)
    begin = 0
    for count in parts:
        some = slice(begin, begin + count)
        plan = mixing.plan(epochs[some], samples[some], 12, 20)
        assert torch.equal(plan.images(images[some]), whole.images(images)[some])
        assert torch.equal(plan.targets(labels[some], 10, 0.1), whole.targets(labels, 10, 0.1)[some])
        begin += count


def test_seeds_epochs_and_samples_draw_other_shares() -> None:
    shares = [
        Mixing(BOTH, seed).plan(epoch, torch.arange(first, first + 8), 12, 20).lam.tolist()
        for seed, epoch, first in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 8))
    ]
    assert all(shares[i] != shares[j] for i in range(4) for j in range(i))


def test_targets_add_up() -> None:
    labels = torch.tensor([3, 1, 2, 2, 0, 4])
    plan = Mixing(BOTH, 0).plan(0, torch.arange(6), 12, 20)
    targets = plan.targets(labels, 5)
    assert targets.dtype == torch.float32
    assert torch.allclose(targets.sum(1), torch.ones(6))
    assert targets[0, 3] == pytest.approx(plan.lam[0])
    assert targets[0, 1] == pytest.approx(1 - plan.lam[0])
    assert targets[2].tolist() == [0, 0, 1, 0, 0]
    smooth = plan.targets(labels, 5, smoothing=0.1)
    assert torch.allclose(smooth, targets * 0.9 + 0.02, atol=1e-6)


def test_a_missing_label_asks_for_nothing() -> None:
    plan = Mixing(AugmentConfig(mixup=0.8), 0).plan(0, torch.arange(4), 12, 20)
    targets = plan.targets(torch.tensor([-1, 1, -1, -1]), 3, smoothing=0.1)
    assert targets[0].sum() == pytest.approx(1 - plan.lam[0], abs=1e-6)
    assert targets[1].sum() == pytest.approx(plan.lam[0], abs=1e-6)
    assert (targets[2:] == 0).all()
