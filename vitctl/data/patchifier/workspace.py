"""One build: its inputs, the folder that it works in, the lock on that folder, and the journal of finished blocks."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from vitctl.config.patchify import PatchifyConfig
from vitctl.data.sources.contract import Source
from vitctl.errors import OutputExists, UsageError
from vitctl.io.atomic import flush_file, write_json
from vitctl.io.lock import Held, take
from vitctl.reporting import Reporter

Existing = Literal["refuse", "resume", "overwrite"]  # what to do with an existing file or unfinished build


@dataclass(frozen=True)
class Build:
    """A patch file to make, or one shard of it. Worker processes get a pickle."""

    source: Source
    config: PatchifyConfig
    out: Path
    shard: int = 0
    existing: Existing = "refuse"
    shared: Path | None = None  # the folder of scan and spool, if one process makes several shards

    @property
    def space(self) -> "Workspace":
        return Workspace(self.out)

    @property
    def scratch(self) -> Path:
        """The folder of the scan and the spool."""
        return self.shared or self.space.folder


class Workspace:
    """The folder .OUT.building/ and its content. Its name is hidden so that a scan of the parent folder skips it."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.folder, self.lock, self.discarded = (
            out.with_name(f".{out.name}.{ending}") for ending in ("building", "lock", "discarded")
        )
        names = ("plan", "blocks", "rows", "digests", "sizes", "journal", "filled", "skeleton.h5", "made_of.json")
        paths = (self.folder / name for name in names)
        self.plan, self.blocks, self.rows, self.digests, self.sizes, self.journal, *rest = paths
        self.filled, self.skeleton, self.inputs = rest

    def begin(self, inputs: dict[str, Any], existing: Existing) -> None:
        """Creates the folder, or checks that the build in it had the same inputs. Call it with the lock held."""
        if self.out.is_dir():
            raise OutputExists(f"{self.out}: is a folder; name a file")
        shutil.rmtree(self.discarded, ignore_errors=True)
        if existing == "overwrite":
            shutil.rmtree(self.folder, ignore_errors=True)
        elif self.folder.exists() and existing != "resume":
            raise OutputExists(f"{self.out}: is unfinished; continue with --resume, or start over with --overwrite")
        elif self.out.exists() and not self.folder.exists():
            raise OutputExists(f"{self.out}: exists already; --overwrite replaces it")
        self.folder.mkdir(exist_ok=True)
        if not self.inputs.exists():
            write_json(self.inputs, inputs)
            return
        old, new = json.loads(self.inputs.read_text()), json.loads(json.dumps(inputs))
        changed = [name for name in new if old.get(name) != new[name]]
        if changed:
            changes = "; ".join(f"{name} was {old.get(name)!r} and is {new[name]!r}" for name in changed)
            raise UsageError(
                f"{self.out}: cannot resume, because {changes}; use the same inputs, or start over with --overwrite"
            )

    def is_placed(self) -> bool:
        """Whether `out` is complete, and only this folder remains to be removed after a kill."""
        return self.skeleton.exists() and not self.rows.exists() and self.out.exists()

    def discard(self) -> None:
        """Renames the folder first: one that is half removed must not look like an unfinished build."""
        os.replace(self.folder, self.discarded)
        shutil.rmtree(self.discarded)

    @contextmanager
    def hold(self, reporter: Reporter) -> Iterator[None]:
        """Holds the lock. It is released when this process dies, and the lock's file is removed at the end."""
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            handle = take(self.lock, wait=False, warn=reporter.warn)
        except Held:
            raise OutputExists(f"{self.out}: another process is building it; wait until it is done") from None
        except OSError as error:
            raise UsageError(f"{self.out}: cannot be created ({error.strerror}); choose another path") from error
        with handle:
            try:
                yield
            finally:
                self.lock.unlink(missing_ok=True)


@dataclass
class BlockResult:
    number: int
    rejects: list[tuple[int, str]] = field(default_factory=list)  # (row, reason)
    pixels: int = 0  # sampled for mean and std; then the exact sums of their values, a number per channel
    sums: list[int] = field(default_factory=list)
    squares: list[int] = field(default_factory=list)


class Journal:
    """Which blocks are done. Only complete lines count: a kill while one is written costs one block."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done: dict[int, BlockResult] = {}
        self.waiting: list[BlockResult] = []
        if path.exists():
            content, complete = path.read_bytes(), 0
            for line in content.splitlines(keepends=True):
                try:
                    result = BlockResult(**json.loads(line))
                except (ValueError, TypeError):
                    break
                if not line.endswith(b"\n"):
                    break
                self.done[result.number] = result
                complete += len(line)
            if complete < len(content):
                os.truncate(path, complete)  # a kill left half a line, or a power cut left garbage

    def add(self, result: BlockResult) -> None:
        self.waiting.append(result)

    def write(self, *before: Path) -> None:
        """Flushes the files that hold the blocks first, so that every block in the journal is on disk."""
        if not self.waiting:
            return
        for path in before:
            if path.exists():
                flush_file(path)
        with open(self.path, "ab") as file:
            file.write(b"".join(json.dumps(asdict(result)).encode() + b"\n" for result in self.waiting))
            file.flush()
            os.fsync(file.fileno())
        self.done |= {result.number: result for result in self.waiting}
        self.waiting = []

    def rejects(self) -> list[tuple[int, str]]:
        return sorted((row, reason) for result in self.done.values() for row, reason in result.rejects)
