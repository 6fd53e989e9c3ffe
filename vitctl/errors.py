"""Every error that vitctl raises on purpose, and its exit code.

    VitctlError
    ├── UsageError          2   the command line or a function's arguments are invalid
    │   ├── ConfigError         a field of the config, a `--set`, a name that does not exist
    │   └── OutputExists        the output exists already
    ├── InputError          3   an input is missing, corrupt, of another version, or does not fit
    │   ├── DataError           images, patch files
    │   ├── ChangedSource       a source that changed while it was read
    │   └── WeightsError        models
    ├── RunError            4   the work started and failed
    │   ├── NoSpace             the disk is full
    │   └── LostContact         another process of the run has ended
    └── Interrupted       130   Ctrl-C, or 143 for SIGTERM

A message is one line: what, where, and what to do next.
"""

import difflib
import errno
import re
from collections.abc import Iterable, Iterator


class VitctlError(Exception):
    exit_code = 1


class UsageError(VitctlError):
    exit_code = 2


class ConfigError(UsageError):
    pass


class OutputExists(UsageError):
    pass


class InputError(VitctlError):
    exit_code = 3


class DataError(InputError):
    pass


class ChangedSource(InputError):
    """No DataError, because that may be the fault of one image."""


class WeightsError(InputError):
    pass


class RunError(VitctlError):
    exit_code = 4


class NoSpace(RunError):
    pass


class LostContact(RunError):
    pass


class Interrupted(VitctlError):
    exit_code = 130

    def __init__(self, message: str, exit_code: int = 130, run: str | None = None) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.run = run  # the run directory to resume from


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FULL_TEXT = re.compile(rf"(errno = |os error |\[errno )({'|'.join(map(str, FULL))})\b|No space left")


def is_no_space(error: BaseException) -> bool:
    """Whether the disk is full, over its quota, or the file over the largest size allowed.

    Libraries wrap such errors in their own; some keep the errno in the text only.
    """
    return any(
        isinstance(cause, NoSpace) or getattr(cause, "errno", None) in FULL or FULL_TEXT.search(str(cause))
        for cause in causes(error)
    )


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and the chain of errors that caused it."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def is_out_of_memory(error: BaseException) -> bool:
    """Host or device memory. Classes are compared by name, so that torch need not be imported."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return not names.isdisjoint({"MemoryError", "OutOfMemoryError"}) or "can't allocate memory" in str(error)


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """The end of an error message: the nearest option, or all options if they are few."""
    known = list(options)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]!r}?"
    if 0 < len(known) <= 24:
        return "known: " + ", ".join(known)
    return f"{len(known)} are known"


class Terminated(KeyboardInterrupt):
    """SIGTERM, handled like Ctrl-C."""
