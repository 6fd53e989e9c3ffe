"""Data that somebody changes under a run: one line and exit 3, whatever it is that reads them."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vitctl.io.patch_file import PatchFile


def cut(path: Path) -> None:
    os.truncate(path, 4096)


def overwrite_labels(path: Path) -> None:
    split = PatchFile(path).split("train")
    with open(path, "r+b") as file:
        file.seek(split.segments[0].place("labels").offset)  # type: ignore[union-attr]
        np.full(split.rows, 10**6).tofile(file)


@pytest.mark.parametrize(
    ("spoil", "words"), [(cut, "was truncated while"), (overwrite_labels, "has the label 1000000")]
)
def test_they_end_it_with_one_line(data: str, tmp_path: Path, spoil: Callable[[Path], None], words: str) -> None:
    command = [sys.executable, "-m", "vitctl", "pretrain", "--model", "vit-mu/8", "--steps", "10000000", "--out", "run"]
    run = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    log = tmp_path / "run" / "metrics.jsonl"
    while run.poll() is None and not (log.exists() and log.stat().st_size):
        time.sleep(0.05)
    spoil(tmp_path / data)
    out, told = run.communicate()
    (line,) = [each for each in told.splitlines() if each.startswith("error: ")]
    assert (run.returncode, out) == (3, "")
    assert "data.h5" in line
    assert words in line
    assert "Traceback" not in told
