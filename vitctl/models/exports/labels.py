"""The metadata of an exported file: its model, its input and its classes."""

import json
from dataclasses import dataclass

from vitctl.config.model import ModelSpec
from vitctl.errors import ConfigError, WeightsError
from vitctl.io.weights import About, Weights, about_from

FORMAT, VERSION = "vitctl.export", "2"
UNSEALED = "1"  # the version of vitctl 0.1, which has no checksum


def export_labels(weights: Weights, *, any_size: bool, preprocessing: bool, precision: str) -> dict[str, str]:
    spec, about = weights.spec, weights.about
    height, width = ("H", "W") if any_size else (str(spec.height), str(spec.width))
    takes = f"float32 [B, {spec.channels}, {height}, {width}], (pixels / 255 - mean) / std"
    if preprocessing:
        takes = f"uint8 [B, H, W, {spec.channels}] of any size; {about.eval_crop}, and normalized inside"
    return {
        "format": FORMAT,
        "version": VERSION,
        "model": spec.name,
        "input": takes,
        "mean": json.dumps(about.mean),
        "std": json.dumps(about.std),
        "class_names": json.dumps(about.class_names),
        "precision": precision,
        "takes_bytes": json.dumps(preprocessing),
        "digest": weights.digest(),
        "spec": json.dumps(spec.as_dict()),
        "about": json.dumps(about.as_dict()),
        **describe_answers(about),
    }


def describe_answers(about: About) -> dict[str, str]:
    """For other readers: how outputs become answers where these are no single class."""
    if about.task == "sets":
        answer = "a class is in the answer where sigmoid(output) is at least its threshold"
        return {"task": about.task, "answer": answer, "thresholds": json.dumps(about.thresholds)}
    if about.task == "numbers":
        mean, deviation = about.target
        return {"task": about.task, "answer": f"output * {deviation!r} + {mean!r}", "target": json.dumps(about.target)}
    return {}


@dataclass(frozen=True)
class Labels:
    """The metadata that a reader needs."""

    spec: ModelSpec
    about: About
    takes_bytes: bool
    precision: str
    digest: str  # of the weights
    version: str


def read_labels(labels: dict[str, str], path: str) -> Labels:
    if labels.get("format") != FORMAT:
        raise WeightsError(
            f"{path}: was not exported by vitctl: its metadata has no preprocessing and classes; use vitctl export"
        )
    version = labels.get("version", "")
    if version not in (UNSEALED, VERSION):
        raise WeightsError(
            f"{path}: has export version {version!r}; this vitctl reads versions {UNSEALED} and {VERSION}"
        )
    try:
        spec = ModelSpec.from_dict(json.loads(labels["spec"]))
        about = about_from(json.loads(labels["about"]), spec)
        return Labels(spec, about, labels["takes_bytes"] == "true", labels["precision"], labels["digest"], version)
    except (KeyError, TypeError, ValueError, AttributeError, ConfigError) as error:
        raise WeightsError(f"{path}: its metadata is damaged ({error}); export it again") from error
