"""Where a command may write: never over what it reads, and never over a file of another kind."""

import os
from collections.abc import Iterable
from pathlib import Path

from vitctl.errors import UsageError, is_no_space

Input = Path | str | None


def check_output(path: Path | str | None, *inputs: Input, ending: str | tuple[str, ...] = "") -> None:
    """That a file can be written there, before the work that fills it. `inputs` are files and folders that are read."""
    if path is None:
        return
    path = Path(path)
    if path.name in ("", ".."):
        raise UsageError(f"{path}: names no file; add a name to write to")
    if ending and not path.name.lower().endswith(ending):
        raise UsageError(f"{path}: must end in {' or '.join([ending] if isinstance(ending, str) else ending)}")
    for each in inputs:
        if each and is_part_of(path, Path(each)):
            raise UsageError(f"{path}: is an input of this command, which would be overwritten; choose another place")
    check_folder_writable(path)


def is_part_of(path: Path, given: Path) -> bool:
    """Whether this file is there already, and is what was given or lies in that folder."""
    if not path.exists() or not given.exists():
        return False
    return path.samefile(given) or (given.is_dir() and given.resolve() in path.resolve().parents)


def check_folder_writable(path: Path) -> None:
    if not path.parent.is_dir():
        raise UsageError(f"{path}: there is no folder {path.parent} to write it in; make it first")
    trial = path.with_name(f".{path.name}.{os.getpid()}.trial")
    try:
        trial.touch()
        trial.unlink()
    except OSError as error:
        if is_no_space(error):
            raise
        raise UsageError(f"{path}: cannot be written ({error.strerror}); choose another place") from error


def check_replaceable(path: Path, format: str) -> None:
    """--overwrite replaces an HDF5 file of the same format, or one that is damaged; nothing else."""
    if not path.is_file() or not path.stat().st_size:
        return
    from vitctl.io.hdf5 import can_open, format_of, is_hdf5

    is_damaged = is_hdf5(path) and not can_open(path)
    if format_of(path) != format and not is_damaged:
        raise UsageError(f"{path}: exists and is not of format {format}, so it is not overwritten; choose another name")


def check_kept(folder: Path, inputs: Iterable[Input]) -> None:
    """That nothing which the command reads lies in the run directory that it is about to empty."""
    for each in inputs:
        if each and Path(each).exists() and folder.resolve() in (Path(each).resolve(), *Path(each).resolve().parents):
            raise UsageError(f"{folder}: --overwrite would delete {each}, which this command reads; name another --out")
