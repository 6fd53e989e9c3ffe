"""`vitctl predict`: classifies images."""

import csv
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from torch import nn

from vitctl.config.predict import PredictConfig
from vitctl.data.patchifier.decode import Target
from vitctl.data.previews import Preview, images_at, read_previews
from vitctl.errors import DataError
from vitctl.inspection.sheets import Verdict, draw_predictions
from vitctl.io.atomic import atomic_write
from vitctl.io.csv_cells import text_cell
from vitctl.io.outputs import check_output
from vitctl.io.weights import About, Weights
from vitctl.models.answers import compute_numbers, compute_probabilities
from vitctl.reporting import Reporter, SilentReporter, format_count
from vitctl.training.device import autocast, choose_device
from vitctl.training.ranks import Ranks
from vitctl.training.tally import check_finite_logits
from vitctl.workflows.inputs.model import Ready, check_has_head, choose_model
from vitctl.workflows.inputs.preprocess import Picture, Preprocess, target_for_model
from vitctl.workflows.inputs.weights import load_model


@dataclass(frozen=True)
class ImagePrediction:
    name: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    path: str
    label: str | None  # its folder, if that is named after a class of the model which answers with one class
    top: list[ImagePrediction]  # of a set, all its classes
    number: float | None = None  # of a model that answers with numbers


@dataclass(frozen=True)
class Unreadable:
    path: str
    reason: str


@dataclass(frozen=True)
class PredictResult:
    weights: str
    weights_digest: str
    model: str
    res: list[int]
    pictures: int
    predictions: list[Prediction]
    unreadable: list[Unreadable]
    labelled: int
    top1: float | None  # of the labelled images
    csv: str | None
    sheet: str | None
    precision: str
    device: str
    images_per_s: float
    elapsed_s: float
    task: str = "classes"


@overload
def predict(images: PredictConfig, reporter: Reporter | None = None) -> PredictResult: ...


@overload
def predict(
    images: Picture | Sequence[Picture],
    reporter: Reporter | None = None,
    *,
    source: str | Path | Weights | nn.Module | None = None,
    top: int = 5,
) -> list[Any]: ...


def predict(
    images: PredictConfig | Picture | Sequence[Picture],
    reporter: Reporter | None = None,
    *,
    source: str | Path | Weights | nn.Module | None = None,
    top: int = 5,
) -> PredictResult | list[Any]:
    """The command, by its config; or the classes of PIL images, uint8 arrays and files, the likeliest first.

    Of a model that answers with sets, these are the classes of the set; of one that answers with numbers, numbers.

    `source` is what --from takes, or a model of `vitctl.load_model`.
    """
    if isinstance(images, PredictConfig):
        return predict_files(images, reporter or SilentReporter())
    if isinstance(source, nn.Module):
        spec, about, device = source.spec, source.about, next(source.parameters()).device
        ready = Ready(source, spec, about, spec.name, "", "float32", device)  # type: ignore[arg-type,union-attr]
    elif isinstance(source, Weights):
        return predict(images, reporter, source=load_model(source), top=top)
    else:
        flag = None if source is None else str(source)
        ready = choose_model(flag, reporter or SilentReporter(), device=choose_device("auto", Ranks()))
    pixels = Preprocess(ready.spec, ready.about, ready.takes_bytes).to_bytes(images)
    outputs, names = compute_outputs(check_has_head(ready), pixels), list_class_names(ready)
    if ready.about.task == "numbers":
        return list(map(float, compute_numbers(ready.about, outputs)))
    return list(choose_classes(ready.about, outputs, names, top))


def list_class_names(ready: Ready) -> list[str]:
    return list(ready.about.class_names) or [str(number) for number in range(ready.spec.classes)]


@torch.no_grad()
def compute_outputs(ready: Ready, pixels: np.ndarray[Any, Any]) -> torch.Tensor:
    """float32 [B, K] of images [B, H, W, C]."""
    with autocast(ready.autocast, ready.device):
        logits: torch.Tensor = ready.model(ready.normalize(torch.from_numpy(pixels).to(ready.device))).float()
    check_finite_logits(logits)
    return logits


def choose_classes(about: About, outputs: torch.Tensor, names: list[str], top: int) -> Iterator[list[ImagePrediction]]:
    """The classes of each image, the likeliest first: `top` of them, or all whose probability reaches the threshold."""
    probabilities = compute_probabilities(about, outputs).cpu()
    is_set = about.task == "sets"
    ranked = probabilities.topk(len(names) if is_set else min(top, len(names)), dim=1)
    for values, numbers in zip(ranked.values.tolist(), ranked.indices.tolist(), strict=True):
        pairs = zip(values, numbers, strict=True)
        yield [
            ImagePrediction(names[number], value)
            for value, number in pairs
            if not is_set or value >= about.thresholds[number]
        ]


def predict_files(config: PredictConfig, reporter: Reporter) -> PredictResult:
    start_time = time.perf_counter()
    paths = images_at(config.pictures)
    check_output(config.csv, *config.pictures, *paths, ending=".csv")
    check_output(config.sheet, *config.pictures, *paths, ending=".png")
    device = choose_device(config.device, Ranks())
    ready = choose_model(
        config.source, reporter, precision=config.precision, device=device,
        allow_missing=config.allow_missing, pixels=config,
    )  # fmt: skip
    session = Session(config, ready, paths)
    started = time.perf_counter()
    with reporter.progress("predict", len(paths)) as bar, session.open_table():
        for batch in read_previews(paths, target_of(ready, config), config.batch):
            for each in session.take(batch):
                reporter.warn(f"{each.path}: {each.reason}")
            bar.advance(len(batch))
        session.check_answered()
    seconds = time.perf_counter() - started
    if config.sheet:
        session.draw(Path(config.sheet))
    return session.result(seconds, time.perf_counter() - start_time)


def target_of(ready: Ready, config: PredictConfig) -> Target:
    spec = ready.spec
    if spec.channels not in (1, 3):
        raise DataError(f"{ready.path}: the model needs {spec.channels} channels; images have 1 or 3")
    crop = replace(ready.about.eval_crop, fit=config.fit or ready.about.fit)
    return replace(target_for_model(spec, crop, ready.takes_bytes), max_pixels=config.max_pixels)


class Session:
    """Collects predictions batch by batch."""

    def __init__(self, config: PredictConfig, ready: Ready, paths: list[str]) -> None:
        self.config, self.ready = config, ready
        self.names = list_class_names(ready)
        self.top = min(config.top, len(self.names))
        indices = np.linspace(0, len(paths) - 1, min(len(paths), config.sheet_pictures)).round().astype(int)
        self.on_sheet = {paths[index] for index in indices} if config.sheet else set()
        self.predictions: list[Prediction] = []
        self.unreadable: list[Unreadable] = []
        self.verdicts: list[Verdict] = []
        self.answered = self.labelled = self.right = 0
        self.owed = 0  # unreadable images of `on_sheet`: the next readable ones replace them
        self.table: Any = None

    @contextmanager
    def open_table(self) -> Iterator[None]:
        """Within this context, predictions are written to --csv, if given."""
        if not self.config.csv:
            yield
            return
        with atomic_write(Path(self.config.csv)) as path, open(path, "w", newline="", encoding="utf-8") as file:
            self.table = csv.writer(file)
            self.table.writerow(self.header)
            yield

    def take(self, batch: list[Preview]) -> list[Unreadable]:
        """Predict a batch; return the images that could not be read."""
        bad = [Unreadable(each.path, each.reason) for each in batch if each.pixels is None]
        self.unreadable += bad
        self.owed += sum(each.path in self.on_sheet for each in bad)
        good = [each for each in batch if each.pixels is not None]
        for each, prediction in zip(good, self.predict(good), strict=True):
            self.add(prediction, each.pixels)
        return bad

    def predict(self, good: list[Preview]) -> Iterator[Prediction]:
        if not good:
            return
        outputs, about = compute_outputs(self.ready, np.stack([each.pixels for each in good])), self.ready.about  # type: ignore[misc]
        if about.task == "numbers":
            for each, number in zip(good, compute_numbers(about, outputs).tolist(), strict=True):
                yield Prediction(each.path, None, [], number)
            return
        for each, top in zip(good, choose_classes(about, outputs, self.names, self.top), strict=True):
            yield Prediction(each.path, self.label_of(each.path), top)

    def label_of(self, path: str) -> str | None:
        """A folder names one class, which is no answer of a model that answers with sets."""
        folder, about = Path(path).parent.name, self.ready.about
        return folder if about.task == "classes" and folder in about.class_names else None

    @property
    def header(self) -> list[str]:
        """Of the table."""
        if self.ready.about.task != "classes":
            return ["path", "number"] if self.ready.about.task == "numbers" else ["path", "classes", "probabilities"]
        ranks = range(1, self.top + 1)
        return ["path", "label", *(f"{column}{rank}" for rank in ranks for column in COLUMNS)]

    def cells(self, prediction: Prediction) -> list[str]:
        """Of a line of the table, without the path."""
        shares = [f"{each.probability:.6f}" for each in prediction.top]
        if prediction.number is not None:
            return [repr(prediction.number)]
        if self.ready.about.task == "sets":
            return [text_cell("|".join(each.name for each in prediction.top) or EMPTY), "|".join(shares)]
        pairs = zip(prediction.top, shares, strict=True)
        return [
            text_cell(prediction.label or ""),
            *(cell for each, share in pairs for cell in (text_cell(each.name), share)),
        ]

    def add(self, prediction: Prediction, pixels: Any) -> None:
        self.answered += 1
        self.labelled += prediction.label is not None
        self.right += prediction.label is not None and prediction.label == prediction.top[0].name
        if self.config.kept is None or len(self.predictions) < self.config.kept:
            self.predictions.append(prediction)
        if prediction.path in self.on_sheet or self.owed:
            self.owed -= prediction.path not in self.on_sheet
            self.verdicts.append(self.verdict(prediction, pixels))
        if self.table:
            self.table.writerow([text_cell(prediction.path), *self.cells(prediction)])

    def verdict(self, prediction: Prediction, pixels: Any) -> Verdict:
        """On the sheet: the likeliest class and its probability, all classes of a set, or the number."""
        top = prediction.top
        if prediction.number is not None:
            return Verdict(pixels, f"{prediction.number:.8g}", None, None)
        if self.ready.about.task == "sets" and len(top) != 1:
            return Verdict(pixels, ", ".join(each.name for each in top) or EMPTY, None, None)
        return Verdict(pixels, top[0].name, top[0].probability, prediction.label)

    @property
    def top1(self) -> float | None:
        return self.right / self.labelled if self.labelled else None

    def check_answered(self) -> None:
        """Called before the table replaces an older one."""
        if not self.answered:
            first = self.unreadable[0]
            images = format_count(len(self.unreadable), "image")
            raise DataError(f"none of {images} can be read; the first is {first.path}: {first.reason}")

    def draw(self, path: Path) -> None:
        count = f"{len(self.verdicts):,} of {format_count(self.answered, 'image')}"
        score = "" if self.top1 is None else f"  ·  {self.right:,} of {self.labelled:,} correct, {self.top1:.1%}"
        title = f"{self.ready.spec.name} at {self.ready.spec.height}x{self.ready.spec.width}"
        draw_predictions(self.verdicts, path, title, f"{self.ready.path}  ·  {count}{score}")

    def result(self, seconds: float, elapsed: float) -> PredictResult:
        ready = self.ready
        return PredictResult(
            weights=ready.path, weights_digest=ready.digest, model=ready.spec.name, res=list(ready.spec.res),
            pictures=self.answered, predictions=self.predictions, unreadable=self.unreadable, labelled=self.labelled,
            top1=self.top1, csv=self.config.csv, sheet=self.config.sheet, precision=ready.precision,
            device=ready.device.type, images_per_s=self.answered / seconds, elapsed_s=elapsed,
            task=ready.about.task,
        )  # fmt: skip


COLUMNS = ("class", "probability")
EMPTY = "none"  # how an empty set is written
