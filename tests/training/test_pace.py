"""The plans of timed runs, with a clock that the tests turn: no second of these passes."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitctl.reporting import SilentReporter
from vitctl.training.pace import FEWEST, UNKNOWN, Budget, StepPlan, TimedPace, is_new
from vitctl.training.ranks import Ranks

OPEN = StepPlan(UNKNOWN, UNKNOWN)
START = 5.0  # seconds before the first step


@dataclass
class Simulation:
    """A run whose steps take `seconds(step, now)`, and whose evaluations take `evaluation` seconds at that speed."""

    minutes: float
    seconds: Callable[[int, float], float]
    evaluation: float = 0.0  # in steps
    end: float = 3.0
    every: int | None = None
    guess: float = 0.0
    now: float = START
    step: int = 0
    plan: StepPlan = OPEN
    lines: list[dict[str, Any]] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    evaluated_at: list[int] = field(default_factory=list)
    checkpoints: list[tuple[int, StepPlan]] = field(default_factory=list)

    def run(self, until: float = float("inf")) -> "Simulation":
        """From here to the end, or to a kill at this time."""
        budget = Budget(60 * self.minutes, self.end, self.guess, self.every)
        pace = TimedPace(
            budget,
            lambda: self.now,
            list(self.lines),
            lambda **line: self.lines.append(line),
            Ranks(),
            SilentReporter(),
        )
        while self.step < self.plan.steps and self.now < until:
            self.now += self.seconds(self.step, self.now)
            is_due = pace.is_due(self.step + 1)
            self.step += 1
            self.shares.append(self.plan.share(self.step))
            if self.step == self.plan.steps or self.plan.passes(self.step, self.plan.evaluations):
                self.evaluated_at.append(self.step)
                with pace.time_evaluation(self.step, self.plan):
                    self.now += self.evaluation and self.evaluation * self.seconds(self.step, self.now)
            if is_due:
                self.plan = pace.replan(self.step, self.plan)
            if self.step % 50 == 0:
                self.checkpoints.append((self.step, self.plan))
        if self.step >= self.plan.steps:
            self.plan = pace.replan(self.step, self.plan)
            self.now += self.end
        return self

    def resume(self, lost: float) -> "Simulation":
        """As a kill and a new process leave it: at the last checkpoint, after `lost` seconds of starting."""
        self.step, self.plan = self.checkpoints[-1] if self.checkpoints else (0, OPEN)
        del self.shares[self.step :]
        self.evaluated_at = [step for step in self.evaluated_at if step <= self.step]
        self.now = max((line["used_s"] for line in self.lines), default=0.0) + lost
        return self

    @property
    def error(self) -> float:
        """The end of the run, relative to what was asked."""
        return self.now / (60 * self.minutes) - 1


def steady(seconds: float) -> Callable[[int, float], float]:
    return lambda _step, _now: seconds


def test_a_steady_run_ends_in_time_and_knows_it_from_the_start() -> None:
    run = Simulation(5, steady(0.1), evaluation=20, guess=20).run()
    assert -0.01 < run.error <= 0
    first = next(line["plan"]["steps"] for line in run.lines if line["step"] >= 2)
    assert run.step == pytest.approx(first, rel=0.03)
    assert len(run.evaluated_at) == 7  # 2 s each, at most 15 s together
    assert run.evaluated_at[-1] == run.step


@given(
    st.lists(st.floats(0.03, 0.5), min_size=1, max_size=200),
    st.integers(1, 100),
    st.floats(0, 30),
    st.sampled_from([1.0, 3.0]),
)
@settings(deadline=None, max_examples=50)
def test_whatever_steps_take_it_ends_within_a_twentieth(
    seconds: list[float], stretch: int, evaluation: float, minutes: float
) -> None:
    """Each of these holds for a stretch of steps, again and again."""
    run = Simulation(minutes, lambda step, _: seconds[step // stretch % len(seconds)], evaluation / 10, guess=1).run()
    assert abs(run.error) < 0.05
    assert all(one <= other for one, other in zip(run.shares, run.shares[1:], strict=False))
    assert run.shares[-1] == 1
    assert run.shares[-2] < 1


@given(st.floats(0.05, 0.3), st.floats(0.1, 0.95), st.floats(0.25, 4))
@settings(deadline=None, max_examples=30)
def test_a_load_that_starts_on_the_way_shortens_the_rest_and_not_the_schedule(
    seconds: float, at: float, slower: float
) -> None:
    """The share of the schedule follows the share of the time."""
    minutes, times = 5.0, []

    def take(_step: int, now: float) -> float:
        times.append(now)
        return seconds * (slower if now > at * 60 * minutes else 1)

    run = Simulation(minutes, take).run()
    assert abs(run.error) < 0.02
    for share, time in list(zip(run.shares, times, strict=True))[10:]:
        assert share == pytest.approx((time - START) / (60 * minutes - run.end - START), abs=0.08)


@given(st.lists(st.floats(6, 280), min_size=1, max_size=4), st.floats(0.05, 0.3))
@settings(deadline=None, max_examples=30)
def test_killed_and_resumed_it_still_ends_in_time(kills: list[float], seconds: float) -> None:
    """What a kill costs, the start of a new process and the repeated steps, shortens the rest."""
    run = Simulation(5, steady(seconds), evaluation=10)
    total = 0.0
    for kill in sorted(kills):
        before = run.now
        if run.run(until=kill).step >= run.plan.steps:
            break
        total += run.now - before
        run.resume(lost=6.0)
    before = run.now
    run.run()
    total += run.now - before
    assert run.shares[-1] == 1
    assert abs(run.error) < 0.05
    assert total < 300 + 15


@given(st.lists(st.floats(0.05, 0.5), min_size=5, max_size=50), st.floats(20, 250), st.floats(0.05, 0.5))
@settings(deadline=None, max_examples=30)
def test_a_resumed_run_repeats_the_plans_that_are_recorded(seconds: list[float], kill: float, other: float) -> None:
    """However fast the machine is meanwhile: up to the kill, every step has the same place in the schedule."""
    run = Simulation(5, lambda step, _: seconds[step % len(seconds)], evaluation=5).run(until=kill)
    last = max(line["step"] for line in run.lines)  # a plan, or an evaluation
    shares, evaluated = list(run.shares), list(run.evaluated_at)
    run.seconds = steady(other)
    run.resume(lost=3.0).run()
    assert run.shares[:last] == shares[:last]
    assert [step for step in run.evaluated_at if step <= last] == [step for step in evaluated if step <= last]
    by_step: dict[int, Any] = {}
    assert all(by_step.setdefault(line["step"], line["plan"]) == line["plan"] for line in run.lines if is_new(line))


@pytest.mark.parametrize(("minutes", "seconds"), [(0.01, 0.5), (0.5, 60.0)])
def test_too_little_time_is_enough_for_a_few_steps(minutes: float, seconds: float) -> None:
    run = Simulation(minutes, steady(seconds), evaluation=3).run()
    assert FEWEST <= run.step <= FEWEST + 1
    assert run.shares[-1] == 1


def test_a_first_step_that_compiles_says_nothing_of_the_speed() -> None:
    run = Simulation(5, lambda step, _: 60.0 if step == 0 else 0.1).run()
    assert abs(run.error) < 0.01
    assert run.shares[0] < 1e-6
    assert max(b - a for a, b in zip(run.shares, run.shares[1:], strict=False)) < 0.005


def test_evaluations_that_take_long_are_few() -> None:
    run = Simulation(5, steady(0.1), evaluation=400, guess=300).run()  # 40 s
    assert run.evaluated_at == [run.step]
    assert abs(run.error) < 0.05


@given(st.integers(1, 100_000), st.data())
def test_a_given_number_of_steps_is_its_own_schedule(steps: int, data: st.DataObject) -> None:
    step = data.draw(st.integers(0, steps))
    assert StepPlan(steps, steps).position(step) == step
