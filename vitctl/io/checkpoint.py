"""Where a run stands: every tensor that the next step depends on, in one file, and a few facts in its metadata.

A checkpoint is whole or not there. It is the same file whether one device made it or many, so that it can be gone on
from on any number of them.
"""

import json
import re
from pathlib import Path
from typing import Any

from vitctl.errors import DataError
from vitctl.io.weights import Tensors, write_safetensors

FORMAT = "vitctl.checkpoint"
KEPT = 2


def checkpoint_path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:09d}.safetensors"


def write_checkpoint(folder: Path, step: int, tensors: Tensors, facts: dict[str, Any]) -> Path:
    """Written aside and renamed; then all but the last ones go."""
    folder.mkdir(parents=True, exist_ok=True)
    path = checkpoint_path(folder, step)
    write_safetensors(tensors, {"format": FORMAT, "version": "1", "facts": json.dumps(facts)}, path)
    for old in checkpoints(folder)[:-KEPT]:
        old.unlink(missing_ok=True)
    return path


def checkpoints(folder: Path) -> list[Path]:
    """Oldest first."""
    return sorted(path for path in folder.glob("step-*.safetensors") if re.fullmatch(r"step-\d{9}", path.stem))


def read_checkpoint(path: Path) -> tuple[Tensors, dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise DataError(f"{path}: is no checkpoint of a run")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, json.loads(metadata["facts"])
    except (SafetensorError, KeyError, ValueError) as error:
        raise DataError(f"{path}: damaged ({' '.join(str(error).split())})") from error
