import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, f1_score, top_k_accuracy_score

from vitctl.io.weights import About
from vitctl.models.answers import compute_probabilities
from vitctl.training.ranks import Ranks
from vitctl.training.tally import Tally, wilson

NAMES = [f"c{number}" for number in range(7)]


def answers(seed: int = 0, count: int = 200) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 7, (count,), generator=random)
    return torch.randn(count, 7, generator=random) + 1.5 * F.one_hot(labels, 7), labels


def tallied(logits: torch.Tensor, labels: torch.Tensor, batch: int = 32, sets: torch.Tensor | None = None) -> Tally:
    tally = Tally(7, len(labels), sets)
    for rows in torch.split(torch.arange(len(labels)), batch):
        tally.add(logits[rows], labels[rows], rows)
    return tally


def test_the_same_as_scikit_learn_and_torch() -> None:
    logits, labels = answers()
    report = tallied(logits, labels).report(NAMES)
    assert report.pictures == 200
    assert report.top1 == pytest.approx(top_k_accuracy_score(labels, logits, k=1))
    assert report.top5 == pytest.approx(top_k_accuracy_score(labels, logits, k=5))
    assert report.loss == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-6)
    assert report.balanced == pytest.approx(balanced_accuracy_score(labels, logits.argmax(1)), abs=1e-12)
    assert report.macro_f1 == pytest.approx(f1_score(labels, logits.argmax(1), average="macro"), abs=1e-12)
    np.testing.assert_array_equal(report.confusion, confusion_matrix(labels, logits.argmax(1)))
    for number, each in enumerate(report.per_class):
        mine = labels == number
        assert (each.name, each.pictures) == (NAMES[number], int(mine.sum()))
        assert each.top1 == pytest.approx(float((logits[mine].argmax(1) == number).double().mean()))
        assert each.answers == int((logits.argmax(1) == number).sum())


def test_calibration_error_by_hand() -> None:
    """Two images of 0.8 confidence, one right: off by 0.3. One of 0.6, right: off by 0.4."""
    chances = torch.tensor([[0.8, 0.2], [0.8, 0.2], [0.6, 0.4]], dtype=torch.float64)
    tally = Tally(2, 3)
    tally.add(chances.log(), torch.tensor([0, 1, 0]), torch.arange(3))
    assert tally.report(["a", "b"]).calibration_error == pytest.approx((2 * 0.3 + 0.4) / 3)


@given(st.integers(1, 200))
def test_batches_make_no_difference(batch: int) -> None:
    logits, labels = answers(1)
    one, other = tallied(logits, labels, batch), tallied(logits, labels, 200)
    assert torch.equal(one.of_class, other.of_class)
    assert torch.equal(one.confusion, other.confusion)  # type: ignore[arg-type]
    torch.testing.assert_close(one.sums, other.sums)
    torch.testing.assert_close(one.bins, other.bins)


def test_one_rank_gathers_its_own() -> None:
    tally = tallied(*answers())
    before = tally.sums.clone()
    tally.gather(Ranks())
    assert torch.equal(tally.sums, before)


def test_several_right_answers_and_images_without_one() -> None:
    logits = torch.eye(7)[[0, 1, 2, 3]] * 4
    sets = torch.zeros(4, 7, dtype=torch.bool)
    sets[0, [0, 5]] = True  # right
    sets[1, 0] = True  # wrong, though its label says so
    sets[2, [2, 3]] = True  # right; the last has no answer and does not count
    report = tallied(logits, torch.tensor([6, 1, 2, -1]), sets=sets).report(NAMES)
    assert (report.pictures, report.top1) == (3, pytest.approx(2 / 3))
    assert (report.balanced, report.macro_f1) == (None, None)
    chance = logits.double().softmax(1)
    wanted = -(math.log(chance[0, [0, 5]].sum()) + math.log(chance[1, 0]) + math.log(chance[2, [2, 3]].sum())) / 3
    assert report.loss == pytest.approx(wanted)


@given(st.integers(0, 60), st.integers(1, 60))
def test_wilson_is_scipys(right: int, more: int) -> None:
    count = right + more - 1 or 1
    right = min(right, count)
    wanted = binomtest(right, count).proportion_ci(method="wilson")
    assert wilson(right, count) == (pytest.approx(wanted.low, abs=1e-6), pytest.approx(wanted.high, abs=1e-6))


def test_probabilities_and_loss_are_those_of_the_loss_in_training() -> None:
    """With one binary loss per class, a class has a probability of its own: the others do not lower it."""
    logits, labels = torch.tensor([[2.0, 1.0, -1.0], [-3.0, -2.0, -4.0]]), torch.tensor([0, 2])
    tally = Tally(3, 2, loss="sigmoid")
    tally.add(logits, labels, torch.arange(2))
    report = tally.report(["a", "b", "c"])

    chances = 1 / (1 + np.exp(-logits.double().numpy()))
    truth = np.eye(3)[labels]
    expected = -(truth * np.log(chances) + (1 - truth) * np.log(1 - chances)).sum(1).mean()
    assert report.loss == pytest.approx(expected, rel=1e-12)
    confidence, right = chances.max(1), np.array([1, 0])
    assert report.calibration_error == pytest.approx(np.abs(confidence - right).mean(), rel=1e-9)  # each in its own bin
    np.testing.assert_allclose(
        compute_probabilities(About("x", loss="sigmoid"), logits).double().numpy(), chances, rtol=1e-6
    )
    assert "loss" not in About("x").as_dict()
