"""Checks of output paths: a command never overwrites its inputs, or a file of another kind."""

import os
from collections.abc import Iterable
from pathlib import Path

from vitctl.errors import UsageError, is_no_space

Input = Path | str | None


def check_output(path: Path | str | None, *inputs: Input, ending: str | tuple[str, ...] = "") -> None:
    """Checks, before the work starts, that a file can be written. `inputs` are files and folders the command reads."""
    if path is None:
        return
    path = Path(path)
    if path.name in ("", ".."):
        raise UsageError(f"{path}: has no file name; add one")
    if ending and not path.name.lower().endswith(ending):
        raise UsageError(f"{path}: must end in {' or '.join([ending] if isinstance(ending, str) else ending)}")
    for each in inputs:
        if each and is_part_of(path, Path(each)):
            raise UsageError(f"{path}: is an input of this command and would be overwritten; choose another path")
    check_folder_writable(path)


def is_part_of(path: Path, source: Path) -> bool:
    """Whether `path` exists, and is `source` or a file in that folder."""
    if not path.exists() or not source.exists():
        return False
    return path.samefile(source) or (source.is_dir() and source.resolve() in path.resolve().parents)


def check_folder_writable(path: Path) -> None:
    if not path.parent.is_dir():
        raise UsageError(f"{path}: the folder {path.parent} does not exist; create it first")
    trial = path.with_name(f".{path.name}.{os.getpid()}.trial")
    try:
        trial.touch()
        trial.unlink()
    except OSError as error:
        if is_no_space(error):
            raise
        raise UsageError(f"{path}: cannot be written ({error.strerror}); choose another path") from error


def check_replaceable(path: Path, format: str) -> None:
    """--overwrite replaces an HDF5 file of the same format, or one that is damaged; nothing else."""
    if not path.is_file() or not path.stat().st_size:
        return
    from vitctl.io.hdf5 import can_open, format_of, is_hdf5

    is_damaged = is_hdf5(path) and not can_open(path)
    if format_of(path) != format and not is_damaged:
        raise UsageError(f"{path}: exists and is not a {format} file, so it is not overwritten; choose another path")


def check_inputs_outside(folder: Path, inputs: Iterable[Input]) -> None:
    """No input of the command may be in the run directory that --overwrite deletes."""
    for each in inputs:
        if each and Path(each).exists() and folder.resolve() in (Path(each).resolve(), *Path(each).resolve().parents):
            raise UsageError(f"{folder}: --overwrite would delete {each}, an input of this command; use another --out")
