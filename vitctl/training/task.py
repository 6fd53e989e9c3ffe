"""The parts of training that differ with and without labels."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn

from vitctl.config.model import ModelSpec
from vitctl.config.train import FinetuneConfig, LabeledConfig, LoraConfig, TrainConfig
from vitctl.data.balance import effective_weights, log_priors
from vitctl.data.order import Ints
from vitctl.io.adapters import DOWN, UP, merge_adapters
from vitctl.io.weights import Tensors, Weights
from vitctl.models.count import count
from vitctl.models.create import build_module, load_tensors
from vitctl.models.input import Normalizer
from vitctl.models.lora import add_adapters
from vitctl.reporting import Reporter, format_count
from vitctl.training.device import quick_attention
from vitctl.training.environment import Environment
from vitctl.training.evaluation import Evaluation, compute_logits, evaluate_batches, use_weights
from vitctl.training.feed import Feed, check_every_class, check_split_labels, eval_batches, evaluation_view
from vitctl.training.objective import (
    Objective,
    Supervised,
    mean_square,
    sigmoid,
    softmax,
    softmax_adjusted,
    softmax_weighted,
)
from vitctl.training.optimizers import head_of, layers_of
from vitctl.training.outputs import collect_outputs, measure_outputs
from vitctl.training.state import State

LORA_FROM = 384  # the width of ViT-S


@dataclass(frozen=True)
class TrainTask:
    model: nn.Module
    tokens: int  # of an image
    flops: int  # of a forward pass of one image
    objective: Objective
    feed: Feed
    evaluate: Callable[[State], Evaluation | None]  # on val
    weights: Callable[[Tensors], Weights]  # trained tensors as weights to save
    counts_correct: bool  # whether the objective has correct predictions to count


def make_labeled_task(config: LabeledConfig, weights: Weights, env: Environment) -> TrainTask:
    """Training with labels, starting from `weights`."""
    spec = weights.spec
    counts = check_split_labels(env.train, spec.classes)
    check_every_class(env.train, config, counts, weights.about.class_names)
    model = build_module(spec)
    load_tensors(model, weights.tensors, weights.about.source or spec.name)
    lora = config.lora if isinstance(config, FinetuneConfig) and config.lora.rank else None
    if lora:
        prepare_lora(model, lora, config.seed, env.reporter)
    freeze(prepare_model(model, config, env), config.freeze)
    normalize = Normalizer(spec, weights.about)
    return TrainTask(
        model=model,
        tokens=spec.tokens,
        flops=count(spec).flops,
        objective=Supervised(normalize, make_loss(config, counts, env.device)),
        feed=Feed(env.train, config, spec, env.ranks, env.device, weights.about),
        evaluate=partial(evaluate_on_val, model, normalize, env, config.best),
        weights=lambda tensors: replace(weights, tensors=merge_adapters(tensors, lora.scale) if lora else tensors),
        counts_correct=weights.about.task == "classes" and not config.augment.mixes_labels,  # then there are two
    )


def make_loss(
    config: LabeledConfig, counts: Ints, device: torch.device
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """The loss of logits and targets. `counts` [K]: images of each class."""
    if config.loss_weights != "none":
        weights = torch.tensor(effective_weights(counts), dtype=torch.float32)
        return partial(softmax_weighted, weights=weights.to(device), smoothing=config.smoothing)
    if config.logit_adjustment:
        added = torch.tensor(config.logit_adjustment * log_priors(counts, config.smoothing), dtype=torch.float32)
        return partial(softmax_adjusted, added=added.to(device))
    return {"softmax": softmax, "sigmoid": sigmoid, "squared": mean_square}[config.loss]


def evaluation_batch(state: State) -> int:
    """Twice the micro-batch, because evaluation needs no gradients. It is stored with the weights: in bf16 the batch
    size changes the last bits of the logits, and `vitctl evaluate` must reproduce the score of training."""
    return 2 * state.micro_batch


def evaluate_on_val(
    model: nn.Module, normalize: Normalizer, env: Environment, best: str, state: State
) -> Evaluation | None:
    if env.val is None:
        return None
    view = evaluation_view(normalize.spec, normalize.about)
    with use_weights(model, state.ema):
        batches = eval_batches(env.val, evaluation_batch(state), env.ranks, env.device, view)
        if normalize.about.task == "classes":
            loss = normalize.about.loss
            score = evaluate_batches(model, batches, normalize, env.precision, env.device, env.ranks, loss)
            return score.to_evaluation(best)
        pairs = compute_logits(model, batches, normalize, env.precision, env.device)
        outputs = collect_outputs(pairs, env.val.rows, normalize.spec.classes, env.ranks)
    return measure_outputs(normalize.about, outputs, env.val).to_evaluation(best)


def prepare_model(model: nn.Module, config: TrainConfig, env: Environment) -> nn.Module:
    """Move the model to its device, with the fastest attention there."""
    model.to(env.device)
    quick_attention(model, env.precision, env.device)
    if config.checkpointing:
        model.set_grad_checkpointing(True)  # type: ignore[operator]
    return model


def prepare_lora(model: nn.Module, lora: LoraConfig, seed: int, reporter: Reporter) -> None:
    """Add adapters, and freeze all but them and the head."""
    spec: ModelSpec = model.spec  # type: ignore[assignment]
    count = add_adapters(model, lora, seed)
    learning = head_of(model) | {name for name, _ in model.named_parameters() if name.endswith((DOWN, UP))}
    for name, value in model.named_parameters():
        value.requires_grad_(name in learning)
    values = sum(value.numel() for value in model.parameters() if value.requires_grad)
    reporter.note(
        f"lora: rank {lora.rank} on {format_count(count, 'layer')}, {values:,} parameters learn with the head; "
        "activations take as much memory as in full fine-tuning"
    )
    if spec.family != "timm" and spec.dim < LORA_FROM:
        reporter.warn(f"lora: in models narrower than ViT-S ({LORA_FROM}) LoRA costs accuracy; omit --lora if you can")


def freeze(model: nn.Module, what: str | None) -> None:
    """Freeze all but the head ("backbone"), or the stem and the first N blocks."""
    if what is None:
        return
    names = [name for name, _ in model.named_parameters()]
    if what == "backbone":
        frozen = set(names) - head_of(model)
    else:
        layers = layers_of(model)
        last = max(layers.values())  # the norm and the head
        frozen = {name for name in names if layers[name] <= int(what) and layers[name] < last}
    for name, value in model.named_parameters():
        value.requires_grad_(value.requires_grad and name not in frozen)
