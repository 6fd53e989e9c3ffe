"""Protocols of others, restated from their definitions."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from vitctl.config.fewshot import ProbeConfig
from vitctl.probing.draws import draw_episode, draw_orders, hold_out_validation, take_shots
from vitctl.probing.estimators import DinoLogistic, NearestMean, NearestNeighbors
from vitctl.probing.fewshot import ProbeTask, run_trial

DINO = ProbeConfig(draws="dinov3")


@pytest.fixture(scope="module")
def task() -> ProbeTask:
    """Features of the digits by an untrained model: real images, and nothing that is separable at once."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    random = np.random.default_rng(0)
    features = np.tanh(images @ random.normal(size=(64, 24)) / 40).astype(np.float32)
    return ProbeTask(features[:900], labels[:900], features[900:], labels[900:], 10)


def subset_per_class(labels: np.ndarray, shots: int, seed: int) -> list[int]:
    """The rows of DINOv3's few-shot subset: a permutation for each class in turn, of one generator."""
    generator = torch.Generator()
    generator.manual_seed(seed)
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for number in sorted(set(labels.tolist())):
        (rows,) = torch.nonzero(torch.as_tensor(labels) == number, as_tuple=True)
        chosen[rows[torch.randperm(len(rows), generator=generator)[:shots]]] = True
    return torch.nonzero(chosen).flatten().tolist()


@pytest.mark.parametrize("seed", [0, 1, 5])
@pytest.mark.parametrize("shots", [1, 4, 30])
def test_draws_are_those_of_dinov3(task: ProbeTask, seed: int, shots: int) -> None:
    rows = take_shots(draw_orders(task.labels, 10, seed, "dinov3"), shots)
    assert sorted(rows.tolist()) == subset_per_class(task.labels, shots, seed)


def test_a_class_that_no_image_has_does_not_change_the_draws_of_dinov3(task: ProbeTask) -> None:
    labels = task.labels + (task.labels > 4)  # nobody has class 5
    rows = take_shots(draw_orders(labels, 11, 3, "dinov3"), 4)
    assert sorted(rows.tolist()) == subset_per_class(labels, 4, 3)


@pytest.mark.parametrize("k", [10, 20, 100, 200])
@pytest.mark.parametrize("shots", [3, 30, None])
def test_neighbors_vote_as_in_dinov3(task: ProbeTask, k: int, shots: int | None) -> None:
    trial = run_trial(task, "knn", replace(DINO, k=(k,)), shots, 1)
    rows = sorted(trial.rows.tolist())
    assert rows == (subset_per_class(task.labels, shots, 1) if shots else list(range(900)))
    train, tests = (torch.nn.functional.normalize(torch.tensor(x)) for x in (task.train[rows], task.test))
    values, places = (tests.double() @ train.double().T).topk(min(200, len(rows)), 1)
    shares = torch.softmax(values / 0.07, 1)[:, :k]
    votes = torch.zeros(len(tests), 10, dtype=torch.float64)
    votes.scatter_add_(1, torch.tensor(task.labels[rows])[places[:, :k]], shares)
    ours = np.concatenate(list(NearestNeighbors(k).fit(task.train[rows], task.labels[rows]).vote_parts(task.test)))
    shares_of = lambda each: each / each.sum(1, keepdims=True)  # noqa: E731
    np.testing.assert_allclose(shares_of(ours), shares_of(votes.numpy()), atol=1e-6)
    assert trial.top1 == pytest.approx(float((votes.argmax(1).numpy() == task.truth).mean()), abs=1e-6)


def dinos_regression(c: float, x: np.ndarray, y: np.ndarray) -> LogisticRegression:
    return LogisticRegression(C=c, max_iter=1000, tol=1e-12, solver="lbfgs").fit(x.astype(np.float64), y)


def dinos_validation(labels: np.ndarray, share: float) -> tuple[list[int], list[int]]:
    generator = torch.Generator()
    generator.manual_seed(0)
    order = torch.randperm(len(labels), generator=generator).tolist()
    left = {number: max(1, int(share * count)) for number, count in enumerate(np.bincount(labels))}
    rest: list[int] = []
    part: list[int] = []
    for row in order:
        number = int(labels[row])
        (part if left[number] else rest).append(row)
        left[number] -= bool(left[number])
    return rest, part


@pytest.mark.parametrize("shots", [4, None])
def test_logistic_regression_is_that_of_dinov3_with_its_45_strengths(task: ProbeTask, shots: int | None) -> None:
    if shots is None:  # fewer images, as 45 fits to all take a while
        task = replace(task, train=task.train[:100], labels=task.labels[:100])
    trial = run_trial(task, "logreg-val", DINO, shots, 2)
    rest, part = dinos_validation(task.labels, 0.01 if shots else 0.1)
    rows = [rest[place] for place in subset_per_class(task.labels[rest], shots, 2)] if shots else rest
    x, y, best = task.train, task.labels, (-1.0, 0.0)
    for power in torch.linspace(-6, 5, 45):
        model = dinos_regression((10**power).item(), x[rows], y[rows])
        accuracy = float((model.predict(x[part].astype(np.float64)) == y[part]).mean())
        best = max(best, (accuracy, (10**power).item()), key=lambda each: each[0])  # the first of the best
    assert trial.strength == pytest.approx(best[1], rel=1e-6)
    rows = rows if shots else rows + part
    final = dinos_regression(best[1], x[rows], y[rows])
    assert sorted(trial.rows.tolist()) == sorted(rows)
    assert trial.top1 == pytest.approx((final.predict(task.test.astype(np.float64)) == task.truth).mean(), abs=1e-6)
    ours = DinoLogistic(trial.strength or 0).fit(x[trial.rows], y[trial.rows]).predict_proba(task.test)
    np.testing.assert_allclose(ours, final.predict_proba(task.test.astype(np.float64)), atol=1e-6)


def test_strengths_are_chosen_on_val_where_there_is_one(task: ProbeTask) -> None:
    with_val = replace(task, train=task.train[:60], labels=task.labels[:60], val=(task.train[500:], task.labels[500:]))
    trial = run_trial(with_val, "logreg-val", DINO, None, 0)
    assert sorted(trial.rows.tolist()) == list(range(60))  # nothing of train is held out
    both = np.concatenate([task.train[:60], task.train[500:]]), np.concatenate([task.labels[:60], task.labels[500:]])
    final = dinos_regression(trial.strength or 0, *both)
    assert trial.top1 == pytest.approx((final.predict(task.test.astype(np.float64)) == task.truth).mean(), abs=0.003)


def test_a_class_of_one_image_is_not_held_out() -> None:
    rest, part = hold_out_validation(np.array([0] * 30 + [1]), 2, 0.1)
    assert (len(part), 30 in rest) == (3, True)


def test_episodes_are_scored_as_by_simpleshot(task: ProbeTask) -> None:
    base = task.test.mean(0)
    for norm, name in (("cl2n", "ncm"), ("l2n", "ncm-l2n"), ("un", "ncm-un")):
        for seed in range(20):
            config = ProbeConfig(draws="episodes", ways=4, queries=6)
            trial = run_trial(replace(task, base=base), name, config, 3, seed)
            rows, queries = draw_episode(task.labels, 4, 3, 6, seed)
            gallery, query = task.train[rows], task.train[queries]
            if norm == "cl2n":
                gallery, query = gallery - base, query - base
            if norm != "un":
                gallery, query = (each / np.linalg.norm(each, axis=1)[:, None] for each in (gallery, query))
            means = gallery.reshape(4, 3, -1).mean(1)
            nearest = np.linalg.norm(means[:, None] - query, axis=-1).argmin(0)
            assert trial.top1 == (task.labels[rows][::3][nearest] == task.labels[queries]).mean()


def test_an_episode_has_each_image_once_and_as_many_of_each_class() -> None:
    labels = np.repeat(np.arange(8), [5, 9, 9, 3, 12, 9, 2, 10])
    for seed in range(50):
        rows, queries = draw_episode(labels, 3, 4, 5, seed)
        assert len(set(rows) | set(queries)) == 27
        assert np.bincount(labels[rows])[np.unique(labels[rows])].tolist() == [4, 4, 4]
        assert np.bincount(labels[queries])[np.unique(labels[queries])].tolist() == [5, 5, 5]
        assert set(labels[rows]) <= {1, 2, 4, 5, 7}  # the others have fewer than nine


def test_the_base_of_simpleshot_is_subtracted_in_place_of_the_shots_mean() -> None:
    x, y = np.array([[5.0, 1.0], [5.0, -1.0]]), np.array([0, 1])
    assert NearestMean(base=np.array([5.0, 0.0])).fit(x, y).scale(x).tolist() == [[0, 1], [0, -1]]
