"""What a command works on when it was not told: told in one line, and always found by the same rule."""

import atexit
import functools
import os
import shutil
import sys
import tempfile
from pathlib import Path

from vitctl.config.patchify import PatchifyConfig
from vitctl.errors import DataError, UsageError
from vitctl.io.patch_file import PatchFile, is_hdf5
from vitctl.reporting import Reporter
from vitctl.workflows.patchify import patchify

DEFAULT = "data.h5"


def choose_data(flag: str | None, reporter: Reporter, trained_on: str | None = None) -> Path:
    """The flag, else $VITCTL_DATA, else ./data.h5, else what the weights were trained on, else the embedded digits.

    What is no patch file is made into one.
    """
    if flag:
        return as_patch_file(flag, "--data", reporter)
    if os.environ.get("VITCTL_DATA"):
        return as_patch_file(os.environ["VITCTL_DATA"], "$VITCTL_DATA", reporter)
    if Path(DEFAULT).exists():
        return as_patch_file(DEFAULT, "found here", reporter)
    if trained_on:
        return as_patch_file(trained_on, "what the weights were trained on", reporter)
    return as_patch_file("digits", "embedded, as no --data was given", reporter)


def as_patch_file(text: str, why: str, reporter: Reporter) -> Path:
    path = Path(text)
    if text == "digits" and not path.exists():
        path = cache_folder() / "digits.h5"
    elif path.is_file() and is_hdf5(path):
        reporter.note(f"data: {path} ({why})")
        return path
    elif path.suffix in (".h5", ".hdf5"):
        return path  # whoever opens it says what is wrong with it
    else:
        path = path.with_name(path.resolve().name + ".h5")
    if path.exists():
        made_from = PatchFile(path).header.source
        if made_from != text:
            raise DataError(
                f"{path}: stands where {text} would be patchified, but was made from {made_from}; name it, "
                f"or make another with vitctl patchify {text} OTHER.h5"
            )
        reporter.note(f"data: {text} ({why}), patchified before as {path}")
        return path
    reporter.note(f"data: {text} ({why}), patchified now as {path}")
    patchify(PatchifyConfig(source=text, out=str(path)), reporter, resume=True)
    return path


def judge_of(file: PatchFile) -> str:
    """The split by which training is judged: val, else test."""
    name = next((name for name in ("val", "test") if name in file.splits and file.splits[name].rows), None)
    if name is None:
        raise DataError(f"{file.path}: has neither val nor test to judge by; vitctl patchify --split val=0.2 makes one")
    return name


def cache_folder() -> Path:
    """Where this user's caches go; a folder for this process where none can be written."""
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
    """One for this process, gone at its end."""
    folder = tempfile.mkdtemp(prefix="vitctl-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
