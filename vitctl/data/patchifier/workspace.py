"""Where a build lies while it is made: the folder, its lock, and the journal of what is done."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vitctl.errors import OutputExists, UsageError
from vitctl.io.atomic import flush_file, write_json
from vitctl.io.lock import Held, take
from vitctl.reporting import Reporter


class Workspace:
    """The folder .OUT.building/ and what is in it; hidden, so that a scan of the folder it lies in passes it by."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.folder, self.lock, self.discarded = (
            out.with_name(f".{out.name}.{ending}") for ending in ("building", "lock", "discarded")
        )
        self.plan, self.spool, self.blocks = (self.folder / name for name in ("plan", "spool", "blocks"))
        self.rows, self.digests, self.journal = (self.folder / name for name in ("rows", "digests", "journal"))
        self.filled, self.skeleton, self.made_of = (
            self.folder / name for name in ("filled", "skeleton.h5", "made_of.json")
        )

    def begin(self, made_of: dict[str, Any], resume: bool, overwrite: bool) -> None:
        """Refuses to destroy, or to go on with something else than was begun. Call it with the lock held."""
        if self.out.is_dir():
            raise OutputExists(f"{self.out}: is a folder; name a file")
        shutil.rmtree(self.discarded, ignore_errors=True)
        if overwrite:
            shutil.rmtree(self.folder, ignore_errors=True)
        elif self.folder.exists() and not resume:
            raise OutputExists(
                f"{self.out}: was begun and not finished; go on with --resume, or start over with --overwrite"
            )
        elif self.out.exists() and not self.folder.exists():
            raise OutputExists(f"{self.out}: exists already; --overwrite makes it anew")
        self.folder.mkdir(exist_ok=True)
        if self.made_of.exists():
            self.compare(json.loads(self.made_of.read_text()), made_of)
        else:
            write_json(self.made_of, made_of)

    def compare(self, before: dict[str, Any], now: dict[str, Any]) -> None:
        now = json.loads(json.dumps(now))
        changed = [
            f"{name} was {before.get(name)!r} and is {now[name]!r}" for name in now if before.get(name) != now[name]
        ]
        if changed:
            raise UsageError(
                f"{self.out}: cannot go on with what was begun: {'; '.join(changed)}; "
                "repeat it as it was, or start over with --overwrite"
            )

    def is_placed(self) -> bool:
        """Whether the rows have become `out`, and only this folder was left behind by a kill."""
        return self.skeleton.exists() and not self.rows.exists() and self.out.exists()

    def discard(self) -> None:
        """At one stroke: a half-removed folder must not look like a half-made build."""
        os.replace(self.folder, self.discarded)
        shutil.rmtree(self.discarded)

    @contextmanager
    def hold(self, reporter: Reporter) -> Iterator[None]:
        """One build at a time; the lock dies with its holder, and its file goes with the last of them."""
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            handle = take(self.lock, wait=False, warn=reporter.warn)
        except Held:
            raise OutputExists(f"{self.out}: another process is building it now; wait for it") from None
        except OSError as error:
            raise UsageError(f"{self.out}: cannot be made ({error.strerror}); choose another place") from error
        with handle:
            try:
                yield
            finally:
                self.lock.unlink(missing_ok=True)


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
            content, whole = path.read_bytes(), 0
            for line in content.splitlines(keepends=True):
                result = parse_journal_line(line)
                if result is None:
                    break
                self.done[result.number] = result
                whole += len(line)
            if whole < len(content):
                os.truncate(path, whole)  # a kill or a power cut left half a line, or worse

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


def parse_journal_line(line: bytes) -> BlockResult | None:
    """A whole line of the journal, or None."""
    try:
        return BlockResult(**json.loads(line)) if line.endswith(b"\n") else None
    except (ValueError, TypeError):
        return None
