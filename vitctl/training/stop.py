"""Ctrl-C and a scheduler's SIGTERM: the first one finishes and saves the step, a second one stops at once."""

import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any

from vitctl.errors import Terminated


class Stop:
    """`with Stop() as stop:` and, between steps, `if stop.requested`."""

    def __init__(self, say: Callable[[str], None] | None = None) -> None:
        self.say = say or (lambda text: None)
        self.signal = 0
        self.old_handlers: dict[int, Any] = {}

    @property
    def requested(self) -> bool:
        return bool(self.signal)

    @property
    def code(self) -> int:
        return 128 + (self.signal or signal.SIGINT)

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.old_handlers[number] = signal.signal(number, self.handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self.old_handlers.items():
            signal.signal(number, handler)

    def handle(self, number: int, _frame: FrameType | None) -> None:
        if self.requested:
            raise Terminated if number == signal.SIGTERM else KeyboardInterrupt
        self.signal = number
        with suppress(RuntimeError):  # the signal came while another line was being printed
            self.say("stopping after this step; Ctrl-C again stops now, and loses the steps since the last checkpoint")
