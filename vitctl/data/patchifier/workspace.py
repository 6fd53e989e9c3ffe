"""Where a build lies while it is made: the folder, its lock, and the journal of what is done."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vitctl.config.patchify import PatchifyConfig
from vitctl.errors import OutputExists, UsageError
from vitctl.io.atomic import flush_file, write_json


class Workspace:
    """The folder OUT.building/ and what is in it."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.folder = out.with_name(out.name + ".building")
        self.discarded = out.with_name(out.name + ".done")
        self.plan, self.spool, self.blocks = (self.folder / name for name in ("plan", "spool", "blocks"))
        self.rows, self.digests, self.journal = (self.folder / name for name in ("rows", "digests", "journal"))
        self.filled, self.skeleton, self.config = (
            self.folder / name for name in ("filled", "skeleton.h5", "config.json")
        )

    def begin(self, config: PatchifyConfig, resume: bool, overwrite: bool) -> None:
        """Refuses to destroy, or to go on with something else than was begun."""
        if self.out.is_dir():
            raise OutputExists(f"{self.out}: is a folder; name a file")
        shutil.rmtree(self.discarded, ignore_errors=True)
        if overwrite:
            shutil.rmtree(self.folder, ignore_errors=True)
        elif self.folder.exists() and not resume:
            raise OutputExists(
                f"{self.folder}: an unfinished build is there; go on with --resume, or start over with --overwrite"
            )
        elif self.out.exists() and not self.folder.exists():
            raise OutputExists(f"{self.out}: exists already; --overwrite makes it anew")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"{self.folder}: cannot be made ({error.strerror}); choose another place for OUT"
            ) from error
        if self.config.exists():
            self.compare(json.loads(self.config.read_text()), config)
        else:
            write_json(self.config, config.content())

    def compare(self, before: dict[str, Any], config: PatchifyConfig) -> None:
        now = json.loads(json.dumps(config.content()))
        changed = [
            f"{name} was {before.get(name)!r} and is {now[name]!r}" for name in now if before.get(name) != now[name]
        ]
        if changed:
            raise UsageError(
                f"{self.folder}: cannot go on with other options: {'; '.join(changed)}; "
                "repeat the first ones, or start over with --overwrite"
            )

    def placed(self) -> bool:
        """Whether the rows have become `out`, and only this folder was left behind by a kill."""
        return self.skeleton.exists() and not self.rows.exists() and self.out.exists()

    def discard(self) -> None:
        """At one stroke: a half-removed folder must not look like a half-made build."""
        os.replace(self.folder, self.discarded)
        shutil.rmtree(self.discarded)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One build at a time; the lock dies with its holder."""
        with open(self.folder / "lock", "w") as handle:
            try:
                import fcntl

                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (
                ImportError
            ):  # no such lock on Windows: two builds of one file at a time are then the user's to avoid
                pass
            except OSError:
                raise OutputExists(f"{self.folder}: another process is building it now") from None
            yield


@dataclass
class BlockResult:
    number: int
    rejects: list[tuple[int, str]] = field(default_factory=list)  # (row, reason)
    pixels: int = 0  # sampled for mean and std, and the exact sums over them
    sums: list[int] = field(default_factory=list)
    squares: list[int] = field(default_factory=list)


class Journal:
    """Which blocks are done. A line counts when it is whole: a kill while writing it costs one block."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done: dict[int, BlockResult] = {}
        self.waiting: list[BlockResult] = []
        if path.exists():
            *lines, torn = path.read_bytes().split(b"\n")
            if torn:
                os.truncate(path, path.stat().st_size - len(torn))  # a kill cut it short
            results = [BlockResult(**json.loads(line)) for line in lines]
            self.done = {result.number: result for result in results}

    def add(self, result: BlockResult) -> None:
        self.waiting.append(result)

    def write(self, *before: Path) -> None:
        """Flushes the files that the blocks went to, then says that the blocks are done."""
        if not self.waiting:
            return
        for path in before:
            if path.exists():
                flush_file(path)
        lines = b"".join(json.dumps(asdict(result)).encode() + b"\n" for result in self.waiting)
        with open(self.path, "ab") as file:
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())
        self.done |= {result.number: result for result in self.waiting}
        self.waiting = []

    def rejects(self) -> list[tuple[int, str]]:
        return sorted((row, reason) for result in self.done.values() for row, reason in result.rejects)
