"""With --quiet, stderr holds our lines alone: what libraries print there by themselves is kept from it."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.conftest import picture

OURS = ("warning: ", "error: ")


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """Images of which libjpeg and libtiff have something to say, and good ones."""
    folder = tmp_path / "damaged" / "ant"
    folder.mkdir(parents=True)
    whole = Image.fromarray(picture(0, 90, 120))
    for number in range(3):
        Image.fromarray(picture(number)).save(folder / f"{number}.png")
    for name, mode, options in (
        ("cut.jpg", "RGB", {"format": "JPEG"}),
        ("fax.tif", "1", {"format": "TIFF", "compression": "group4"}),
        ("zip.tif", "RGB", {"format": "TIFF", "compression": "tiff_deflate"}),
    ):
        buffer = io.BytesIO()
        whole.convert(mode).save(buffer, **options)
        content = bytearray(buffer.getvalue())
        if name == "cut.jpg":
            content = content[: len(content) // 2] + b"\xff\xd9"
        else:
            content[60:120] = b"\x55" * 60
        (folder / name).write_bytes(content)
    return folder.parent


@pytest.mark.parametrize("command", [
    ("predict", "damaged"), ("patchify", "damaged", "d.h5", "--res", "32"),
    ("patchify", "damaged", "d.h5", "--res", "32", "--set", "workers=1"),
], ids=lambda words: words[0])  # fmt: skip
def test_of_damaged_images(vitctl: Callable[..., Any], damaged: Path, newest: str, command: tuple[str, ...]) -> None:
    answer = vitctl(*command, "--quiet", "--json")
    assert answer.err
    assert [line for line in answer.err.splitlines() if not line.startswith(OURS)] == []


def test_of_a_home_that_cannot_be_written(vitctl: Callable[..., Any], data: str, newest: str, tmp_path: Path) -> None:
    """matplotlib would tell of it."""
    nowhere = str(tmp_path / "file")
    Path(nowhere).touch()
    env = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"), f"{nowhere}/home")
    answer = vitctl("evaluate", "--from", f"{newest}:last", "--confusion", "c.png", "--quiet", "--json", env=env)
    assert answer.err == ""
