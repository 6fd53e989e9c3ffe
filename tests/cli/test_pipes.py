"""A pipe or a device where a file is wanted: one line, at once, from every command that reads one."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

SECONDS = 120  # after which a command that waits for a pipe is ended: a test that fails, not one that never ends
READERS = {
    "info": ["info"],
    "fewshot --features": ["fewshot", "--features"],
    "fewshot --data": ["fewshot", "--data"],
    "pretrain --data": ["pretrain", "--model", "vit-mu/8", "--data"],
    "evaluate --labels": ["evaluate", "--labels"],
    "evaluate --compare": ["evaluate", "--compare"],
    "patchify": ["patchify"],
    "patchify --classes": ["patchify", "pictures", "out.h5", "--classes"],
}


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    def end(*_: object) -> None:
        raise AssertionError("it waits for the pipe")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", ["pipe", "pipe.h5", "/dev/zero"])
def test_what_is_no_file_is_refused(
    refused: Callable[..., str], newest: str, data: str, folder: Callable[..., Path], tmp_path: Path, reader: str,
    name: str,
) -> None:  # fmt: skip
    folder({"cat": 1, "dog": 1})
    if not name.startswith("/"):
        os.mkfifo(tmp_path / name)
    assert f"{name}: is a pipe, a device or a socket, not a file" in refused(*READERS[reader], name, code=3)


def test_predict_tells_what_is_no_image_and_goes_on(vitctl: Callable[..., Any], newest: str, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    os.mkfifo(tmp_path / "photos" / "a.jpg")
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / "photos" / "b.png")
    limit = ["timeout", str(SECONDS)]
    answer = vitctl("predict", "photos", "/dev/zero", "--json", before=limit)
    assert [each["path"] for each in answer.json["predictions"]] == ["photos/b.png"]
    assert [each["path"] for each in answer.json["unreadable"]] == ["photos/a.jpg", "/dev/zero"]
    assert "is a pipe" in vitctl("predict", "photos/a.jpg", code=3, before=limit).error
