"""Blocks through one worker in this process, or through several in others."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.connection import wait as wait_for_handles
from typing import Any

from vitctl.config.patchify import PatchifyConfig
from vitctl.data.patchifier.worker import Recipe, Worker
from vitctl.data.patchifier.workspace import BlockResult
from vitctl.errors import RunError
from vitctl.machine import cores, exit_on_bus_error, keep_freed_memory


def workers_for(config: PatchifyConfig, blocks: int) -> int:
    """As many as asked for; else one a core, when there is enough to do to be worth starting them."""
    return min(config.workers or (cores() if blocks >= 8 else 1), max(blocks, 1))


def run_blocks(
    recipe: Recipe, todo: list[int], workers: int, late: Callable[[BlockResult], None]
) -> Generator[BlockResult, None, None]:
    """Results as they come: from this process, or from others that write the rows themselves.

    What is finished after the caller has stopped listening (Ctrl-C, say) is given to `late`.
    """
    if not todo:
        return
    if workers == 1:
        with one_thread():
            yield from map(Worker(*recipe).block, todo)
        return
    with ignore_ctrl_c():
        context = start_context()
    pool = ProcessPoolExecutor(workers, context, become_worker, (recipe,))
    waiting: set[Future[BlockResult]] = set()
    try:
        yield from in_flight(pool, todo, 2 * workers, waiting)
    except BrokenProcessPool as error:
        raise RunError(
            "a worker process died, perhaps for want of memory; go on with --resume and fewer --workers"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        for future in waiting:
            if not future.cancelled() and future.exception() is None:
                late(future.result())


@contextmanager
def one_thread() -> Iterator[None]:
    """One image is too little work to share out among torch's threads."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def in_flight(
    pool: ProcessPoolExecutor, todo: list[int], most: int, waiting: set[Future[BlockResult]]
) -> Iterator[BlockResult]:
    """Keeps `most` blocks with the workers; those whose results were not given out are in `waiting`."""
    queue = iter(todo)
    while True:
        for number in queue:
            waiting.add(pool.submit(run_block, number))
            if len(waiting) >= most:
                break
        if not waiting:
            return
        ready, _ = wait(waiting, return_when=FIRST_COMPLETED)
        for future in ready:
            waiting.discard(future)
            yield future.result()


def start_context() -> Any:
    """Where there is one, a server that has imported everything forks the workers: quick, and safe with threads."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["vitctl.data.patchifier.pool", "vitctl.data.patchifier.decode"])
    forkserver.ensure_running()
    return context


@contextmanager
def ignore_ctrl_c() -> Iterator[None]:
    """What is started here ignores Ctrl-C, which a terminal sends to the whole group: the parent alone decides."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


_worker: Worker | None = None  # in a worker process: the one that its initializer made


def become_worker(recipe: Recipe) -> None:
    import torch

    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=watch_parent, daemon=True).start()
    torch.set_num_threads(1)
    keep_freed_memory()
    exit_on_bus_error("warning")  # the error is the parent's, whose worker is gone
    _worker = Worker(*recipe)


def watch_parent() -> None:
    """A parent that is killed cannot tell its workers; they watch the pipe that closes with it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for_handles([parent.sentinel])
        os._exit(1)


def run_block(number: int) -> BlockResult:
    assert _worker is not None
    return _worker.block(number)
