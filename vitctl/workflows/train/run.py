"""Setup and teardown that the three trainers share."""

import dataclasses
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from vitctl.config.train import RunOptions
from vitctl.data.subsets import limit_split
from vitctl.inspection.charts import draw_curves
from vitctl.io.run_directory import RunDirectory
from vitctl.io.weights import Weights
from vitctl.reporting import Reporter
from vitctl.training.device import choose_device, measure_ceiling
from vitctl.training.environment import Environment, make_environment
from vitctl.training.ranks import join_ranks, ranks_here
from vitctl.training.stop import Stop
from vitctl.workflows.inputs.data import warn_enlarged
from vitctl.workflows.train.result import RunResult, read_result
from vitctl.workflows.train.start import Base, Config, Data, Started, find_resumable, start

Result = TypeVar("Result", bound=RunResult)


def run_training(
    request: Config,
    options: RunOptions,
    reporter: Reporter,
    kind: type[Result],
    choose: Callable[[Config, bool], tuple[Config, Base]],
    begin: Callable[[Config, Data], Weights],
    fit: Callable[[Started[Config], Environment], Result],
) -> Result:
    """`choose` settles the model (of a new run or a resumed one), `begin` makes the weights of step 0, `fit` trains."""
    now = time.perf_counter()
    start_time = options.start_time or now
    device = choose_device(request.device, ranks_here())
    with join_ranks(device) as ranks:
        is_new = not find_resumable(options, request.command)
        request, base = choose(request, is_new)
        with start(request, options, base, ranks, device, reporter, begin) as started:
            if isinstance(started, RunDirectory):
                return read_result(kind, started, reporter)
            config, data = started.config, started.data
            warn_enlarged(data.file, started.weights.spec, reporter)
            train = limit_split(data.train, config.limit, config.seed, config.limit_draw)
            before = started.run.sum_seconds() if started.run else 0.0
            with Stop(reporter.warn) as stop:
                env = make_environment(config, train, data.val, ranks, device, reporter, stop)
                env = dataclasses.replace(env, start_time=start_time - before, import_seconds=now - start_time)
                if not config.minutes:
                    return fit(started, env)
                with write_clock(started.run if ranks.first else None, env.start_time):
                    return fit(started, prepare_end(env))


@contextmanager
def write_clock(run: RunDirectory | None, start_time: float) -> Iterator[None]:
    """Within this context, write every second what the run has used, so that a kill at any moment loses no more."""
    is_over = threading.Event()

    def write(run: RunDirectory) -> None:
        while not is_over.is_set():
            with suppress(OSError):  # a full disk is reported by what cannot go on without it
                run.write_clock(time.perf_counter() - start_time)
            is_over.wait(1)

    if run is None:
        yield
        return
    thread = threading.Thread(target=write, args=(run,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def prepare_end(env: Environment) -> Environment:
    """Of a timed run: do now what would take long at its end, when nothing can make up for it any more."""
    with tempfile.TemporaryDirectory() as folder:
        draw_curves([{"step": 1, "loss": 1.0}], Path(folder, "curves.png"), "")  # for its imports
    return dataclasses.replace(env, ceiling=measure_ceiling(env.precision, env.device))
