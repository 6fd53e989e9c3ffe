"""What `vitctl evaluate` measures where a label is a set of classes or a number."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vitctl.config.evaluate import EvaluateConfig
from vitctl.errors import DataError, UsageError
from vitctl.io.patch_file import PatchFile, Split
from vitctl.io.weights import About
from vitctl.models.answers import compute_numbers, compute_probabilities
from vitctl.probing.metrics import find_wrong_sets
from vitctl.probing.paired import resample_numbers, resample_sets
from vitctl.training.outputs import SetClassScore, measure_numbers, measure_sets, score_classes
from vitctl.workflows.evaluate_compare import PairedComparison
from vitctl.workflows.inputs.data import LABEL_WORDS
from vitctl.workflows.inputs.model import Ready


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    weights: str
    weights_digest: str
    model: str
    res: list[int]
    data: str
    data_digest: str
    split: str
    pictures: int
    task: str
    loss: float
    crops: int
    precision: str
    device: str
    images_per_s: float
    elapsed_s: float
    eval_crop: str
    selected_on_split: bool  # whether the weights were chosen by their result on these images
    comparison: PairedComparison | None  # with --compare


@dataclass(frozen=True, kw_only=True)
class SetsResult(Evaluated):
    classes: int  # of the data
    mean_average_precision: float | None  # None if no image has a class
    micro_f1: float | None
    macro_f1: float | None
    exact_match: float
    per_class: list[SetClassScore]
    wrong: list[int]  # rows of the split whose set is not predicted exactly
    resamples: list[float | None]  # mAP of bootstrap resamples, the same ones for every model; None if it has none


@dataclass(frozen=True, kw_only=True)
class NumbersResult(Evaluated):
    r_squared: float | None  # None of a single image
    mean_absolute_error: float
    root_mean_square_error: float
    resamples: list[float | None]  # R² of bootstrap resamples


def check_same_task(config: EvaluateConfig, ready: Ready, file: PatchFile) -> None:
    own, task = ready.about.task, file.header.task
    if own != task:
        raise DataError(
            f"{file.path}: has {LABEL_WORDS[task]} per image, but the model answers with {LABEL_WORDS[own]}; "
            "train a new head with vitctl finetune"
        )
    for name in ("labels", "confusion"):
        if task != "classes" and getattr(config, name):
            raise UsageError(f"--{name}: needs one class per image; {file.path} has {LABEL_WORDS[task]}")


def measure_split(outputs: torch.Tensor, ready: Ready, split: Split, numbers: Any) -> dict[str, Any]:
    """The metrics, by their names in the result. `numbers`: the model's number for each class of the data."""
    about = ready.about
    if about.task == "numbers":
        targets = split.targets()
        resamples = resample_numbers(targets, compute_numbers(about, outputs))
        return replace_nan(vars(measure_numbers(about, outputs, targets))) | {"resamples": round_values(resamples)}
    truth, outputs, thresholds = split.label_sets().astype(bool), outputs[:, numbers], np.array(about.thresholds)
    report = measure_sets(about, outputs, truth, thresholds[numbers])
    table = score_classes(about, outputs, truth, report.thresholds, list(split.header.class_names))
    probabilities = compute_probabilities(about, outputs).numpy()
    return {
        "classes": len(table), "per_class": table, **replace_nan({"loss": report.loss, **vars(report.scores)}),
        "wrong": find_wrong_sets(probabilities, truth, report.thresholds).tolist(),
        "resamples": round_values(resample_sets(probabilities, truth)),
    }  # fmt: skip


def round_values(values: Any) -> list[float | None]:
    """To the digits that an interval needs."""
    return [None if np.isnan(value) else value for value in np.round(values, 6).tolist()]


def replace_nan(values: dict[str, float]) -> dict[str, float | None]:
    return {name: None if np.isnan(value) else value for name, value in values.items()}


def make_outputs_result(
    shared: dict[str, Any], metrics: dict[str, Any], comparison: PairedComparison | None
) -> SetsResult | NumbersResult:
    return (SetsResult if shared["task"] == "sets" else NumbersResult)(**shared, **metrics, comparison=comparison)


def describe_evaluation(
    config: EvaluateConfig, ready: Ready, file: PatchFile, split: Split, seconds: float, elapsed: float
) -> dict[str, Any]:
    """The fields of every result but the metrics."""
    return {
        "weights": ready.path, "weights_digest": ready.digest, "model": ready.spec.name, "res": list(ready.spec.res),
        "data": str(file.path), "data_digest": file.digest, "split": split.name, "pictures": split.rows,
        "task": ready.about.task, "crops": config.crops, "precision": ready.precision, "device": ready.device.type,
        "images_per_s": split.rows / seconds, "elapsed_s": elapsed, "eval_crop": str(ready.about.eval_crop),
        "selected_on_split": is_selected_on(ready.about, file, split),
    }  # fmt: skip


def is_selected_on(about: About, file: PatchFile, split: Split) -> bool:
    """Whether the weights are the best of a run by this split of this data."""
    chosen = about.training.get("selected_on") == split.name
    return chosen and about.training.get("data_digest") == file.digest
