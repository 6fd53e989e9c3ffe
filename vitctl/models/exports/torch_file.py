"""torch.export: a program that torch runs without the code that made it."""

import io
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vitctl.errors import WeightsError
from vitctl.io.atomic import atomic_write
from vitctl.models.exports.checksum import UNSET, WHOLE, is_sealed, pair_with_data, seal
from vitctl.models.exports.exported import ExportedModel
from vitctl.models.exports.harmless import check_harmless
from vitctl.models.exports.labels import read_labels
from vitctl.reporting import mute_loggers

LABELS = "labels.json"


def write_program(graph: nn.Module, example: torch.Tensor, free: dict[int, Any], path: Path,
                  labels: dict[str, str]) -> None:  # fmt: skip
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.export.export(graph, (example,), dynamic_shapes=(free,))
        held = io.BytesIO()  # a disk that is full would end the process inside torch's own writer
        torch.export.save(program, held, extra_files={LABELS: json.dumps(labels)})
        comment = pair_with_data(WHOLE) + UNSET.encode()
        held.seek(-2, io.SEEK_END)  # the zip ends with the length of its comment
        held.write(len(comment).to_bytes(2, "little") + comment)
        with atomic_write(path) as aside:
            aside.write_bytes(held.getbuffer())
            seal(aside)


class TorchProgram(ExportedModel):
    """A file of torch.export as a module."""

    def __init__(self, path: Path) -> None:
        found, sealed = {LABELS: ""}, is_sealed(path)
        try:
            check_harmless(path)
            with warnings.catch_warnings(), mute_loggers("torch.export"):
                warnings.simplefilter("ignore")
                program = torch.export.load(path, extra_files=found)
            labels = json.loads(found[LABELS] or "{}")
        except WeightsError:
            raise
        except Exception as error:  # of zip, JSON, or torch
            text = " ".join(str(error).split())[:120]
            raise WeightsError(f"{path}: no file of torch.export that can be read ({text})") from error
        super().__init__(read_labels(labels, str(path)), path, sealed)
        self.program = program.module().__call__  # the call alone: as a part of this one it cannot be put in eval mode

    def compute(self, images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return self.program(images)  # type: ignore[no-any-return]
