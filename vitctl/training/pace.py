"""How many steps a run has: a given number, or as many as fit into its minutes.

A timed run plans its last step from the speed that it measures, and plans again whenever the clock says so. A plan says
for every step which share of the schedule is done. The next plan goes on from there, and every plan ends at 1. So the
clock decides nothing but the plans. They are recorded, and a resumed run takes the same ones at the same steps.
"""

import json
import math
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from vitctl.reporting import Reporter, format_count, format_duration
from vitctl.training.ranks import Ranks

UNKNOWN = 1_000_000_000  # steps, before the first plan of a timed run
FEWEST = 3  # steps, however little time there is
SETTLED = 8  # the step from which on the length of the schedule in steps stays as it was planned
EVALUATIONS = 10  # of a timed run, at most
EVALUATION_SHARE = 0.05  # of the time, for all evaluations
PLAN_SHARE, PLAN_SECONDS = 0.005, 30.0  # of the time, and at most, between two plans
LAST_SHARE = 0.25  # of the time or the steps that are left, between two plans near the end
NOTED, NOTED_WHOLE = 0.2, 0.05  # of the steps that are left, and of all: a change of this size is told
SPEEDS = 7  # stretches between two plans that tell the recent speed


@dataclass(frozen=True)
class StepPlan:
    """The last step, and for each step its place in the schedule."""

    steps: int  # the last one
    scale: int  # length of the schedule: what is counted in steps, such as a warm-up, is a part of it
    since: int = 0  # the step at which it was made
    start: float = 0.0  # share of the schedule that was done then
    evaluations: int = 0  # in the whole run

    @property
    def is_known(self) -> bool:
        return self.steps < UNKNOWN

    def position(self, step: int) -> float:
        """The place in the schedule, from 0 to `scale`: the step itself where a number of steps was given."""
        rest = (1 - self.start) * self.scale * (step - self.since) / (self.steps - self.since)
        return self.start * self.scale + rest

    def share(self, step: int) -> float:
        """The share of the schedule that is done after `step` steps."""
        return 1.0 if step >= self.steps else min(1.0, self.position(step) / self.scale)

    def passes(self, step: int, parts: int) -> bool:
        """Whether this step is the last of one of `parts` equal parts of the schedule."""
        return int(parts * self.share(step)) > int(parts * self.share(step - 1))


class Pace:
    """Of a run whose number of steps is given: there is nothing to plan."""

    def is_due(self, step: int) -> bool:
        """Whether to plan again after this step."""
        return False

    def replan(self, step: int, plan: StepPlan) -> StepPlan:
        """The plan for the steps after this one."""
        return plan

    @contextmanager
    def time_evaluation(self, step: int, plan: StepPlan) -> Iterator[None]:
        """Measure how long an evaluation takes, which is no part of a step."""
        yield


@dataclass(frozen=True)
class Budget:
    """Seconds, and what is known of the work before it is measured."""

    seconds: float
    end: float  # between the last evaluation and the end: saving, curves, the result
    evaluation_steps: float  # as many steps take as long as an evaluation
    evaluate_every: int | None  # steps, if they were given


class TimedPace(Pace):
    def __init__(
        self,
        budget: Budget,
        clock: Callable[[], float],
        recorded: list[dict[str, Any]],
        record: Callable[..., None],
        ranks: Ranks,
        reporter: Reporter,
    ) -> None:
        """`clock`: seconds that the run has used, in all processes that trained it. `recorded`: what earlier processes
        gave to `record`."""
        self.budget, self.clock, self.write, self.ranks, self.reporter = budget, clock, record, ranks, reporter
        self.recorded = {line["step"]: read_plan(line["plan"]) for line in recorded if is_new(line)}
        self.last_recorded = max((line["step"] for line in recorded), default=0)  # up to here there are no other plans
        self.told = 0  # the last step, as the user knows it
        self.first: int | None = None  # step of this process
        self.step, self.steps, self.time = 0, UNKNOWN, clock()  # of the last plan
        self.evaluation, self.evaluated = 0.0, 0.0  # seconds of one, and of those since the last plan
        self.speeds: deque[float] = deque(maxlen=SPEEDS)  # seconds per step

    def record(self, step: int, plan: StepPlan) -> None:
        self.write(step=step, used_s=round(self.clock(), 3), plan=asdict(plan))

    @contextmanager
    def time_evaluation(self, step: int, plan: StepPlan) -> Iterator[None]:
        """It is recorded, too: the best weights that it leaves are not those of a run with other plans."""
        if self.ranks.first:
            self.record(step, plan)
        start_time = self.clock()
        yield
        self.evaluation = self.clock() - start_time
        self.evaluated += self.evaluation

    def is_due(self, step: int) -> bool:
        if not self.ranks.first:
            return False
        if step <= self.last_recorded:
            return step in self.recorded
        if self.first is None or step - self.first in (1, 2, 4, 8):
            return True
        if step - self.step >= LAST_SHARE * (self.steps - self.step):
            return True
        now = self.clock()
        left = self.budget.seconds - self.budget.end - self.evaluation - now
        return now - self.time >= min(PLAN_SHARE * self.budget.seconds, PLAN_SECONDS, LAST_SHARE * left)

    def replan(self, step: int, plan: StepPlan) -> StepPlan:
        if self.ranks.first:
            self.measure(step)
            plan = self.choose(step, plan)
            self.steps = plan.steps
            self.record(step, plan)
        return read_plan(json.loads(self.ranks.broadcast(json.dumps(asdict(plan)))))

    def measure(self, step: int) -> None:
        """The speed since the last plan. The first step of a process, which prepares everything, does not count."""
        now = self.clock()
        if self.first is None:
            self.first = step
        elif step > self.step:
            self.speeds.append((now - self.time - self.evaluated) / (step - self.step))
        self.step, self.time, self.evaluated = step, now, 0.0

    def choose(self, step: int, plan: StepPlan) -> StepPlan:
        if step <= self.last_recorded:
            return self.recorded.get(step, plan)
        is_late = self.clock() > self.budget.seconds
        if step >= plan.steps or (step == plan.since and step) or not (self.speeds or is_late):
            return plan
        done = plan.share(step)
        speed = average_middle(self.speeds)
        evaluation = self.evaluation or speed * self.budget.evaluation_steps
        evaluations = 0 if self.budget.evaluate_every is not None else self.count_evaluations(evaluation, plan)
        fitting, fewest = self.count_steps(done, speed, evaluation, evaluations), math.ceil(FEWEST * (1 - done))
        steps = step + max(fitting, fewest)
        self.tell(step, steps, fitting < fewest and done < 1 / 2)
        return StepPlan(steps, steps if step <= SETTLED else plan.scale, step, done, evaluations)

    def tell(self, step: int, steps: int, is_short: bool) -> None:
        """Notes of the first plan that is reliable, and of those that differ much from the one noted before."""
        if is_short and not self.told:
            self.reporter.warn(
                f"{format_duration(self.budget.seconds)} do not suffice for the start, an evaluation, the saving and "
                f"the steps between; training for {format_count(steps, 'step')}"
            )
        elif step - (self.first or 0) >= SETTLED and self.is_news(step, steps):
            left = self.budget.seconds - self.clock()
            self.reporter.note(f"step {step:,} of {steps:,}, with {format_duration(left)} left")
        else:
            return
        self.told = steps

    def is_news(self, step: int, steps: int) -> bool:
        return abs(steps - self.told) > max(NOTED * (self.told - step), NOTED_WHOLE * self.told)

    def count_evaluations(self, seconds: float, plan: StepPlan) -> int:
        """In the whole run; as many as planned before, unless that is wrong by more than one."""
        most = EVALUATION_SHARE * self.budget.seconds / seconds if seconds else EVALUATIONS
        count = max(1, min(EVALUATIONS, int(most)))
        return plan.evaluations if plan.evaluations and abs(count - plan.evaluations) <= 1 else count

    def count_steps(self, done: float, speed: float, evaluation: float, evaluations: int) -> int:
        """Steps that fit into the time that is left, beside the evaluations on the way and at the end."""
        left = self.budget.seconds - self.clock() - self.budget.end - evaluation
        if self.budget.evaluate_every:
            speed += evaluation / self.budget.evaluate_every
        elif evaluations:
            left -= evaluation * (evaluations - 1 - int(evaluations * done))
        return int(left / speed) if left > 0 and speed else 0


def read_plan(values: dict[str, Any]) -> StepPlan:
    return StepPlan(**values)


def is_new(line: dict[str, Any]) -> bool:
    return bool(line["plan"]["since"] == line["step"])


def average_middle(values: deque[float]) -> float:
    """The mean without the highest and the lowest fifth: a step that had to wait once says nothing of the speed."""
    cut = len(values) // 5
    kept = sorted(values)[cut : len(values) - cut]
    return sum(kept) / len(kept) if kept else 0.0
