"""Finds the data of a command, also where --data is omitted, and notes which was used."""

import atexit
import functools
import os
import shutil
import sys
import tempfile
from pathlib import Path

from vitctl.config.model import ModelSpec
from vitctl.config.patchify import PatchifyConfig
from vitctl.config.res import Res
from vitctl.data.patchifier.stored import MOST, PHOTO, STEP, is_small
from vitctl.data.sources import open_source
from vitctl.data.sources.addresses import hide_secrets, is_address, name_of_address
from vitctl.errors import DataError, UsageError
from vitctl.io.hdf5 import is_hdf5
from vitctl.io.patch_file import PatchFile
from vitctl.patches import round_to
from vitctl.reporting import Reporter
from vitctl.workflows.inputs.samples import choose_held_out
from vitctl.workflows.patchify import patchify

DEFAULT = "data.h5"
LABEL_WORDS = {"classes": "one class", "sets": "a set of classes", "numbers": "a number"}
MARGIN = 7  # 448 is stored for 384, as 256 is for 224


def choose_data(flag: str | None, reporter: Reporter, trained_on: str | None = None, size: Res | None = None) -> Path:
    """The flag, else $VITCTL_DATA, else ./data.h5, else what the weights were trained on, else the embedded digits.

    Images that are not in a patch file yet are patchified, at `size` if that is known.
    """
    default = DEFAULT if Path(DEFAULT).exists() else None
    for text, why in (
        (flag, "--data"),
        (os.environ.get("VITCTL_DATA"), "$VITCTL_DATA"),
        (default, "found here"),
        (trained_on, "what the weights were trained on"),
    ):
        if text:
            return as_patch_file(text, why, reporter, size)
    return as_patch_file("digits", "embedded, as no --data was given", reporter)


def as_patch_file(text: str, why: str, reporter: Reporter, size: Res | None = None) -> Path:
    path = Path(text)
    if text == "digits" and not path.exists():
        path, size = cache_folder() / "digits.h5", None
    elif path.is_file() and is_hdf5(path):
        reporter.note(f"data: {path} ({why})")
        return path
    elif path.suffix in (".h5", ".hdf5"):
        return path  # whoever opens it says what is wrong with it
    elif is_address(text):
        path = Path(f"{name_of_address(text)}.h5")
    else:
        path = default_patch_file(path)
    if path.exists() and not covers(patchify_source(path, text), size):
        path = path.with_stem(f"{path.stem}-{size}")
    if path.exists():
        patchify_source(path, text)
        reporter.note(f"data: {hide_secrets(text)} ({why}), using {path}")
        return path
    reporter.note(f"data: {hide_secrets(text)} ({why}), patchifying it to {path}")
    patchify(config_for(text, path, size), reporter, resume=True)
    return path


def default_patch_file(path: Path) -> Path:
    """photos/ becomes photos.h5; "." or "/" are named after their folder, and written here."""
    name = path.resolve().name or "data"
    return path.with_name(f"{name}.h5") if path.name not in ("", "..") else Path(f"{name}.h5")


def patchify_source(path: Path, text: str) -> PatchFile:
    """The patch file next to `text`. It may have been made in another directory, by another relative path."""
    file = PatchFile(path)
    if file.header.source == hide_secrets(text):
        return file
    stated, actual = Path(file.header.source), Path(text).resolve()
    if stated.resolve() != actual and actual.parts[-len(stated.parts) :] != stated.parts:
        raise DataError(
            f"{path}: exists but was made from {file.header.source}, not from {hide_secrets(text)}; use --data {path}, "
            f"or another file with vitctl patchify {hide_secrets(text)} OTHER.h5"
        )
    return file


def covers(file: PatchFile, size: Res | None) -> bool:
    """Whether its images need not be enlarged, or a larger file would only enlarge them itself."""
    stored = file.geometry
    if size is None or (stored.height >= size.height and stored.width >= size.width):
        return True
    return keeps_originals(file) if file.header.is_whole else is_small(open_source(file.header.source))


def keeps_originals(file: PatchFile) -> bool:
    """Whether hardly an image has been reduced."""
    stored, total, kept = [file.geometry.height, file.geometry.width], 0, 0
    for split in file.splits.values():
        for sizes in split.slices("sizes"):
            total, kept = total + len(sizes), kept + int((sizes <= stored).all(1).sum())
    return kept >= MOST * total


def config_for(text: str, path: Path, size: Res | None) -> PatchifyConfig:
    """At the size that vitctl patchify chooses; where more is needed, at that and a margin, so that crops are sharp."""
    if size is None or max(size) <= PHOTO or is_small(open_source(text)):
        return PatchifyConfig(source=text, out=str(path))
    height, width = (round_to(side + side // MARGIN, STEP, up=True) for side in size)
    return PatchifyConfig(source=text, out=str(path), res=Res(height, width))


def warn_enlarged(file: PatchFile, spec: ModelSpec, reporter: Reporter) -> None:
    stored = file.geometry
    if spec.height > stored.height or spec.width > stored.width:
        remedy = f"vitctl patchify {file.header.source} OTHER.h5 --res {Res(spec.height, spec.width)} keeps more detail"
        reporter.warn(
            f"{file.path}: images stored at {stored.height}x{stored.width} are enlarged to {spec.height}x{spec.width}; "
            + ("the originals have no more pixels" if file.header.is_whole and keeps_originals(file) else remedy)
        )


def choose_judge_split(file: PatchFile) -> str:
    """The split that training is evaluated on: val, or else test."""
    name = choose_held_out(file, ("val", "test"))
    if name is None:
        raise DataError(
            f"{file.path}: has neither a val nor a test split to evaluate on; vitctl patchify --split val=0.2 makes one"
        )
    return name


def cache_folder() -> Path:
    """The user's cache; if it cannot be written, a temporary folder for this process."""
    home = Path.home()
    default = home / "Library" / "Caches" if sys.platform == "darwin" else home / ".cache"
    folder = Path(os.environ.get("XDG_CACHE_HOME") or default) / "vitctl"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    try:
        return temporary_folder()
    except OSError as error:
        raise UsageError(f"{folder}: cannot be written, nor can a temporary folder; set XDG_CACHE_HOME") from error


@functools.cache
def temporary_folder() -> Path:
    """A folder that is removed when this process exits."""
    folder = tempfile.mkdtemp(prefix="vitctl-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
