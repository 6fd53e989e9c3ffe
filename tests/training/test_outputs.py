"""Sets of classes and numbers: their targets in training, and their metrics on val."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score, mean_squared_error, r2_score

from vitctl.config.augment import AugmentConfig
from vitctl.data.augmentation.mixing import Mixing
from vitctl.io.weights import About
from vitctl.training.evaluation import EvalBatch
from vitctl.training.feed import smooth_labels, smooth_sets
from vitctl.training.multi_crop import MultiCrop
from vitctl.training.outputs import collect_outputs, measure_numbers, measure_sets, score_classes
from vitctl.training.ranks import Ranks

SETS = About("vitctl", task="sets", thresholds=(0.5, 0.5, 0.5, 0.5))
NUMBERS = About("vitctl", task="numbers", target=(1e6, 40.0))


def draw_outputs(seed: int, images: int = 60, classes: int = 4) -> tuple[torch.Tensor, np.ndarray]:
    random = np.random.default_rng(seed)
    truth = random.random((images, classes)) < 0.4
    outputs = torch.tensor(random.normal(size=(images, classes)) + 2 * truth, dtype=torch.float32)
    return outputs, truth


@given(st.integers(0, 200), st.floats(0, 1))
def test_a_mixed_and_smoothed_set_is_that_of_each_class_by_itself(seed: int, smoothing: float) -> None:
    """A class that is in the set or not is a label of two classes."""
    _, truth = draw_outputs(seed, images=9)
    sets, rows = torch.from_numpy(truth).float(), torch.arange(9)
    plan = Mixing(AugmentConfig(mixup=0.4, cutmix=1.0), seed).plan(0, rows, 8, 8)
    mixed = plan.mix(smooth_sets(sets, smoothing))
    for number in range(4):
        pairs = plan.targets(torch.from_numpy(truth[:, number]).long(), 2, smoothing)
        assert torch.allclose(mixed[:, number], pairs[:, 1], atol=1e-6)
        alone = smooth_labels(torch.from_numpy(truth[:, number]).long(), 2, smoothing)
        assert torch.allclose(smooth_sets(sets, smoothing)[:, number], alone[:, 1], atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_metrics_of_sets_are_those_of_scikit_learn(seed: int) -> None:
    outputs, truth = draw_outputs(seed)
    report, probabilities = measure_sets(SETS, outputs, truth), outputs.sigmoid().numpy()
    chosen = probabilities >= report.thresholds
    assert report.scores.mean_average_precision == pytest.approx(average_precision_score(truth, probabilities))
    assert report.scores.micro_f1 == pytest.approx(f1_score(truth, chosen, average="micro"))
    assert report.scores.macro_f1 == pytest.approx(f1_score(truth, chosen, average="macro"))
    loss = torch.nn.functional.binary_cross_entropy_with_logits(outputs, torch.from_numpy(truth).float())
    assert report.loss == pytest.approx(4 * float(loss), rel=1e-5)
    table = score_classes(SETS, outputs, truth, report.thresholds, ["a", "b", "c", "d"])
    assert [each.f1 for each in table] == pytest.approx(f1_score(truth, chosen, average=None))
    assert np.mean([each.average_precision for each in table]) == pytest.approx(report.scores.mean_average_precision)


def test_metrics_of_numbers_are_those_of_scikit_learn() -> None:
    outputs = torch.randn(50, 1, generator=torch.Generator().manual_seed(0))
    answers = outputs[:, 0].double().numpy() * 40 + 1e6
    truth = answers + np.random.default_rng(0).normal(size=50) * 10
    report = measure_numbers(NUMBERS, outputs, truth)
    assert report.r_squared == pytest.approx(r2_score(truth, answers))
    assert report.root_mean_square_error == pytest.approx(math.sqrt(mean_squared_error(truth, answers)))
    assert report.loss == pytest.approx(mean_squared_error(truth, answers) / 1600)


def test_val_without_any_class_still_chooses_the_best_weights() -> None:
    """The log has no NaN, and a lower loss is a better score."""
    outputs = torch.tensor([[-1.0] * 4, [-2.0] * 4])
    nothing = np.zeros((2, 4), bool)
    good = measure_sets(SETS, outputs, nothing).to_evaluation("top1")
    worse = measure_sets(SETS, outputs + 5, nothing).to_evaluation("top1")
    assert set(good.values) == {"val_loss", "val_exact_match"}
    assert good.score > worse.score > -1
    assert good.thresholds == (0.5,) * 4


def test_a_number_model_that_is_bad_has_a_score_above_the_first_one() -> None:
    """R² has no lower bound, and the best score starts at -1."""
    report = measure_numbers(NUMBERS, torch.full((3, 1), 50.0), np.array([1e6, 1e6 + 1, 1e6 + 2]))
    assert report.r_squared < -1000
    assert 0 < report.to_evaluation("top1").score < 1


def test_outputs_are_kept_by_row_and_copies_do_not_count() -> None:
    outputs, _ = draw_outputs(0, images=5)
    pixels, labels = torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64)
    batches = [
        (EvalBatch(pixels, labels, torch.tensor([3, 1])), outputs[[3, 1]]),
        (EvalBatch(pixels, labels, torch.tensor([0, 4])), outputs[[0, 4]]),
        (EvalBatch(pixels, labels, torch.tensor([0]), counts=False), outputs[[2]]),
    ]
    found = collect_outputs(iter(batches), 5, 4, Ranks())
    assert torch.equal(found[[0, 1, 3, 4]], outputs[[0, 1, 3, 4]])
    assert not found[2].any()


def test_crops_of_sets_are_averaged_as_probabilities_and_those_of_numbers_as_numbers() -> None:
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(8 * 8 * 3, 4))
    pixels = torch.randint(0, 256, (3, 8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        crops = {task: MultiCrop(model, lambda x: x / 255, (8, 8), 5, task) for task in ("sets", "numbers")}
        each = torch.stack([model(crop / 255) for crop in crops["sets"].make_crops(pixels)])
        assert torch.allclose(crops["sets"](pixels).sigmoid(), each.sigmoid().mean(0), atol=1e-6)
        assert torch.allclose(crops["numbers"](pixels), each.mean(0), atol=1e-6)


def test_about_says_nothing_of_one_class() -> None:
    """So that files of one class per image keep their bytes."""
    plain = About("vitctl")
    assert not {"task", "thresholds", "target"} & plain.as_dict().keys()
    assert {"task", "thresholds"} <= SETS.as_dict().keys()
    assert replace(SETS, task="classes", thresholds=()).as_dict() == plain.as_dict()
