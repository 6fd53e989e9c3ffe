"""What is opened as an image, and what is not, whatever it is called."""

import io
import os
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

import vitctl as package
from vitctl.data.patchifier.decode import Target, decode
from vitctl.data.patchifier.image_file import FORMATS, read_whole, readable_formats
from vitctl.data.previews import read_previews
from vitctl.data.sources import FoundImage, open_source
from vitctl.data.sources.files import LargeFile
from vitctl.errors import DataError
from vitctl.reporting import SilentReporter

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
    with pytest.raises(
        DataError, match="PostScript is a program" if kind == "EPS" else "not an image, or in an unsupported format"
    ):
        decode(encoded(kind), TARGET)


def test_a_plugin_that_somebody_has_loaded_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(Image.OPEN, "EVERYTHING", (lambda *_: Image.new("RGB", (16, 16)), None))
    monkeypatch.setattr(Image, "ID", [*Image.ID, "EVERYTHING"])
    with pytest.raises(DataError, match="not an image"):
        decode(b"anything", TARGET)


def test_no_other_file_of_ours_opens_images() -> None:
    root = Path(package.__file__).parent
    found = {path.name for path in root.rglob("*.py") if "Image.open(" in path.read_text(encoding="utf-8")}
    assert found == {"image_file.py", "jpeg.py"}  # the latter reads rows that we wrote


# --- what is too long to be an image --------------------------------------------------------------------------------

MB = 1 << 20
SCRIPT = """
import sys
from pathlib import Path
from vitctl.data.patchifier.image_file import read_whole
from vitctl.data.sources import FoundImage, open_source
from vitctl.errors import DataError
from vitctl.reporting import SilentReporter

def peak():
    return next(int(line.split()[1]) >> 10 for line in open("/proc/self/status") if line.startswith("VmHWM"))

before, source, reasons = peak(), open_source(sys.argv[1]), []
source.prepare(Path("spool"), SilentReporter())
for each in source.scan():
    try:
        if isinstance(each, FoundImage):
            read_whole(source.read(each.name, each.file, each.offset, each.size), 89_478_485)
    except DataError as error:
        reasons.append(str(error))
    reasons += [each.reason] if hasattr(each, "reason") else []
print(peak() - before, *reasons, sep="\\n")
"""


def sparse(path: Path, head: bytes, size: int) -> None:
    """A file that says it is so long, of which only the head is on the disk."""
    path.write_bytes(head)
    os.truncate(path, size)


def zeros(size: int) -> bytes:
    """So many megabytes, deflated, made from one of them."""
    packer = zlib.compressobj(wbits=-15)
    one = packer.compress(bytes(MB)) + packer.flush(zlib.Z_FULL_FLUSH)
    return one * size + packer.flush()


def packed(path: Path, head: bytes, size: int, flags: int = 0, stated: int | None = None) -> None:
    """A zip with one image, and one member of so many megabytes of zeros behind a head; `stated` is what it says."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("good.png", encoded("PNG"))
    whole = path.read_bytes()
    (*_, length, offset, _) = struct.unpack("<4s4H2LH", whole[-22:])
    first = zlib.compressobj(wbits=-15)
    content = first.compress(head) + first.flush(zlib.Z_FULL_FLUSH) + zeros(size)
    sizes = (0, len(content), size * MB + len(head) if stated is None else stated)
    fields = (20, flags, 8, 0, 0, *sizes, len(b"x.png"), 0)
    local = struct.pack("<4s5H3L2H", b"PK\3\4", *fields)
    entry = struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, *fields, 0, 0, 0, 0, offset)
    directory = whole[offset : offset + length] + entry + b"x.png"
    place = offset + len(local) + 5 + len(content)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 2, 2, len(directory), place, 0)
    path.write_bytes(whole[:offset] + local + b"x.png" + content + directory + end)


def tarred(path: Path) -> None:
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        for name, content, size in (("good.png", encoded("PNG"), None), ("x.png", b"\x89PNG\r\n\x1a\n", 900 * MB)):
            info = tarfile.TarInfo(name)
            info.size = len(content) if size is None else size
            archive.fileobj.write(info.tobuf(tarfile.GNU_FORMAT))  # type: ignore[union-attr]
            archive.fileobj.write(content)  # type: ignore[union-attr]
            place = archive.fileobj.tell() - len(content) + -(-info.size // 512) * 512  # type: ignore[union-attr]
            archive.fileobj.truncate(place)  # type: ignore[union-attr]
            archive.fileobj.seek(place)  # type: ignore[union-attr]
            archive.offset = place


def in_folder(head: bytes, size: int) -> Callable[[Path], None]:
    return lambda root: sparse(root / "x.png", head, size)


MAGIC = b"\x89PNG\r\n\x1a\n"
LONG: dict[str, tuple[str, Callable[[Path], None]]] = {
    "a junk PNG": ("photos", in_folder(MAGIC, 900 * MB)),
    "zeros": ("photos", in_folder(b"", 900 * MB)),
    "a small PNG with a long tail": ("photos", in_folder(encoded("PNG"), 900 * MB)),
    "a JPEG with a long tail": ("photos", in_folder(encoded("JPEG"), 900 * MB)),
    "a TIFF": ("photos", in_folder(encoded("TIFF"), 2000 * MB)),
    "a zip's member that says so": ("set.zip", lambda path: packed(path, MAGIC, 3000)),
    "one that does not": ("set.zip", lambda path: packed(path, MAGIC, 3000, stated=100)),
    "one that was streamed": ("set.zip", lambda path: packed(path, MAGIC, 3000, flags=8, stated=0)),
    "a TIFF in a zip": ("set.zip", lambda path: packed(path, b"II*\0", 3000, flags=8, stated=0)),
    "a tar's member": ("set.tar", tarred),
}


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="where the system tells what a process took")
@pytest.mark.parametrize("what", LONG)
def test_what_is_too_long_for_an_image_is_refused_before_it_takes_memory(tmp_path: Path, what: str) -> None:
    name, make = LONG[what]
    (tmp_path / "spool").mkdir()
    if name == "photos":
        (tmp_path / name).mkdir()
        (tmp_path / name / "good.png").write_bytes(encoded("PNG"))
    make(tmp_path / name)
    done = subprocess.run([sys.executable, "-c", SCRIPT, name], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    peak, *reasons = done.stdout.splitlines()
    assert len(reasons) == 1
    assert " MB" in reasons[0] or "longer than the 100 bytes stated in the zip" in reasons[0]
    assert int(peak) < 1700 if "TIFF in" in what else int(peak) < 400, f"{peak} MB"


def test_a_preview_reads_the_head_first(tmp_path: Path) -> None:
    sparse(tmp_path / "x.png", MAGIC, 900 * MB)
    ((preview,),) = read_previews([str(tmp_path / "x.png")], TARGET, 1)
    assert preview.reason == "not an image, or in an unsupported format, and larger than 64 MB"


@pytest.mark.parametrize("name", ["photos", "set.zip"])
def test_a_long_image_is_decoded_all_the_same(tmp_path: Path, name: str) -> None:
    """A bitmap of 70 MB."""
    pixels = np.zeros((4850, 4850, 3), np.uint8)
    pixels[-1000:] = 200
    (tmp_path / "photos").mkdir()
    Image.fromarray(pixels).save(tmp_path / "photos" / "x.bmp")
    if name == "set.zip":
        with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(tmp_path / "photos" / "x.bmp", "x.bmp")
    source = open_source(str(tmp_path / name))
    source.prepare(tmp_path, SilentReporter())
    (found,) = [each for each in source.scan() if isinstance(each, FoundImage)]
    content = source.read(found.name, found.file, found.offset, found.size)
    assert isinstance(content, LargeFile)
    shown = decode(read_whole(content, TARGET.max_pixels), TARGET)
    assert (shown[0].max(), shown[-1].min()) == (0, 200)
