"""torch.export: a program that torch runs without the code that made it."""

import io
import json
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vitctl.errors import WeightsError
from vitctl.io.atomic import replacing
from vitctl.models.exports.exported import Exported
from vitctl.models.exports.labels import read_labels

LABELS = "labels.json"
PLAIN = (  # what a file of ours consists of
    r"models/\w+\.json|data/(weights|constants)/(\w+_config\.json|(weight|tensor)_\d+)|data/sample_inputs/\w+\.pt"
    r"|extra/labels\.json|archive_(format|version)|\.data/\w+|byteorder|version"
)


def write_program(graph: nn.Module, example: torch.Tensor, free: dict[int, Any], path: Path,
                  labels: dict[str, str]) -> None:  # fmt: skip
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.export.export(graph, (example,), dynamic_shapes=(free,))
        with replacing(path) as aside, open(aside, "wb") as file:
            torch.export.save(program, file, extra_files={LABELS: json.dumps(labels)})


class TorchProgram(Exported):
    """A file of torch.export as a module."""

    def __init__(self, path: Path) -> None:
        found = {LABELS: ""}
        try:
            check_no_pickles(path)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                program = torch.export.load(path, extra_files=found)
            labels = json.loads(found[LABELS] or "{}")
        except WeightsError:
            raise
        except Exception as error:  # of zip, JSON, or torch
            text = " ".join(str(error).split())[:120]
            raise WeightsError(f"{path}: no file of torch.export that can be read ({text})") from error
        super().__init__(read_labels(labels, str(path)))
        self.program = program.module().__call__  # the call alone: as a part of this one it cannot be put in eval mode

    def computed(self, images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return self.program(images)  # type: ignore[no-any-return]


def check_no_pickles(path: Path) -> None:
    """Torch's reader unpickles what asks for it, which may run anything: such files are not given to it."""
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            place = name.partition("/")[2]
            if not re.fullmatch(PLAIN, place):
                raise WeightsError(f"{path}: holds {place}, which is more than numbers and a graph; refused")
            if place.endswith("_config.json") and any(map(is_pickled, parts_of(archive.read(name)))):
                raise WeightsError(f"{path}: {place} asks for a pickle, which could run code; refused")
            if place.startswith("data/sample_inputs/"):
                torch.load(io.BytesIO(archive.read(name)), weights_only=True)


def parts_of(content: bytes) -> list[Any]:
    return list(json.loads(content)["config"].values())


def is_pickled(part: dict[str, Any]) -> bool:
    return part.get("use_pickle", True) or not str(part.get("path_name")).startswith(("weight_", "tensor_"))
