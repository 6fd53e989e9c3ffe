"""`vitctl evaluate --compare`: the difference from another evaluation of the same images."""

import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vitctl.config.evaluate import EvaluateConfig
from vitctl.errors import DataError
from vitctl.io.files import read_json
from vitctl.io.patch_file import PatchFile, Split
from vitctl.probing.metrics import MAIN
from vitctl.probing.paired import RESAMPLES, mcnemar_p, percentile_interval, tango_interval
from vitctl.reporting import Reporter, printable_text
from vitctl.workflows.inputs.data import LABEL_WORDS
from vitctl.workflows.inputs.model import Ready

MAKE = "make one with vitctl evaluate --json"
SAME = {
    "precision": "precision",
    "crops": "crops",
    "eval_crop": "evaluation crop:",
}  # else the difference has two causes


@dataclass(frozen=True)
class PairedComparison:
    """This evaluation minus another one."""

    against: str  # the JSON file of the other one
    weights: str  # of the other one
    weights_digest: str
    model: str
    metric: str
    value: float | None  # of the other one; None if it has none
    difference: float | None
    ci95: list[float] | None
    only_this: int | None = None  # images that only this one has right; of sets, the whole set; None of numbers
    only_other: int | None = None
    p: float | None = None  # McNemar's exact test of these two


def digest_labels(config: EvaluateConfig) -> str | None:
    """Of the content of --labels, however it is laid out."""
    if not config.labels:
        return None
    return hashlib.sha256(json.dumps(read_json(Path(config.labels)), sort_keys=True).encode()).hexdigest()


def read_other(
    config: EvaluateConfig, ready: Ready, file: PatchFile, split: Split, reporter: Reporter
) -> dict[str, Any] | None:
    """The result in the file --compare, after checking that it is of the same images and labels; None without it."""
    if not config.compare:
        return None
    path, task = config.compare, ready.about.task
    other = read_json(Path(path))
    if not isinstance(other, dict) or other.get("command") != "evaluate":
        raise DataError(f"{path}: is not a result of vitctl evaluate; {MAKE}")
    if other.get("data_digest") != file.digest:
        raise DataError(f"{path}: is of other data ({show(other, 'data')}) than {file.path}; evaluate both on the same")
    if other.get("split") != split.name:
        raise DataError(f"{path}: is of split {show(other, 'split')}, not of {split.name}; choose it with --split")
    if other.get("task") != task:
        raise DataError(f"{path}: does not have {LABEL_WORDS[task]} per image; evaluate both with the same labels")
    if other.get("labels_digest") != digest_labels(config):
        theirs, own = show(other, "labels"), config.labels or "none"
        raise DataError(f"{path}: has other labels (--labels {theirs}) than this ({own}); evaluate both with the same")
    if not has_answers(other, split.rows):
        raise DataError(f"{path}: lacks the answers per image, as of an earlier version; {MAKE}")
    tell_other_ways(path, other, config, ready, reporter)
    return other


def show(other: dict[str, Any], name: str) -> str:
    return printable_text(str(other.get(name) or "none"))[:80]


def is_finite(value: Any) -> bool:
    """Of a value from JSON, where a number may be NaN or larger than a float."""
    return type(value) in (int, float) and -sys.float_info.max <= value <= sys.float_info.max


def has_answers(other: dict[str, Any], rows: int) -> bool:
    """Whether the fields that a comparison reads are there, and of the right kind."""
    task, value = other["task"], other.get(MAIN[other["task"]], "")
    wrong, resamples = other.get("wrong"), other.get("resamples")
    named = all(isinstance(other.get(name), str) for name in ("weights", "weights_digest", "model"))
    has_wrong = isinstance(wrong, list) and all(type(row) is int and 0 <= row < rows for row in wrong)
    has_resamples = (
        isinstance(resamples, list)
        and len(resamples) == RESAMPLES
        and all(each is None or is_finite(each) for each in resamples)
    )
    is_number = is_finite(value) or (value is None and task != "classes")
    return named and is_number and (has_wrong or task == "numbers") and (has_resamples or task == "classes")


def tell_other_ways(path: str, other: dict[str, Any], config: EvaluateConfig, ready: Ready, reporter: Reporter) -> None:
    own = {"precision": ready.precision, "crops": config.crops, "eval_crop": str(ready.about.eval_crop)}
    changed = [name for name in own if other.get(name) != own[name]]
    if changed:
        theirs, ours = (", ".join(f"{SAME[name]} {show(each, name)}" for name in changed) for each in (other, own))
        reporter.note(f"{path}: was computed in another way: {theirs}; here it is {ours}")
    if other.get("selected_on_split"):
        reporter.note(f"{path}: its weights were chosen on these images, so that its result is too good")


def compare_results(
    config: EvaluateConfig, other: dict[str, Any] | None, task: str, images: int, metrics: dict[str, Any]
) -> PairedComparison | None:
    """`metrics`: of this evaluation, by their names in the result; `images`: how many have a label."""
    if other is None:
        return None
    metric = MAIN[task]
    own, value = metrics[metric], other[metric]
    own_wrong, other_wrong = (set(each.get("wrong") or ()) for each in (metrics, other))
    this, only = len(other_wrong - own_wrong), len(own_wrong - other_wrong)
    if task == "classes":
        interval: tuple[float, float] | None = tango_interval(this, only, images)
    else:
        resamples = [np.array(each["resamples"], np.float64) for each in (metrics, other)]  # null is NaN
        interval = percentile_interval(resamples[0] - resamples[1])
    counts: dict[str, Any] = (
        {} if task == "numbers" else {"only_this": this, "only_other": only, "p": mcnemar_p(this, only)}
    )
    return PairedComparison(
        against=str(config.compare), weights=other["weights"], weights_digest=other["weights_digest"],
        model=other["model"], metric=metric, value=value,
        difference=None if own is None or value is None else own - value,
        ci95=list(interval) if interval else None, **counts,
    )  # fmt: skip
