"""`vitctl evaluate`: measures the accuracy of weights or of an exported file on a split."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vitctl.config.evaluate import EvaluateConfig
from vitctl.data.loader import View
from vitctl.errors import DataError, UsageError
from vitctl.inspection.charts import draw_confusion
from vitctl.io.answers import read_answers
from vitctl.io.outputs import check_output
from vitctl.io.patch_file import PatchFile, Split
from vitctl.io.weights import About
from vitctl.reporting import Progress, Reporter, SilentReporter, format_count
from vitctl.training.device import choose_device
from vitctl.training.evaluation import EvalBatch, compute_logits
from vitctl.training.feed import check_split_labels, eval_batches, evaluation_view
from vitctl.training.multi_crop import MultiCrop
from vitctl.training.outputs import collect_outputs
from vitctl.training.ranks import Ranks, join_ranks, ranks_here
from vitctl.training.tally import ClassScore, Report, Tally
from vitctl.workflows.evaluate_compare import compare_results, digest_labels, read_other
from vitctl.workflows.evaluate_outputs import (
    Evaluated,
    NumbersResult,
    SetsResult,
    check_same_task,
    describe_evaluation,
    is_selected_on,
    make_outputs_result,
    measure_split,
)
from vitctl.workflows.inputs.data import choose_data, warn_enlarged
from vitctl.workflows.inputs.model import Ready, choose_source, ready_from
from vitctl.workflows.inputs.samples import choose_held_out
from vitctl.workflows.inputs.weights import data_of_run

BATCH, LARGEST_BATCH = 64, 1024


@dataclass(frozen=True, kw_only=True)
class EvaluateResult(Evaluated):
    classes: int
    top1: float
    top1_ci95: list[float]
    top5: float
    balanced: float | None
    macro_f1: float | None
    calibration_error: float
    per_class: list[ClassScore]
    labels: str | None
    labels_digest: str | None
    confusion: str | None
    wrong: list[int]  # rows of the split whose predicted class is not correct


def evaluate(config: EvaluateConfig, reporter: Reporter | None = None) -> EvaluateResult | SetsResult | NumbersResult:
    reporter, start_time = reporter or SilentReporter(), time.perf_counter()
    check_output(config.confusion, config.data, config.compare, ending=".png")
    device = choose_device(config.device, ranks_here())
    with join_ranks(device) as ranks:
        source = choose_source(config.source, reporter, config.allow_missing, config)
        file = PatchFile(choose_data(config.data, reporter, data_of_run(config.source), source.spec.res))
        split = choose_split(file, config.split)
        ready = ready_from(
            source, reporter, file.geometry.channels, precision=config.precision, device=device,
            allow_missing=config.allow_missing,
        )  # fmt: skip
        warn_enlarged(file, ready.spec, reporter)
        warn_selected(ready.about, file, split, reporter)
        check_same_task(config, ready, file)
        other = read_other(config, ready, file, split, reporter)
        task = ready.about.task
        numbers = class_numbers(ready, file, reporter) if task != "numbers" else torch.zeros(1, dtype=torch.int64)
        if not config.labels:
            check_split_labels(split, len(numbers))
        if task != "classes":
            return evaluate_outputs(config, ready, file, split, numbers, ranks, reporter, start_time, other)
        tally = Tally(ready.spec.classes, split.rows, answer_sets(config, ready, split), ready.about.loss)
        if config.confusion and tally.confusion is None:
            raise UsageError(
                f"--confusion: {ready.spec.classes:,} classes are too many for a figure; use --json instead"
            )
        started = time.perf_counter()
        with reporter.progress("evaluate", split.rows) as bar:
            batches = renumber_labels(make_batches(ready, split, config, ranks), numbers, bar)
            for batch, logits in predict_batches(batches, ready, config):
                if batch.counts:
                    tally.add(logits, batch.labels, batch.rows)
        seconds = time.perf_counter() - started
        tally.gather(ranks)
    report = tally.report(names_of(ready, file))
    if config.confusion and ranks.first:
        draw_evaluation(report, names_of(ready, file), config, f"{ready.spec.name} on {file.path.name}, {split.name}")
    shared = describe_evaluation(config, ready, file, split, seconds, time.perf_counter() - start_time)
    return make_evaluate_result(config, shared, ready.spec.classes, report, other)


def evaluate_outputs(
    config: EvaluateConfig, ready: Ready, file: PatchFile, split: Split, numbers: torch.Tensor, ranks: Ranks,
    reporter: Reporter, start_time: float, other: dict[str, Any] | None,
) -> SetsResult | NumbersResult:  # fmt: skip
    """Of sets and numbers."""
    started = time.perf_counter()
    with reporter.progress("evaluate", split.rows) as bar:
        pairs = predict_batches(show_progress(make_batches(ready, split, config, ranks), bar), ready, config)
        outputs = collect_outputs(pairs, split.rows, ready.spec.classes, ranks)
    seconds = time.perf_counter() - started
    metrics = measure_split(outputs, ready, split, numbers)
    shared = describe_evaluation(config, ready, file, split, seconds, time.perf_counter() - start_time)
    return make_outputs_result(shared, metrics, compare_results(config, other, shared["task"], split.rows, metrics))


def predict_batches(
    batches: Iterable[EvalBatch], ready: Ready, config: EvaluateConfig
) -> Iterator[tuple[EvalBatch, torch.Tensor]]:
    model, normalize = ready.model, ready.normalize
    if config.crops > 1:
        size, task = (ready.spec.height, ready.spec.width), "sets" if ready.about.uses_sigmoid else ready.about.task
        model, normalize = MultiCrop(ready.model, ready.normalize, size, config.crops, task), lambda pixels: pixels
    return compute_logits(model, batches, normalize, ready.autocast, ready.device)


def make_batches(ready: Ready, split: Split, config: EvaluateConfig, ranks: Ranks) -> Iterator[EvalBatch]:
    """Batches of the split. Images keep the size of the file if they are cropped later."""
    view, crop = evaluation_view(ready.spec, ready.about), ready.about.eval_crop
    if config.crops > 1:
        view = View("images")
    elif ready.takes_bytes:  # it takes the center itself
        view = View("images", res=(ready.spec.height, ready.spec.width), eval_crop=replace(crop, border=True))
    batch = config.batch or batch_in_training(ready.about) or BATCH
    return eval_batches(split, batch, ranks, ready.device, view)


def batch_in_training(about: About) -> int | None:
    """The batch size of the evaluation during training: in bf16 another one gives slightly different logits."""
    batch = about.training.get("eval_batch")
    return min(batch, LARGEST_BATCH) if isinstance(batch, int) and batch > 0 else None


def renumber_labels(batches: Iterable[EvalBatch], numbers: torch.Tensor, bar: Progress) -> Iterator[EvalBatch]:
    """Replace each label of the data by the model's number for its class; -1 (no label) stays -1."""
    table = torch.cat([numbers, torch.tensor([-1])])  # index -1 is the last element
    for batch in show_progress(batches, bar):
        yield replace(batch, labels=table[batch.labels.cpu()])


def show_progress(batches: Iterable[EvalBatch], bar: Progress) -> Iterator[EvalBatch]:
    for batch in batches:
        yield batch
        bar.advance(len(batch.labels) if batch.counts else 0)


def warn_selected(about: About, file: PatchFile, split: Split, reporter: Reporter) -> None:
    if is_selected_on(about, file, split):
        reporter.warn(
            f"these weights were chosen as the best on {split.name} of this data, so that their result on it is too "
            "good; the last weights of the run (RUN:last), or another split, are not biased by that"
        )


def choose_split(file: PatchFile, name: str | None) -> Split:
    name = name or choose_held_out(file)
    if not name:
        raise DataError(f"{file.path}: has no split test or val; choose one of {', '.join(file.splits)} with --split")
    return file.split(name)


def class_numbers(ready: Ready, file: PatchFile, reporter: Reporter) -> torch.Tensor:
    """The model's number for each class of the data [classes of the data]; matched by name if the model has names."""
    own, names, count = ready.about.class_names, file.class_names, ready.spec.classes
    if not own:
        if count != len(names):
            raise DataError(
                f"{file.path}: has {format_count(len(names), 'class')}, but the model has {count}; "
                "train a new head with vitctl finetune"
            )
        reporter.note("the weights have no class names: assuming the classes are in the same order as in the data")
        return torch.arange(count)
    unknown = [name for name in names if name not in own]
    if unknown:
        missing = f"{format_count(len(unknown), 'class')} of it ({', '.join(unknown[:3])})"
        raise DataError(
            f"{file.path}: the model lacks {missing} and has {', '.join(own[:3])}, ...; "
            "train a new head with vitctl finetune"
        )
    if own != names:
        reporter.note(f"classes are matched by name: {len(names)} of the model's {len(own)} are in the data")
    return torch.tensor([own.index(name) for name in names], dtype=torch.int64)


def names_of(ready: Ready, file: PatchFile) -> list[str]:
    return list(ready.about.class_names or file.class_names)


def answer_sets(config: EvaluateConfig, ready: Ready, split: Split) -> torch.Tensor | None:
    """The correct classes of each image from the file --labels, bool [M, K]; None without it."""
    if not config.labels:
        return None
    path, names = Path(config.labels), list(ready.about.class_names)
    sets = torch.zeros(split.rows, ready.spec.classes, dtype=torch.bool)
    for row, answers in enumerate(read_answers(path, split.names(np.arange(split.rows)))):
        for answer in answers:
            sets[row, class_number(answer, names, ready.spec.classes, path)] = True
    if not sets.any():
        raise DataError(f"{path}: has no labels for the images of {split.name}")
    return sets


def class_number(answer: int | str, names: list[str], count: int, path: Path) -> int:
    if isinstance(answer, str) and answer in names:
        return names.index(answer)
    if isinstance(answer, int) and 0 <= answer < count:
        return answer
    raise DataError(f"{path}: has {answer!r}, which is not a class of the model; it has {format_count(count, 'class')}")


def draw_evaluation(report: Report, names: list[str], config: EvaluateConfig, title: str) -> None:
    assert report.confusion is not None
    draw_confusion(
        report.confusion.numpy(), names, Path(config.confusion or ""),
        f"{title}: top-1 {report.top1:.2%} of {format_count(report.pictures, 'image')}",
    )  # fmt: skip


def make_evaluate_result(
    config: EvaluateConfig, shared: dict[str, Any], classes: int, report: Report, other: dict[str, Any] | None
) -> EvaluateResult:
    metrics: dict[str, Any] = {"top1": report.top1, "wrong": report.wrong}
    return EvaluateResult(
        **shared | {"pictures": report.pictures}, **metrics, classes=classes, top1_ci95=list(report.interval),
        top5=report.top5, balanced=report.balanced, macro_f1=report.macro_f1, loss=report.loss,
        calibration_error=report.calibration_error, per_class=report.per_class, labels=config.labels,
        labels_digest=digest_labels(config), confusion=config.confusion,
        comparison=compare_results(config, other, "classes", report.pictures, metrics),
    )  # fmt: skip
