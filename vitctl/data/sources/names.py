"""What the names of files and folders mean: an image, a split, or junk. Also handles names that are not UTF-8."""

import os
import re

Parts = tuple[str, ...]  # a path inside a source

IMAGE_EXTENSIONS = frozenset((
    "jpg", "jpeg", "jpe", "jfif", "png", "bmp", "gif", "webp", "tif", "tiff", "tga", "ico", "dib", "pcx", "heic",
    "heif", "jxl", "ppm", "pgm", "pbm", "pnm", "jp2", "avif",
))  # fmt: skip
TABLES = frozenset(("csv", "tsv", "jsonl", "ndjson"))
DOCUMENTS = frozenset((
    "readme", "license", "licence", "copying", "notice", "authors", "citation", "changelog", "version", "makefile",
    "_success",
))  # fmt: skip
JUNK = frozenset(("__macosx", "thumbs.db", "desktop.ini"))
CLASSES = 1_000_000  # numbers from here on are identifiers, and are read as names
SPLITS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip


def extension(name: str) -> str:
    """'jpg' for 'a.b.JPG', and '' without a dot."""
    return name.rpartition(".")[2].lower() if "." in name else ""


def is_image_name(name: str) -> bool:
    """By its extension. A file without one counts as an image, as in some copies of ImageNet."""
    return extension(name) in IMAGE_EXTENSIONS or ("." not in name and name.lower() not in DOCUMENTS)


def is_junk(name: str) -> bool:
    """Hidden files, and what macOS and Windows leave behind."""
    return name.startswith(".") or name.lower() in JUNK


def relative_parts(path: str) -> Parts | None:
    """The parts of a relative path. None if it is absolute or contains '..'."""
    parts = path.split("/")
    if path.startswith("/") or ".." in parts:
        return None
    return tuple(part for part in parts if part not in ("", "."))


def split_name(folder: str) -> str | None:
    """The split that a folder's name or a table's value stands for."""
    return SPLITS.get(folder.strip().lower())


def split_in(name: str) -> str | None:
    """The only split among the words of a file's name: 'val' for 'imagenet-val-0001.tar'."""
    words = {SPLITS[word] for word in re.split(r"[^a-z]+", name.lower()) if word in SPLITS}
    return words.pop() if len(words) == 1 else None


def printable(name: str) -> str:
    """`name` as valid UTF-8: bytes that are not UTF-8, NUL, and the backslash itself become \\xNN."""
    plain = name.replace("\\", r"\x5c").replace("\0", r"\x00")
    return plain.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def on_disk(name: str) -> str:
    """The inverse of `printable`."""
    return os.fsdecode(re.sub(rb"\\x([0-9a-f]{2})", lambda match: bytes.fromhex(match[1].decode()), name.encode()))


def join_parts(parts: Parts) -> str:
    return printable("/".join(parts))


def as_label(value: object) -> str | int | None:
    """A class number or class name. None, an empty name and -1 mean no label."""
    if isinstance(value, int) and not isinstance(value, bool) and value < CLASSES:
        return value if value >= 0 else None
    if isinstance(value, int | str) and not isinstance(value, bool):
        return printable(str(value).strip()) or None
    return None


def parse_label(text: str) -> str | int | None:
    """The same for untyped text: what looks like a class number is one."""
    return as_label(int(text)) if is_number(text.strip()) else as_label(text)


def is_number(text: str) -> bool:
    """Whether `text` is a class number. "007" and numbers of a million or more are names."""
    return re.fullmatch(r"0|-1|[1-9][0-9]{0,5}", text) is not None
