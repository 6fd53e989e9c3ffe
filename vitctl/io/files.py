"""Checks of a path before it is opened, and JSON files that a person names."""

import json
import os
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Any

from vitctl.errors import DataError


def check_regular_file(path: Path | str) -> None:
    """Rejects pipes, devices and sockets: opening one may block, and reading one may never end.

    Folders and missing files pass, because the code that opens them has a better message.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return
    if not (S_ISREG(mode) or S_ISDIR(mode)):
        raise DataError(f"{path}: is a pipe, a device or a socket, not a file; save it to a file first")


def read_json(path: Path) -> Any:
    check_regular_file(path)
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({getattr(error, 'strerror', None) or error})") from error
