"""Every way in which vitctl can fail on purpose, and the exit code that scripts see for it.

    VitctlError
    ├── UsageError          2   what was asked for makes no sense
    │   ├── ConfigError         a field of the config, a `--set`, a name that does not exist
    │   └── OutputExists        something is there already
    ├── InputError          3   what was read is missing, corrupt, of another version, or does not fit
    │   ├── DataError           images, patch files
    │   └── WeightsError        models
    ├── RunError            4   it began well and failed
    │   ├── NoSpace             the disk is full
    │   └── LostContact         another process of the run is gone
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
        self.run = run  # the run directory that says all that is needed to go on


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FULL_TEXT = re.compile(rf"(errno = |os error |\[errno )({'|'.join(map(str, FULL))})\b|No space left")


def is_no_space(error: BaseException) -> bool:
    """Whether the file system refused to take more: full, over quota, or over the largest file it allows.

    Libraries wrap that in errors of their own, of which some keep the number in their text alone.
    """
    return any(
        isinstance(each, NoSpace) or getattr(each, "errno", None) in FULL or FULL_TEXT.search(str(each))
        for each in causes(error)
    )


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and those that it was raised for."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def is_out_of_memory(error: BaseException) -> bool:
    """Of the machine, or of an accelerator, told without importing what computes on it."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return not kinds.isdisjoint({"MemoryError", "OutOfMemoryError"}) or "can't allocate memory" in str(error)


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """A tail for an error message: the nearest option, or all of them when they are few."""
    known = list(options)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]!r}?"
    if 0 < len(known) <= 24:
        return "known: " + ", ".join(known)
    return f"{len(known)} are known"


class Terminated(KeyboardInterrupt):
    """SIGTERM, taken like Ctrl-C: finish what must be finished, then go."""
