"""What is opened as a picture, and what is not, whatever it is called."""

import io
from pathlib import Path

import pytest
from PIL import Image, features

import vitctl as package
from vitctl.data.patchifier.decode import Target, decode
from vitctl.data.patchifier.image_file import FORMATS, readable_formats
from vitctl.errors import DataError

TARGET = Target(16, 16, 3)


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (200, 30, 30)).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", FORMATS)
def test_every_listed_format_is_decoded(kind: str) -> None:
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow was built without it")
    assert kind in readable_formats()
    assert abs(decode(encoded(kind), TARGET).astype(int) - (200, 30, 30)).max() <= 6


@pytest.mark.parametrize("kind", ["EPS", "SGI", "DDS", "ICNS", "QOI"])
def test_no_other_is(kind: str) -> None:
    with pytest.raises(DataError, match="PostScript, which is a program" if kind == "EPS" else "not a picture, or of"):
        decode(encoded(kind), TARGET)


def test_a_plugin_that_somebody_has_loaded_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(Image.OPEN, "EVERYTHING", (lambda *_: Image.new("RGB", (16, 16)), None))
    monkeypatch.setattr(Image, "ID", [*Image.ID, "EVERYTHING"])
    with pytest.raises(DataError, match="not a picture"):
        decode(b"anything", TARGET)


def test_no_other_file_of_ours_opens_pictures() -> None:
    root = Path(package.__file__).parent
    found = {path.name for path in root.rglob("*.py") if "Image.open(" in path.read_text(encoding="utf-8")}
    assert found == {"image_file.py"}
