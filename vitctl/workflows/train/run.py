"""Setup and teardown that the three trainers share."""

import time
from collections.abc import Callable
from typing import TypeVar

from vitctl.config.train import RunOptions
from vitctl.data.subsets import limit_split
from vitctl.io.run_directory import RunDirectory
from vitctl.io.weights import Weights
from vitctl.reporting import Reporter
from vitctl.training.device import choose_device
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
    import_seconds = time.perf_counter() - options.start_time
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
            start_time = options.start_time - (started.run.sum_seconds() if started.run else 0.0)
            with Stop(reporter.warn) as stop:
                env = make_environment(
                    config, train, data.val, ranks, device, reporter, stop, start_time, import_seconds
                )
                return fit(started, env)
