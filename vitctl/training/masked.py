"""Training without labels: some patches are hidden, and the model predicts them."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vitctl.config.model import ModelSpec
from vitctl.config.train import SelfsupConfig
from vitctl.data.loader import Batch
from vitctl.errors import ConfigError
from vitctl.io.atomic import remove_leftovers
from vitctl.io.checkpoint import ENCODER
from vitctl.io.weights import Tensors, Weights
from vitctl.models.corruption import corruption
from vitctl.models.create import load_tensors
from vitctl.models.input import Normalizer
from vitctl.models.masked import begin, build_masked, flops
from vitctl.patches import patchify_images
from vitctl.training.environment import Environment
from vitctl.training.feed import Feed
from vitctl.training.masked_evaluator import MaskedEvaluator
from vitctl.training.objective import Masked, PatchClasses, PatchValues
from vitctl.training.targets import (
    MaskedTarget,
    class_colors,
    color_outputs,
    downsample_colors,
    mean_colors,
    normalize_patches,
)
from vitctl.training.task import TrainTask, prepare_model


def make_masked_task(config: SelfsupConfig, weights: Weights, env: Environment, folder: Path | None) -> TrainTask:
    """`weights`: of the encoder at step 0. `folder`: for images of the predictions."""
    spec = weights.spec
    normalize = Normalizer(spec, weights.about)
    target = make_target(config, spec, normalize)
    model: Any = build_masked(spec, config.objective, target.outputs, config.masking)
    load_tensors(model.encoder, weights.tensors, weights.about.source or spec.name)
    begin(model, config.seed)
    load_decoder(model, weights.extra, env)
    prepare_model(model, config, env)
    if folder and folder.exists() and env.ranks.first:
        remove_leftovers(folder, "*")  # of a killed run
    hide = partial(hide_patches, config=config, spec=spec)
    return TrainTask(
        model=model,
        tokens=spec.tokens,
        flops=flops(spec, config.objective, target.outputs, config.masking),
        objective=target.objective,
        feed=MaskedFeed(env.train, config, spec, env.ranks, env.device, weights.about),
        evaluate=MaskedEvaluator(config, spec, model, normalize, target, hide, env, folder),
        weights=partial(split_encoder, weights),
        counts_correct=isinstance(target.objective, PatchClasses),
    )


def load_decoder(model: nn.Module, extra: Tensors, env: Environment) -> None:
    """The mask token and the decoder of weights that are trained further, if they fit this objective."""
    own = {name: value for name, value in model.named_parameters() if not name.startswith(ENCODER)}
    if not extra or any(name not in extra or extra[name].shape != value.shape for name, value in own.items()):
        return
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(extra[name])
    env.reporter.note("decoder: continued from the weights")


def split_encoder(weights: Weights, tensors: Tensors) -> Weights:
    """The encoder's tensors as weights; those of the decoder as extra ones."""
    encoder = {name.removeprefix(ENCODER): tensor for name, tensor in tensors.items() if name.startswith(ENCODER)}
    decoder = {name: tensor for name, tensor in tensors.items() if not name.startswith(ENCODER)}
    return replace(weights, tensors=encoder, extra=decoder)


def make_target(config: SelfsupConfig, spec: ModelSpec, normalize: Normalizer) -> MaskedTarget:
    channels, masking = spec.channels, config.masking
    colors, classes = color_outputs(channels, masking.bits)
    if config.objective in ("mean-color", "downsampled"):
        squares = 1 if config.objective == "mean-color" else masking.side
        compute = mean_colors if squares == 1 else downsample_colors
        targets = partial(compute, channels=channels, config=masking)
        paint = partial(paint_classes, spec=spec, squares=squares, bits=masking.bits)
        return MaskedTarget(
            outputs=squares**2 * colors * classes,
            objective=PatchClasses(normalize, classes, targets),
            draw=lambda outputs, _: paint(outputs.reshape(*outputs.shape[:2], -1, classes).argmax(-1)),
            ideal=lambda pixels: paint(targets(pixels)),
        )
    by_patch = config.objective == "mae" and masking.normalise
    values = PatchValues(normalize, normalize_patches if by_patch else torch.Tensor.detach)
    remark = "; each patch is drawn with the mean and contrast of the original" if by_patch else ""
    draw = partial(values_to_bytes, normalize=normalize, by_patch=by_patch)
    return MaskedTarget(spec.patch**2 * channels, values, draw, remark)


class MaskedFeed(Feed):
    """The patches of each step, and a mask of hidden ones."""

    config: SelfsupConfig

    def examples(self, batch: Batch) -> Masked:  # type: ignore[override]
        first = self.ranks.rank * self.loader.share
        return hide_patches(self.pixels(batch), batch, self.config, self.spec, first)


def hide_patches(pixels: torch.Tensor, batch: Batch, config: SelfsupConfig, spec: ModelSpec, first: int = 0) -> Masked:
    if pixels.ndim == 4:
        pixels = patchify_images(pixels, spec.patch)
    masking = replace(config.masking, masked=1.0, swapped=0.0) if config.objective == "mae" else config.masking
    hidden = corruption(masking, pixels.shape[1], config.seed, batch.epochs.numpy(), batch.rows.numpy())
    return Masked(pixels, hidden.to(pixels.device), first)


def paint_classes(classes: torch.Tensor, spec: ModelSpec, squares: int, bits: int) -> torch.Tensor:
    """Color classes [B, M, squares * squares * colors] to uint8 patches [B, M, P*P*C]."""
    colors = class_colors(classes.reshape(*classes.shape[:2], squares, squares, -1), spec.channels, bits)
    index = torch.arange(spec.patch, device=classes.device) * squares // spec.patch  # nearest neighbor
    return colors[:, :, index][:, :, :, index].flatten(2).round().clamp(0, 255).byte()


def values_to_bytes(values: torch.Tensor, pixels: torch.Tensor, normalize: Normalizer, by_patch: bool) -> torch.Tensor:
    """Normalized values [B, M, P*P*C] to bytes.

    With `by_patch` the model predicts each patch normalized by itself, so the mean and deviation of the true patch are
    restored.
    """
    if by_patch:
        true = normalize(pixels)
        values = values * true.std(-1, keepdim=True) + true.mean(-1, keepdim=True)
    about, channels = normalize.about, normalize.spec.channels
    mean, std = (torch.tensor(each, device=values.device) for each in (about.mean, about.std))
    images = values.reshape(*values.shape[:2], -1, channels) * std + mean
    return (images * 255).round().clamp(0, 255).byte().flatten(2)


def check_unlabeled(config: SelfsupConfig) -> None:
    if config.augment.mixes_labels:
        raise ConfigError("mixup and cutmix need labels; set augment.mixup=0 and augment.cutmix=0")
    if config.head == "map":
        raise ConfigError("head map cannot be trained without labels; use gap or cls")
