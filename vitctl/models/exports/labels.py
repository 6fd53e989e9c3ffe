"""What an exported file says of itself, so that nobody has to guess how it is used."""

import json
from dataclasses import asdict
from typing import Any

from vitctl.config.model import ModelSpec
from vitctl.errors import ConfigError, WeightsError
from vitctl.io.weights import About, Weights, about_from

FORMAT, VERSION = "vitctl.export", "1"


def labels_of(weights: Weights, *, any_size: bool, preprocessing: bool, precision: str) -> dict[str, str]:
    spec, about = weights.spec, weights.about
    height, width = ("H", "W") if any_size else (str(spec.height), str(spec.width))
    takes = f"float32 [B, {spec.channels}, {height}, {width}], (pixels / 255 - mean) / std"
    if preprocessing:
        takes = f"uint8 [B, H, W, {spec.channels}] of any size; cropped, resized and normalised inside"
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
        "about": json.dumps(asdict(about)),
    }


def read_labels(labels: dict[str, str], path: str) -> tuple[ModelSpec, About, bool]:
    """The spec, what belongs to it, and whether bytes are taken."""
    if labels.get("format") != FORMAT:
        raise WeightsError(
            f"{path}: is not an export of vitctl: it does not say what its pictures are like and what its classes are; "
            "make one with vitctl export"
        )
    if labels.get("version") != VERSION:
        raise WeightsError(f"{path}: is version {labels.get('version')} of our exports; this vitctl reads {VERSION}")
    try:
        fields: dict[str, Any] = json.loads(labels["spec"])
        return ModelSpec.from_dict(fields), about_from(json.loads(labels["about"])), labels["takes_bytes"] == "true"
    except (KeyError, TypeError, ValueError, AttributeError, ConfigError) as error:
        raise WeightsError(f"{path}: its metadata is damaged ({error})") from error
