import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest

from vitctl.randomness import Draws, scramble, scramble_int, to_int64

ROWS = np.arange(2000)
int64s = st.integers(-(2**63), 2**63 - 1)


def uniforms(
    seed: int = 0, epoch: int = 0, purpose: str = "crop", samples: np.ndarray = ROWS, count: int = 4
) -> np.ndarray:
    return Draws(seed, epoch, samples).uniform(purpose, count)


@given(seed=st.integers(0, 2**63 - 1), epoch=st.integers(0, 2**40), samples=st.lists(int64s, min_size=1, max_size=9))
def test_numpy_and_torch_draw_the_same_bits(seed: int, epoch: int, samples: list[int]) -> None:
    ours = Draws(seed, epoch, np.array(samples, dtype=np.int64))
    theirs = Draws(seed, epoch, torch.tensor(samples, dtype=torch.int64))
    for mine, other in (
        (ours.bits("a", 5), theirs.bits("a", 5)),
        (ours.uniform("b", 3), theirs.uniform("b", 3)),
        (ours.integers("c", 1000, 2), theirs.integers("c", 1000, 2)),
    ):
        assert mine.dtype == other.numpy().dtype
        assert np.array_equal(mine, other.numpy())
    assert np.allclose(ours.normal("d", 4), theirs.normal("d", 4).numpy(), atol=1e-5)


@given(int64s)
def test_scramble_of_arrays_and_of_integers_agree(value: int) -> None:
    assert int(scramble(np.array([value], dtype=np.int64))[0]) == scramble_int(value)
    assert int(scramble(torch.tensor([value]))[0]) == scramble_int(value)


@given(st.integers(-(2**70), 2**70))
def test_signed_keeps_the_low_64_bits(value: int) -> None:
    assert -(2**63) <= to_int64(value) < 2**63
    assert (to_int64(value) - value) % 2**64 == 0


def test_scramble_is_a_bijection_that_flips_half_of_the_bits() -> None:
    keys = np.arange(4096, dtype=np.int64)
    assert len(np.unique(scramble(keys))) == 4096
    for bit in (0, 13, 40, 63):
        changed = (scramble(keys) ^ scramble(keys ^ to_int64(1 << bit))).view(np.uint64)
        assert np.bitwise_count(changed).mean() == pytest.approx(32, abs=0.5)


def test_draws_are_these() -> None:
    """Other bits would make another run of every run that is resumed."""
    assert Draws(7, 3, np.array([0, 1, 10**12])).bits("crop", 2).tolist() == [
        [-1359926599880575377, 1346753719497988858],
        [5353006773341999451, 8590384920072350283],
        [6471093170985205166, 4929909962291848252],
    ]


def test_shapes_and_ranges() -> None:
    draws = Draws(0, 0, ROWS)
    assert draws.bits("x", 3).shape == (2000, 3)
    assert draws.uniform("x").shape == (2000, 1)
    assert draws.uniform("x").dtype == np.float32
    assert draws.uniform("x", 50).min() >= 0
    assert draws.uniform("x", 50).max() < 1
    for high in (1, 2, 7, 1000, 2**31):
        drawn = draws.integers("x", high, 5)
        assert drawn.min() >= 0
        assert drawn.max() < high


@pytest.mark.parametrize("samples", [np.arange(20000), np.arange(20000) * 1024, np.arange(20000) * 2**33])
def test_uniforms_are_uniform_over_samples_and_over_counts(samples: np.ndarray) -> None:
    drawn = uniforms(samples=samples, count=3)
    for column in drawn.T:
        assert kstest(column, "uniform").pvalue > 0.001
    assert kstest(uniforms(samples=samples[5:6], count=20000)[0], "uniform").pvalue > 0.001


def test_integers_are_uniform() -> None:
    for high in (3, 16, 100):
        assert chisquare(np.bincount(Draws(1, 2, np.arange(30000)).integers("op", high)[:, 0])).pvalue > 0.001


def test_every_bit_is_fair_and_knows_no_other() -> None:
    bits = Draws(0, 0, np.arange(4000)).bits("x").view(np.uint64)  # [B, 1]
    table = (bits >> np.arange(64, dtype=np.uint64)) & np.uint64(1)  # [B, 64]
    assert np.abs(table.mean(0) - 0.5).max() < 0.04
    assert np.abs(np.corrcoef(table.T.astype(float)) - np.eye(64)).max() < 0.09


def test_normals_have_the_moments_of_the_normal() -> None:
    drawn = Draws(0, 0, np.arange(50000)).normal("x", 2).astype(np.float64)
    for column in drawn.T:
        assert kstest(column, "norm").pvalue > 0.001
    flat = drawn.ravel()
    assert flat.mean() == pytest.approx(0, abs=0.01)
    assert flat.var() == pytest.approx(1, abs=0.02)
    assert (flat**3).mean() == pytest.approx(0, abs=0.05)
    assert (flat**4).mean() == pytest.approx(3, abs=0.1)
    assert np.isfinite(flat).all()
    assert np.corrcoef(drawn.T)[0, 1] == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_a_sample_draws_the_same_in_any_batch(kind: str) -> None:
    samples = np.random.default_rng(0).permutation(10**6)[:333]
    keys = samples if kind == "numpy" else torch.from_numpy(samples)

    def all_of(part: object) -> np.ndarray:
        draws = Draws(3, 4, keys[part])  # type: ignore[index]
        parts = [draws.uniform("a", 3), draws.integers("b", 9, 2), draws.normal("c", 5)]
        return np.concatenate([np.asarray(part) for part in parts], axis=1)

    whole = all_of(slice(None))
    order = np.random.default_rng(1).permutation(333)
    assert np.array_equal(all_of(order), whole[order])
    for size in (1, 2, 3, 7, 16, 17, 100):
        split = [all_of(slice(start, start + size)) for start in range(0, 333, size)]
        assert np.array_equal(np.concatenate(split), whole)


def test_more_draws_begin_with_the_fewer() -> None:
    assert np.array_equal(uniforms(count=9)[:, :4], uniforms(count=4))


def test_an_epoch_for_each_sample() -> None:
    epochs = ROWS % 3
    mixed = uniforms(epoch=epochs)  # type: ignore[arg-type]
    for epoch in range(3):
        assert np.array_equal(mixed[epochs == epoch], uniforms(epoch=epoch)[epochs == epoch])
    assert np.array_equal(Draws(0, torch.from_numpy(epochs), torch.from_numpy(ROWS)).uniform("crop", 4).numpy(), mixed)


@pytest.mark.parametrize(
    "other",
    [{"seed": 1}, {"epoch": 1}, {"purpose": "flip"}, {"purpose": "crop-0"}, {"samples": ROWS + 2000}],
)
def test_other_seeds_epochs_purposes_and_samples_know_nothing_of_each_other(other: dict[str, object]) -> None:
    here, there = uniforms(), uniforms(**other)  # type: ignore[arg-type]
    assert np.intersect1d(here, there).size < 20  # of 8000 values of 24 bits, about 4 meet by chance
    assert abs(np.corrcoef(here.ravel(), there.ravel())[0, 1]) < 0.05


def test_columns_know_nothing_of_each_other() -> None:
    assert np.abs(np.corrcoef(uniforms(count=20).T) - np.eye(20)).max() < 0.1


def test_no_samples_draw_nothing() -> None:
    assert Draws(0, 0, np.zeros(0, dtype=np.int64)).uniform("x", 3).shape == (0, 3)
    assert Draws(0, 0, torch.zeros(0, dtype=torch.int64)).normal("x", 3).shape == (0, 3)
