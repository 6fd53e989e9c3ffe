"""torch.export files: a program that torch runs without vitctl's code."""

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
        buffer = io.BytesIO()  # writing to a full disk would abort the process inside torch's writer
        torch.export.save(program, buffer, extra_files={LABELS: json.dumps(labels)})
        comment = pair_with_data(WHOLE) + UNSET.encode()
        buffer.seek(-2, io.SEEK_END)  # the zip ends with the length of its comment
        buffer.write(len(comment).to_bytes(2, "little") + comment)
        with atomic_write(path) as aside:
            aside.write_bytes(buffer.getbuffer())
            seal(aside)


class TorchProgram(ExportedModel):
    """A file of torch.export as a module."""

    def __init__(self, path: Path) -> None:
        extra, sealed = {LABELS: ""}, is_sealed(path)
        try:
            check_harmless(path)
            with warnings.catch_warnings(), mute_loggers("torch.export"):
                warnings.simplefilter("ignore")
                program = torch.export.load(path, extra_files=extra)
            labels = json.loads(extra[LABELS] or "{}")
        except WeightsError:
            raise
        except Exception as error:  # from zipfile, json or torch
            text = " ".join(str(error).split())[:120]
            raise WeightsError(f"{path}: torch.export cannot load it ({text}); export it again") from error
        super().__init__(read_labels(labels, str(path)), path, sealed)
        self.program = program.module().__call__  # not the module: as a submodule it would refuse eval()

    def compute(self, images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return self.program(images)  # type: ignore[no-any-return]
