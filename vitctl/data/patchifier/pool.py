"""Runs blocks through one worker in this process, or through several worker processes."""

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
from vitctl.data.patchifier.worker import RowLayout, Worker
from vitctl.data.patchifier.workspace import BlockResult, Build
from vitctl.errors import RunError
from vitctl.machine import cores, exit_on_bus_error, keep_freed_memory

RUN = 8  # blocks: finished ones are in the journal only when their whole run is


def workers_for(config: PatchifyConfig, blocks: int) -> int:
    """The configured number; by default one per core, or one if starting more would not pay off."""
    return min(config.workers or (cores() if blocks >= 8 else 1), max(blocks, 1))


def run_blocks(
    build: Build, layout: RowLayout, todo: list[int], workers: int, late: Callable[[BlockResult], None]
) -> Generator[BlockResult, None, None]:
    """Yields the results of the blocks in `todo` as they finish; the rows are written by the workers.

    When the caller stops early (Ctrl-C, say), blocks in progress still finish, and their results go to `late`.
    """
    if not todo:
        return
    if workers == 1:
        with one_thread():
            yield from map(Worker(build, layout).block, todo)
        return
    with ignore_ctrl_c():
        context = start_context()
    pool = ProcessPoolExecutor(workers, context, become_worker, (build, layout))
    waiting: set[Future[list[BlockResult]]] = set()
    try:
        yield from in_flight(pool, list(group_blocks(build, layout, todo, workers)), 2 * workers, waiting)
    except BrokenProcessPool as error:
        raise RunError(
            "a worker process died, perhaps because the memory was full; add --resume with fewer --workers"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        for future in waiting:
            if not future.cancelled() and future.exception() is None:
                for result in future.result():
                    late(result)


@contextmanager
def one_thread() -> Iterator[None]:
    """A single image is too little work to divide among torch's threads."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def group_blocks(build: Build, layout: RowLayout, todo: list[int], workers: int) -> Iterator[list[int]]:
    """Runs of neighboring blocks, each for one worker, if the source reads more than it is asked for.

    A run ends where another row group of a Parquet file begins, or after a fourth of a worker's share at the latest.
    """
    most = max(len(todo) // (4 * workers), 1) if build.source.reads_ahead else 1
    columns = [layout.plan.column(name) for name in ("file", "offset")]
    run: list[int] = []
    before: list[int] = []
    for number in todo:
        place = [int(column[layout.rows(number).start]) for column in columns]
        if len(run) >= most or (len(run) >= RUN and place != before):
            yield run
            run = []
        run, before = [*run, number], place
    yield run


def in_flight(
    pool: ProcessPoolExecutor, todo: list[list[int]], most: int, waiting: set[Future[list[BlockResult]]]
) -> Iterator[BlockResult]:
    """Keeps `most` groups of blocks submitted. `waiting` holds those whose results were not yielded yet."""
    queue = iter(todo)
    while True:
        for numbers in queue:
            waiting.add(pool.submit(run_group, numbers))
            if len(waiting) >= most:
                break
        if not waiting:
            return
        ready, _ = wait(waiting, return_when=FIRST_COMPLETED)
        for future in ready:
            waiting.discard(future)
            yield from future.result()


def start_context() -> Any:
    """A fork server that has imported everything, if the system has one: starts fast, and is safe with threads."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["vitctl.data.patchifier.pool", "vitctl.data.patchifier.decode"])
    forkserver.ensure_running()
    return context


@contextmanager
def ignore_ctrl_c() -> Iterator[None]:
    """Processes started here ignore Ctrl-C. A terminal sends it to the whole group, but only the parent handles it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


_worker: Worker | None = None  # of a worker process, created by `become_worker`


def become_worker(build: Build, layout: RowLayout) -> None:
    import torch

    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # see ignore_ctrl_c
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=watch_parent, daemon=True).start()
    torch.set_num_threads(1)
    keep_freed_memory()
    exit_on_bus_error("warning")  # the error is the parent's: it reports that its worker died
    _worker = Worker(build, layout)


def watch_parent() -> None:
    """Exits with the parent. A killed parent cannot stop its workers, but its end of this pipe closes."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for_handles([parent.sentinel])
        os._exit(1)


def run_group(numbers: list[int]) -> list[BlockResult]:
    assert _worker is not None
    return [_worker.block(number) for number in numbers]
