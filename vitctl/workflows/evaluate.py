"""`vitctl evaluate`: how often weights are right on a split."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch

from vitctl.config.evaluate import EvaluateConfig
from vitctl.errors import DataError, UsageError
from vitctl.io.patch_file import PatchFile, Split
from vitctl.io.weights import Weights
from vitctl.models.adapt import adapted
from vitctl.reporting import Progress, Reporter, Silent, counted
from vitctl.training.evaluation import Exam
from vitctl.training.evaluation import evaluate as examine
from vitctl.training.precision import chosen
from vitctl.training.ranks import joined, ranks_here
from vitctl.workflows.choose import choose_data
from vitctl.workflows.load import choose_weights, load_model
from vitctl.workflows.train.feed import Normaliser, check_labels, exams
from vitctl.workflows.train.start import device_of

SPLITS = ("test", "val")  # the first that is there


@dataclass(frozen=True)
class EvaluateResult:
    weights: str
    weights_digest: str
    model: str
    res: list[int]
    data: str
    data_digest: str
    split: str
    pictures: int
    classes: int
    top1: float
    top5: float
    loss: float
    precision: str
    device: str
    images_per_s: float
    elapsed_s: float


def evaluate(config: EvaluateConfig, reporter: Reporter | None = None) -> EvaluateResult:
    reporter, began = reporter or Silent(), time.perf_counter()
    device = device_of(config.device, ranks_here())
    with joined(device) as ranks:
        weights = choose_weights(config.source, reporter, config.allow_missing)
        path = choose_data(config.data, reporter)
        file = PatchFile(path)
        split = split_of(file, config.split)
        numbers = class_numbers(weights, file, reporter)
        check_labels(split, len(numbers))
        fitting = adapted(weights, channels=file.geometry.channels)
        model = load_model(fitting, allow_missing=config.allow_missing).to(device)
        precision, spec = chosen(config.precision, device), fitting.spec
        started = time.perf_counter()
        with reporter.progress("evaluate", split.rows) as bar:
            rounds = renumbered(exams(split, spec, config.batch, ranks, device), numbers.to(device), bar)
            score = examine(model, rounds, Normaliser(spec, fitting.about), precision, device, ranks)
        seconds = time.perf_counter() - started
    return EvaluateResult(
        weights=weights.path,
        weights_digest=weights.digest(),
        model=spec.name,
        res=[spec.height, spec.width],
        data=str(path),
        data_digest=file.digest,
        split=split.name,
        pictures=score.pictures,
        classes=spec.classes,
        top1=score.top1,
        top5=score.top5,
        loss=score.loss,
        precision=precision,
        device=device.type,
        images_per_s=score.pictures / seconds,
        elapsed_s=time.perf_counter() - began,
    )


def split_of(file: PatchFile, name: str | None) -> Split:
    there = [each for each in SPLITS if each in file.splits]
    if not name and not there:
        raise DataError(f"{file.path}: has neither test nor val; name one of {', '.join(file.splits)} with --split")
    return file.split(name or there[0])


def class_numbers(weights: Weights, file: PatchFile, reporter: Reporter) -> torch.Tensor:
    """The model's number for each class of the data: by their names, where the model has names."""
    own, theirs, count = weights.about.class_names, file.class_names, weights.spec.classes
    if not count:
        raise UsageError(
            f"{weights.path}: has no head, so there is nothing to be right or wrong; vitctl finetune gives it one"
        )
    if not own:
        if count != len(theirs):
            raise DataError(
                f"{file.path}: has {counted(len(theirs), 'class')}, the model {count}; "
                "vitctl finetune gives it a head for them"
            )
        reporter.note("the weights have no class names: the classes are taken to be in the same order")
        return torch.arange(count)
    unknown = [name for name in theirs if name not in own]
    if unknown:
        raise DataError(
            f"{file.path}: {counted(len(unknown), 'class')} that the model does not know ({', '.join(unknown[:3])}); "
            f"it knows {', '.join(own[:3])}, ...; vitctl finetune gives it a head for them"
        )
    if own != theirs:
        reporter.note(f"classes are matched by name: {len(theirs)} of the model's {len(own)} are in the data")
    return torch.tensor([own.index(name) for name in theirs])


def renumbered(rounds: Iterable[Exam], numbers: torch.Tensor, bar: Progress) -> Iterator[Exam]:
    for exam in rounds:
        yield replace(exam, labels=numbers[exam.labels])
        bar.advance(len(exam.labels) if exam.counts else 0)
