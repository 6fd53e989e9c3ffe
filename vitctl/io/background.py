"""Writes files while the next steps are computed: one task at a time; errors are raised by the next call."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class Background:
    def __init__(self) -> None:
        self.pool = ThreadPoolExecutor(1, "vitctl-writer")
        self.last: Future[Any] | None = None

    @property
    def busy(self) -> bool:
        return self.last is not None and not self.last.done()

    def put(self, write: Callable[..., Any], *arguments: Any) -> None:
        """Waits for the last task, raises its error if it failed, and starts the next one."""
        self.wait()
        self.last = self.pool.submit(write, *arguments)

    def wait(self) -> None:
        last, self.last = self.last, None
        if last is not None:
            last.result()

    def close(self) -> None:
        self.pool.shutdown(wait=True)
