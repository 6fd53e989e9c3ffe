"""No command writes over what it reads, whatever --overwrite says."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vitctl.workflows.train.result import TrainResult

LINES = {
    "a figure over a patch file": "fewshot --from pixels --data data.h5 --plot data.h5",
    "a figure over an image": "fewshot --from pixels --data pictures --plot pictures/train/one/000.png",
    "a sheet over a patch file": "info data.h5 --sheet data.h5",
    "features over their patch file": "features --from pixels --data data.h5 --out data.h5 --overwrite",
    "features over another patch file": "features --from pixels --data data.h5 --out other.h5 --overwrite",
    "a patch file over an image of its source": "patchify pictures pictures/train/one/000.png --overwrite",
    "a patch file over anything else": "patchify pictures notes.txt --overwrite",
    "an answer over an image": "predict --from w.safetensors pictures --sheet pictures/train/one/000.png",
    "a table over an image": "predict --from w.safetensors pictures/train/one/000.png --csv pictures/train/one/000.png",
    "a confusion matrix over an image": "evaluate --from w.safetensors --data pictures --confusion "
    "pictures/train/one/000.png",
    "weights over weights": "interpolate-pos --from w.safetensors --res 32 --out w.safetensors --overwrite",
    "an export over weights": "export --from w.safetensors --format safetensors --out w.safetensors --overwrite",
    "an export over those of a run": "export --from run --format safetensors --out run/weights.safetensors --overwrite",
    "a run over its weights": "finetune --from run --data data.h5 --out run --overwrite",
    "a run over its data": "pretrain --model vit-mu/8 --data run/data.h5 --batch 8 --out run --overwrite",
    "an inspection over its weights": "inspect --from run/weights.safetensors --data data.h5 --out run --overwrite",
}


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "cache" not in path.parts
    }


@pytest.mark.parametrize("what", LINES)
def test_what_is_read_is_never_overwritten(
    what: str, refused: Callable[..., str], folder: Any, data: str, trained: TrainResult, tmp_path: Path
) -> None:
    folder({"train/one": 2, "train/two": 2, "val/one": 1, "val/two": 1})
    shutil.copytree(str(trained.run), tmp_path / "run")
    shutil.copy(str(trained.weights), tmp_path / "w.safetensors")
    for name in ("other.h5", "run/data.h5"):
        shutil.copy(data, tmp_path / name)
    (tmp_path / "notes.txt").write_text("mine")
    before = digests(tmp_path)
    refused(*LINES[what].split(), code=2)
    assert digests(tmp_path) == before


@pytest.mark.parametrize("path", [".", "/"])
@pytest.mark.parametrize(
    "line", ["fewshot --plot", "predict x.png --csv", "predict x.png --sheet", "evaluate --confusion",
             "interpolate-pos --res 32 --out", "export --out", "info data.h5 --sheet", "features --out", "patchify x"]
)  # fmt: skip
def test_a_path_without_a_name_is_refused_in_one_line(
    line: str, path: str, refused: Callable[..., str], folder: Any, data: str, newest: str, tmp_path: Path
) -> None:
    folder({"one": 1}, root="x.png")
    refused(*line.split(), path, code=2)
