"""Checkpoints: the whole training state in one safetensors file, its tensors and a few facts in the metadata.

A checkpoint is complete or does not exist. One device and many devices write the same file, so a run can be resumed on
any number of them.
"""

import json
import re
from pathlib import Path
from typing import Any

from vitctl.config.model import ModelSpec
from vitctl.errors import DataError, WeightsError
from vitctl.io.adapters import merge_adapters
from vitctl.io.weights import Tensors, Weights, about_from, write_safetensors

FORMAT = "vitctl.checkpoint"
MAX_CHECKPOINTS = 2  # per run; older ones are deleted
ENCODER = "encoder."  # the prefix of the encoder's tensors in masked pretraining


def checkpoint_path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:09d}.safetensors"


def write_checkpoint(folder: Path, step: int, tensors: Tensors, facts: dict[str, Any]) -> Path:
    """Writes a checkpoint, then deletes all but the last ones."""
    folder.mkdir(parents=True, exist_ok=True)
    path = checkpoint_path(folder, step)
    write_safetensors(tensors, {"format": FORMAT, "version": "1", "facts": json.dumps(facts)}, path)
    for old in checkpoints(folder)[:-MAX_CHECKPOINTS]:
        old.unlink(missing_ok=True)
    return path


def checkpoints(folder: Path) -> list[Path]:
    """Oldest first."""
    return sorted(path for path in folder.glob("step-*.safetensors") if re.fullmatch(r"step-\d{9}", path.stem))


def step_of(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))


def read_checkpoint(path: Path) -> tuple[Tensors, dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise DataError(f"{path}: not a checkpoint of a vitctl run")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, json.loads(metadata["facts"])
    except (SafetensorError, KeyError, ValueError) as error:
        raise DataError(f"{path}: damaged ({' '.join(str(error).split())})") from error


def is_checkpoint(path: Path) -> bool:
    return path.parent.name == "checkpoints" and path in checkpoints(path.parent)


def weights_facts(weights: Weights) -> dict[str, Any]:
    """The facts that turn the tensors of a checkpoint into weights."""
    return {"spec": weights.spec.as_dict(), "about": weights.about.as_dict()}


def checkpoint_weights(path: Path) -> Weights:
    """The model at that step: its moving average if there is one."""
    tensors, facts = read_checkpoint(path)
    if "weights" not in facts:
        raise WeightsError(f"{path}: a checkpoint of an older vitctl, without weights; resume its run to get them")
    merged = {
        name.removeprefix(f"{part}."): tensor
        for part in ("model", "average")  # the average replaces the model
        for name, tensor in tensors.items()
        if name.startswith(f"{part}.")
    }
    root = ENCODER if any(name.startswith(ENCODER) for name in merged) else ""
    own = {name.removeprefix(root): tensor for name, tensor in merged.items() if name.startswith(root)}
    extra = {name: tensor for name, tensor in merged.items() if not name.startswith(root)}
    spec = ModelSpec.from_dict(facts["weights"]["spec"])
    about = about_from(facts["weights"]["about"], spec)
    if "lora" in about.training:
        own = merge_adapters(own, about.training["lora"]["scale"])
    return Weights(spec, own, about, extra)
