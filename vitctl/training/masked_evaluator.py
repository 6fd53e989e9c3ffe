"""Evaluation of a model that trains without labels."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from vitctl.config.fewshot import ProbeConfig
from vitctl.config.model import ModelSpec
from vitctl.config.train import SelfsupConfig
from vitctl.data.loader import Batch, Loader, View
from vitctl.inspection.sheets import draw_reconstructions
from vitctl.io.patch_file import Split
from vitctl.io.subset import Subset
from vitctl.models.input import Normalizer
from vitctl.patches import take_tokens
from vitctl.probing.draws import draw_orders, take_shots
from vitctl.probing.fewshot import ProbeTask, ProbeTrial, run_trial
from vitctl.probing.frozen import compute_pre_logits
from vitctl.training.device import autocast
from vitctl.training.environment import Environment
from vitctl.training.evaluation import Evaluation, use_weights
from vitctl.training.feed import split_batches
from vitctl.training.objective import Masked, PatchClasses
from vitctl.training.state import State
from vitctl.training.targets import MaskedTarget
from vitctl.training.task import evaluation_batch

PROBE_IMAGES = 1000  # of val, to test the probe on; the same number for each class
DRAWN_IMAGES = 8
SHOTS_SEED = 0
PROBE = ProbeConfig()


class MaskedEvaluator:
    """The loss on val with fixed masks, a probe of the frozen encoder if there are labels, and a figure."""

    def __init__(
        self,
        config: SelfsupConfig,
        spec: ModelSpec,
        model: nn.Module,
        normalize: Normalizer,
        target: MaskedTarget,
        hide: Callable[[torch.Tensor, Batch], Masked],
        env: Environment,
        folder: Path | None,
    ) -> None:
        self.config, self.spec, self.model, self.normalize = config, spec, model, normalize
        self.target, self.hide, self.env, self.folder = target, hide, env, folder
        self.view = View("patches", spec.patch, (spec.height, spec.width))
        self.shots, self.test = self.probe_rows()
        pairs = ((env.train, self.shots), (env.val, self.test)) if env.val and len(self.shots) else ()
        self.labels = [split.labels(rows) for split, rows in pairs]  # read once: the file may be replaced meanwhile

    def __call__(self, state: State) -> Evaluation | None:
        with torch.no_grad(), use_weights(self.model, state.ema):
            self.model.eval()
            self.draw(state.step)
            values = self.loss(self.env.val, evaluation_batch(state)) if self.env.val else {}
            probe = self.probe()
        if probe is not None:
            ranks = self.env.ranks  # each measures it; the mean makes all agree on which weights are the best
            values["probe_top1"] = ranks.sum([probe.top1])[0] / ranks.world
        if not values:
            return None
        summary = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in values.items())
        return Evaluation(values, summary, values.get("probe_top1", 1 / (1 + values.get("val_loss", 0.0))))

    def loss(self, val: Split, batch: int) -> dict[str, float]:
        env, sums = self.env, [0.0, 0.0, 0.0]
        for part, counts in split_batches(val, batch, env.ranks, env.device, self.view):
            examples = self.hide(part.pixels, part)
            with autocast(env.precision, env.device):
                loss, correct = self.target.objective(self.model, examples)
            if counts:
                sums = [sums[0] + len(examples), sums[1] + float(loss) * len(examples), sums[2] + float(correct)]
        count, loss_sum, correct_sum = env.ranks.sum(sums)
        top1 = {"val_top1": correct_sum / count} if isinstance(self.target.objective, PatchClasses) else {}
        return {"val_loss": loss_sum / count} | top1

    def probe_rows(self) -> tuple[Any, Any]:
        """The rows of train used as shots, and the rows of val to test on; empty without labels of one class."""
        none = np.empty(0, np.int64)
        train, val, shots = self.env.train, self.env.val, self.config.probe
        if val is None or not shots:
            return none, none
        if train.header.task != "classes":
            self.env.reporter.note("probe: left out, as it needs one class per image")
            return none, none
        labels, truth = train.labels(), val.labels()
        classes = int(max(labels.max(initial=-1), truth.max(initial=-1))) + 1
        if len(np.unique(labels[labels >= 0])) < 2 or not (truth >= 0).any():
            return none, none
        per_class = max(1, PROBE_IMAGES // classes)
        chosen, test = (
            take_shots(draw_orders(values, classes, SHOTS_SEED), count)
            for values, count in ((labels, shots), (truth, per_class))
        )
        test = test[np.isin(truth[test], labels[chosen])]  # a class without shots cannot be predicted
        return (chosen, test) if len(test) else (none, none)

    def probe(self) -> ProbeTrial | None:
        if not len(self.shots) or self.env.val is None:
            return None
        labels, truth = self.labels
        train, test = self.features(self.env.train, self.shots), self.features(self.env.val, self.test)
        return run_trial(ProbeTask(train, labels, test, truth, int(labels.max()) + 1), "lsr", PROBE, None, SHOTS_SEED)

    def features(self, split: Split, rows: Any) -> Any:
        env, arrays = self.env, []
        encoder: Any = self.model.encoder
        loader = Loader(Subset(split, rows, split.name), 64, view=self.view, shuffle=False, device=env.device)
        for part in loader.once():
            with autocast(env.precision, env.device):
                arrays.append(compute_pre_logits(encoder, self.normalize(part.pixels)).float().cpu().numpy())
        return np.concatenate(arrays)

    def draw(self, step: int) -> None:
        env, split = self.env, self.env.val or self.env.train
        rows = np.linspace(0, split.rows - 1, min(DRAWN_IMAGES, split.rows)).astype(np.int64)
        part = Loader(split, len(rows), view=self.view, shuffle=False).fetch(rows, np.zeros_like(rows))
        examples = self.hide(part.pixels.to(env.device), part)
        with autocast(env.precision, env.device):  # on every rank: with FSDP all must take part
            outputs = self.model(self.normalize(examples.pixels), examples.corruption).float()
        if self.folder is None or not env.ranks.first:
            return
        pixels = take_tokens(examples.pixels, examples.corruption.hidden)
        draw_reconstructions(
            self.folder / f"step-{step:07d}.png",
            f"{self.spec.name}, {self.config.objective}, step {step:,}{self.target.remark}",
            (self.spec.height, self.spec.width, self.spec.patch),
            examples.pixels.cpu(),
            examples.corruption.to(torch.device("cpu")),
            self.target.draw(outputs, pixels).cpu(),
            self.target.ideal(pixels).cpu() if self.target.ideal else None,
        )
