"""Paths with braces and wildcards: train-{000000..000012}.tar, {train,val}-*.tar."""

import glob
import os
import re
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path

from vitctl.errors import DataError

SIBLINGS = 1000  # names compared with a misspelled one


def is_pattern(text: str) -> bool:
    return bool(re.search(r"[*?\[{]", text)) and not os.path.exists(text)


def match_files(pattern: str) -> list[Path]:
    """The files that match. Every path that braces write out must exist; wildcards match existing files."""
    paths: list[Path] = []
    for each in expand_braces(pattern):
        if glob.has_magic(each):
            paths += map(Path, sorted(glob.glob(each)))
        elif os.path.exists(each):
            paths.append(Path(each))
        else:
            raise DataError(f"{pattern}: {describe_missing(Path(each))}")
    if not paths:
        raise DataError(f"{pattern}: no file matches")
    return paths


def expand_braces(pattern: str) -> Iterator[str]:
    """Every path that the braces write out, as in a shell."""
    for group in re.finditer(r"\{([^{}]*)\}", pattern):
        choices = alternatives(group[1])
        if choices is not None:
            for choice in choices:
                yield from (pattern[: group.start()] + choice + tail for tail in expand_braces(pattern[group.end() :]))
            return
    yield pattern


def alternatives(text: str) -> Iterable[str] | None:
    """The choices in a pair of braces: a range a..b, or a list with commas. None for anything else."""
    span = re.fullmatch(r"([0-9]+)\.\.([0-9]+)", text)
    if span:
        width = len(max(span.groups(), key=len)) if any(end.startswith("0") for end in span.groups()) else 0
        return (f"{number:0{width}d}" for number in range(int(span[1]), int(span[2]) + 1))
    return text.split(",") if "," in text else None


def describe_missing(path: Path) -> str:
    """Says which part of the path is missing, and suggests a similar name."""
    absent = Path(os.path.abspath(path))
    while not absent.parent.is_dir():
        absent = absent.parent
    try:
        with os.scandir(absent.parent) as entries:
            siblings = sorted(entry.name for entry, _ in zip(entries, range(SIBLINGS), strict=False))
    except OSError:
        siblings = []
    near = "".join(f"; did you mean {name!r}?" for name in get_close_matches(absent.name, siblings, 1, 0.6))
    place = path if absent == Path(os.path.abspath(path)) else f"{path} ({absent.name} is missing)"
    return f"{place} does not exist{near}"
