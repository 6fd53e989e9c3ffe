"""Resolves a `--from` reference to weights, and builds the model."""

import os
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitctl.config.common import AS_STATED, PixelConfig
from vitctl.config.eval_crop import SHORT_SIDE, parse_eval_crop
from vitctl.config.model import ModelSpec, model_spec
from vitctl.errors import ConfigError, InputError, UsageError, WeightsError
from vitctl.io import official
from vitctl.io.capabilities import find_lost_fields
from vitctl.io.checkpoint import checkpoint_weights, is_checkpoint
from vitctl.io.recognize import catch_parse_errors, open_weights
from vitctl.io.run_directory import LATEST, is_run, open_run
from vitctl.io.run_weights import newest_with_weights, run_weights, split_reference
from vitctl.io.state_dict import DISAGREE
from vitctl.io.weights import Weights, override_normalization
from vitctl.reporting import Reporter

if TYPE_CHECKING:
    from torch import nn

RUNS = Path("runs")


def choose_weights(
    flag: str | None, reporter: Reporter, allow_missing: bool = False, pixels: PixelConfig = AS_STATED
) -> Weights:
    """The flag, else $VITCTL_FROM, else the newest run. What `pixels` states replaces what the weights say.

    Notes which weights were chosen, and warns about assumptions.
    """
    reference, why = choose_weights_flag(flag)
    parse_eval_crop(pixels.eval_crop, SHORT_SIDE)  # an error comes before anything is loaded
    try:
        weights = load_weights(reference, allow_missing)
    except WeightsError as error:
        raise error if flag else WeightsError(f"{error} ({reference} is {why})") from error
    kind = "vitctl weights" if weights.stated else weights.about.format
    reporter.note(f"weights: {reference} ({why}), {kind}, {weights.spec.name}")
    for note in weights.notes:
        reporter.note(f"weights: {note}")
    for assumption in weights.assumptions:
        reporter.warn(f"weights: {assumption}")
    return apply_pixels(weights, reporter, pixels)


def apply_pixels(weights: Weights, reporter: Reporter, pixels: PixelConfig) -> Weights:
    """With the given mean, std and crop; warns about values that neither they nor the file state."""
    mean, std = pixels.mean, pixels.std
    about, guess = override_normalization(weights.about, weights.spec.channels, mean, std), weights.normalization_guess
    if guess and not (mean and std):
        values = " and ".join(
            f"{name} {', '.join(f'{value:g}' for value in getattr(about, name))}"
            for name, given in (("mean", mean), ("std", std))
            if not given
        )
        reporter.warn(f"weights: {values} of the pixels assumed ({guess}); if they are others, give --mean and --std")
    about = about.with_eval_crop(parse_eval_crop(pixels.eval_crop, about.eval_crop))
    if about.eval_crop != SHORT_SIDE:
        reporter.note(f"images: {about.eval_crop}; --eval-crop changes it")
    return replace(weights, about=about, normalization_guess="" if mean and std else guess)


def choose_weights_flag(flag: str | None) -> tuple[str, str]:
    """The reference, and where it comes from."""
    if flag:
        return flag, "--from"
    if os.environ.get("VITCTL_FROM"):
        return os.environ["VITCTL_FROM"], "$VITCTL_FROM"
    if not (RUNS / LATEST).exists():
        raise UsageError(
            "no weights given, and there is no run here; name a file, a folder or timm:NAME with --from or $VITCTL_FROM"
        )
    try:
        newest, why = newest_with_weights(RUNS)
    except InputError as error:
        raise UsageError(f"{error}; name a file, a folder or timm:NAME with --from or $VITCTL_FROM") from error
    return str(newest), why


def weight_files(reference: str) -> list[Path]:
    """The files that an output must not overwrite: those of the run or folder that is read."""
    path, _ = split_reference(reference)
    if path.is_dir():
        return [each for each in path.iterdir() if each.suffix in (".safetensors", ".bin", ".json")]
    return [path, path.with_name(f"{path.name}.data")] if path.is_file() else []


def tell_changes(before: Weights, after: Weights, reporter: Reporter) -> None:
    """Notes what was changed: positions, channels, the head."""
    for step in after.about.history[len(before.about.history) :]:
        reporter.note(f"weights: {step['step']} {step['from']} to {step['to']}, {step['method']}")


def data_of_run(flag: str | None) -> str | None:
    """The data that these weights were trained on, if it still exists."""
    try:
        path, _ = split_reference(choose_weights_flag(flag)[0])
    except UsageError:
        return None
    for folder in (path, path.parent):
        if is_run(folder):
            data = open_run(folder).config["config"].get("data")
            return data if isinstance(data, str) and Path(data).is_file() else None
    return None


def load_weights(reference: str | Path, allow_missing: bool = False) -> Weights:
    """From `timm:NAME`, or from any file or folder that holds weights."""
    text = str(reference)
    if text.startswith("timm:"):
        from vitctl.models.from_timm import timm_weights

        return replace(timm_weights(text), path=text)
    run = run_weights(text)
    path = run.file if run else Path(text)
    if not path.exists():
        raise make_missing_error(text)
    if is_checkpoint(path):
        weights = catch_parse_errors(path, lambda: checkpoint_weights(path))
    else:
        weights = open_weights(path, allow_missing, describe_timm)
    weights = weights.with_notes(run.note if run else "")
    return replace(catch_parse_errors(path, lambda: check_complete(weights, text, allow_missing)), path=text)


def describe_timm(config: dict[str, Any], source: str) -> tuple[ModelSpec, dict[str, Any]]:
    """Imported only when needed: importing timm takes seconds."""
    from vitctl.models.from_timm import describe_architecture

    return describe_architecture(config, source)


def check_complete(weights: Weights, what: str, allow_missing: bool) -> Weights:
    """Checks that the tensors are exactly those of the model; with `allow_missing`, keeps those that fit."""
    if weights.stated not in ("", weights.digest()):
        raise WeightsError(f"{what}: damaged: its numbers have changed since they were written; create it again")
    is_checked = weights.stated or not weights.about.format.startswith("timm")  # of shapes, by the digest or its reader
    if is_checked and set(weights.tensors) == plain_names(weights.spec):
        return weights
    import torch

    from vitctl.models.create import build_module, check_same_tensors, collect_tensors

    with torch.device("meta"):
        expected = collect_tensors(build_module(weights.spec))
    what += f": {DISAGREE}" if weights.about.format == "timm folder" and not allow_missing else ""
    notes = check_same_tensors(expected, weights.tensors, what, allow_missing)
    fitting = {name: tensor for name, tensor in weights.tensors.items() if name in expected}
    return replace(weights, tensors=fitting).with_notes(*notes)


def plain_names(spec: ModelSpec) -> set[str]:
    """The tensor names of a model in the official layout, without building it: importing timm takes seconds."""
    if find_lost_fields(replace(spec, gelu="tanh", norm_eps=1e-6), official.CAPABILITIES):  # which no tensor shows
        return set()
    return {row.ours for row in official.transformer_rows(spec, official.ORIGINAL)}


def make_missing_error(text: str) -> InputError:
    """The error for a missing path, with the nearest existing name."""
    path = Path(text)
    if is_model(text):
        return WeightsError(
            f"{text}: names a model, not weights; name a file or a folder of them, or timm:NAME for pretrained ones"
        )
    if not path.parent.is_dir():
        return WeightsError(f"{text}: there is no folder {path.parent}")
    near = get_close_matches(path.name, [each.name for each in path.parent.iterdir()], n=1)
    hint = f"; did you mean {str(path.with_name(near[0]))!r}?" if near else ""
    return WeightsError(f"{text}: no such file or folder{hint}")


def is_model(text: str) -> bool:
    try:
        return bool(model_spec(text, pad=True))
    except ConfigError:
        return False


def load_model(
    reference: str | Path | Weights,
    *,
    height: int | None = None,
    width: int | None = None,
    channels: int | None = None,
    classes: int | None = None,
    allow_missing: bool = False,
) -> "nn.Module":
    """A model in eval mode: normalized images [B, C, H, W], or patches [B, N, P*P*C], to logits [B, K].

    It has the attributes `spec`, `about` (mean, std, class names, origin) and `preprocess`, which makes its input of
    files, PIL images and arrays. It is adapted to the size, channels and
    classes given: positions are interpolated as in the official code, a new head is zeros.
    """
    from vitctl.models.adapt import adapt_weights
    from vitctl.models.create import build_module, load_tensors
    from vitctl.workflows.inputs.preprocess import Preprocess

    weights = reference if isinstance(reference, Weights) else load_weights(reference, allow_missing)
    weights = adapt_weights(weights, height, width, channels, classes)
    model = build_module(weights.spec)
    load_tensors(model, weights.tensors, weights.about.source or weights.spec.name, allow_missing)
    setattr(model, "about", weights.about)  # noqa: B010 - a module's own attributes are typed as tensors
    setattr(model, "preprocess", Preprocess(weights.spec, weights.about))  # noqa: B010
    return model.eval()
