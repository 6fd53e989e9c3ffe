"""Teaching without labels: hidden patches are asked for, and what that is worth is measured with a few labels."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from vitctl.config.model import ModelSpec
from vitctl.config.train import TrainConfig
from vitctl.data.loader import Batch, Loader, View
from vitctl.errors import ConfigError
from vitctl.inspection.reconstructions import draw_reconstructions
from vitctl.io.atomic import remove_leftovers
from vitctl.io.checkpoint import ENCODER
from vitctl.io.patch_file import Split
from vitctl.io.subset import Subset
from vitctl.io.weights import Tensors, Weights
from vitctl.models.corruption import Corruption, corruption
from vitctl.models.create import fill
from vitctl.models.masked import begin, build_masked, flops
from vitctl.patches import patchify, taken
from vitctl.probing.draws import first, orders
from vitctl.probing.fewshot import Settings, Trial, trial
from vitctl.probing.fewshot import Task as ProbeTask
from vitctl.probing.frozen import pre_logits
from vitctl.training.evaluation import Judgement, using
from vitctl.training.objective import Masked, Objective, PatchClasses, PatchValues
from vitctl.training.precision import autocast
from vitctl.training.state import State
from vitctl.training.targets import class_colors, color_ways, downsampled, mean_colors, normalised_patches
from vitctl.workflows.train.feed import Feed, Normaliser, rounds
from vitctl.workflows.train.place import Place
from vitctl.workflows.train.task import Task, evaluation_batch, prepared

JUDGED = 1000  # pictures that the probe is judged on, evenly from the classes
DRAWN = 8  # pictures of a page
SHOTS_SEED = 0
PROBE = Settings()


@dataclass(frozen=True)
class Question:
    """What is asked of a hidden patch, and how an answer looks."""

    outputs: int
    objective: Objective
    drawn: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # answers [B, M, outputs], bytes -> patches [B, M, X]
    remark: str = ""  # on how they are drawn
    wanted: Callable[[torch.Tensor], torch.Tensor] | None = None  # bytes -> the best answer, where it is not the bytes


def masked(config: TrainConfig, begun: Weights, place: Place, folder: Path | None) -> Task:
    """`begun` is the encoder to begin with; pictures of what it predicts are drawn into `folder`."""
    spec = begun.spec
    normalise = Normaliser(spec, begun.about)
    question = asked(config, spec, normalise)
    model: Any = build_masked(spec, config.objective, question.outputs, config.masking)
    fill(model.encoder, begun.tensors, begun.about.source or spec.name)
    begin(model, config.seed)
    prepared(model, config, place)
    if folder and folder.exists() and place.ranks.first:
        remove_leftovers(folder, "*")  # of a killed run
    judge = Judge(config, spec, model, normalise, question, place, folder)
    return Task(
        model=model,
        tokens=spec.tokens,
        flops=flops(spec, config.objective, question.outputs, config.masking),
        objective=question.objective,
        feed=MaskedFeed(place.train, config, spec, place.ranks, place.device),
        judge=judge,
        weights=partial(parted, begun),
        counts_right=isinstance(question.objective, PatchClasses),
    )


def parted(begun: Weights, tensors: Tensors) -> Weights:
    """The encoder's tensors, and the rest kept apart."""
    own = {name.removeprefix(ENCODER): tensor for name, tensor in tensors.items() if name.startswith(ENCODER)}
    rest = {name: tensor for name, tensor in tensors.items() if not name.startswith(ENCODER)}
    return replace(begun, tensors=own, extra=rest)


def asked(config: TrainConfig, spec: ModelSpec, normalise: Normaliser) -> Question:
    channels, masking = spec.channels, config.masking
    answers, classes = color_ways(channels, masking.bits)
    if config.objective in ("mean-color", "downsampled"):
        squares = 1 if config.objective == "mean-color" else masking.side
        made = mean_colors if squares == 1 else downsampled
        targets = partial(made, channels=channels, config=masking)
        paint = partial(painted, spec=spec, squares=squares, bits=masking.bits)
        return Question(
            outputs=squares**2 * answers * classes,
            objective=PatchClasses(normalise, classes, targets),
            drawn=lambda found, _: paint(found.reshape(*found.shape[:2], -1, classes).argmax(-1)),
            wanted=lambda there: paint(targets(there)),
        )
    by_patch = config.objective == "mae" and masking.normalise
    values = PatchValues(normalise, normalised_patches if by_patch else torch.Tensor.detach)
    remark = "; each patch is drawn with the mean and contrast that it has" if by_patch else ""
    return Question(spec.patch**2 * channels, values, partial(valued, normalise=normalise, by_patch=by_patch), remark)


class MaskedFeed(Feed):
    """Patches of each step, and which of them are hidden."""

    def examples(self, batch: Batch) -> Masked:  # type: ignore[override]
        return with_hidden(self.pixels(batch), batch, self.config, self.spec, self.ranks.rank * self.loader.share)


def with_hidden(pixels: torch.Tensor, batch: Batch, config: TrainConfig, spec: ModelSpec, place: int) -> Masked:
    if pixels.ndim == 4:
        pixels = patchify(pixels, spec.patch)
    masking = replace(config.masking, masked=1.0, swapped=0.0) if config.objective == "mae" else config.masking
    found = corruption(masking, pixels.shape[1], config.seed, batch.epochs.numpy(), batch.rows.numpy())
    return Masked(pixels, found.to(pixels.device), place)


# --- how good it is --------------------------------------------------------------------------------------------------


class Judge:
    """The loss on val with masks that stay, a probe of the frozen encoder where there are labels, and a picture."""

    def __init__(
        self,
        config: TrainConfig,
        spec: ModelSpec,
        model: nn.Module,
        normalise: Normaliser,
        question: Question,
        place: Place,
        folder: Path | None,
    ) -> None:
        self.config, self.spec, self.model, self.normalise = config, spec, model, normalise
        self.question, self.place, self.folder = question, place, folder
        self.shots, self.judged = self.probe_rows()
        pairs = ((place.train, self.shots), (place.val, self.judged)) if place.val and len(self.shots) else ()
        self.answers = [split.labels(rows) for split, rows in pairs]  # once: the file may be overwritten meanwhile

    def __call__(self, state: State) -> Judgement | None:
        with torch.no_grad(), using(self.model, state.average):
            self.model.eval()
            self.draw(state.step)
            found = self.loss(evaluation_batch(state)) if self.place.val else {}
            probe = self.probe()
        if probe is not None:
            ranks = self.place.ranks  # each has measured it; they must agree on which weights are the best
            found["probe_top1"] = ranks.sum([probe.top1])[0] / ranks.world
        if not found:
            return None
        told = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in found.items())
        return Judgement(found, told, found.get("probe_top1", 1 / (1 + found.get("val_loss", 0.0))))

    def loss(self, batch: int) -> dict[str, float]:
        place, sums = self.place, [0.0, 0.0, 0.0]
        assert place.val is not None
        for part, counts in rounds(place.val, self.spec, batch, place.ranks, place.device):
            examples = with_hidden(part.pixels, part, self.config, self.spec, 0)
            with autocast(place.precision, place.device):
                loss, right = self.question.objective(self.model, examples)
            if counts:
                sums = [sums[0] + len(examples), sums[1] + float(loss) * len(examples), sums[2] + float(right)]
        count, loss_sum, right_sum = place.ranks.sum(sums)
        found = {"val_loss": loss_sum / count}
        return found | ({"val_top1": right_sum / count} if isinstance(self.question.objective, PatchClasses) else {})

    def probe_rows(self) -> tuple[Any, Any]:
        """Rows of train that are the shots, and of val that are judged; none where labels are missing."""
        none = np.empty(0, np.int64)
        train, val, shots = self.place.train, self.place.val, self.config.probe
        if val is None or not shots:
            return none, none
        labels, truth = train.labels(), val.labels()
        classes = int(max(labels.max(initial=-1), truth.max(initial=-1))) + 1
        if len(np.unique(labels[labels >= 0])) < 2 or not (truth >= 0).any():
            return none, none
        each = max(1, JUDGED // classes)
        chosen, judged = (
            first(orders(found, classes, SHOTS_SEED), count) for found, count in ((labels, shots), (truth, each))
        )
        judged = judged[np.isin(truth[judged], labels[chosen])]  # a class without shots cannot be told
        return (chosen, judged) if len(judged) else (none, none)

    def probe(self) -> Trial | None:
        if not len(self.shots):
            return None
        place = self.place
        assert place.val is not None
        labels, truth = self.answers
        features = [self.features(*pair) for pair in ((place.train, self.shots), (place.val, self.judged))]
        classes = int(labels.max()) + 1
        return trial(ProbeTask(features[0], labels, features[1], truth, classes), "lsr", PROBE, None, SHOTS_SEED)

    def features(self, split: Split, rows: Any) -> Any:
        encoder, place, found = self.model.encoder, self.place, []
        view = View("patches", self.spec.patch, (self.spec.height, self.spec.width))
        loader = Loader(Subset(split, rows, split.name), 64, view=view, shuffle=False, device=place.device)
        for part in loader.once():
            with autocast(place.precision, place.device):
                found.append(pre_logits(encoder, self.normalise(part.pixels)).float().cpu().numpy())  # type: ignore[arg-type]
        return np.concatenate(found)

    def draw(self, step: int) -> None:
        place, split = self.place, self.place.val or self.place.train
        rows = np.linspace(0, split.rows - 1, min(DRAWN, split.rows)).astype(np.int64)
        view = View("patches", self.spec.patch, (self.spec.height, self.spec.width))
        part = Loader(split, len(rows), view=view, shuffle=False).fetch(rows, np.zeros_like(rows))
        examples = with_hidden(part.pixels.to(place.device), part, self.config, self.spec, 0)
        with autocast(place.precision, place.device):
            answers = self.model(self.normalise(examples.pixels), examples.corruption).float()
        if self.folder is None or not place.ranks.first:
            return
        hidden: Corruption = examples.corruption  # type: ignore[assignment]
        there = taken(examples.pixels, hidden.hidden)
        draw_reconstructions(
            self.folder / f"step-{step:07d}.png",
            f"{self.spec.name}, {self.config.objective}, step {step:,}{self.question.remark}",
            (self.spec.height, self.spec.width, self.spec.patch),
            examples.pixels.cpu(),
            hidden.to(torch.device("cpu")),
            self.question.drawn(answers, there).cpu(),
            self.question.wanted(there).cpu() if self.question.wanted else None,
        )


# --- how an answer looks ---------------------------------------------------------------------------------------------


def painted(classes: torch.Tensor, spec: ModelSpec, squares: int, bits: int) -> torch.Tensor:
    """Classes of colors [B, M, squares * squares * answers] -> uint8 [B, M, P*P*C]."""
    colors = class_colors(classes.reshape(*classes.shape[:2], squares, squares, -1), spec.channels, bits)
    places = torch.arange(spec.patch, device=classes.device) * squares // spec.patch
    return colors[:, :, places][:, :, :, places].flatten(2).round().clamp(0, 255).byte()


def valued(answers: torch.Tensor, there: torch.Tensor, normalise: Normaliser, by_patch: bool) -> torch.Tensor:
    """Values to bytes; where each patch was normalised by itself, with the mean and deviation that it has."""
    if by_patch:
        own = normalise(there)
        answers = answers * own.std(-1, keepdim=True) + own.mean(-1, keepdim=True)
    about, channels = normalise.about, normalise.spec.channels
    mean, std = (torch.tensor(values, device=answers.device) for values in (about.mean, about.std))
    pixels = answers.reshape(*answers.shape[:2], -1, channels) * std + mean
    return (pixels * 255).round().clamp(0, 255).byte().flatten(2)


def check_unlabelled(config: TrainConfig) -> None:
    if config.objective == "labels":
        raise ConfigError("objective is labels; selfsup takes mean-color, downsampled, pixels or mae")
    if config.augment.mixes_labels:
        raise ConfigError("mixup and cutmix mix labels, and there are none; set augment.mixup=0 and augment.cutmix=0")
    if config.head == "map":
        raise ConfigError("head map is not taught without labels; take gap or cls")
