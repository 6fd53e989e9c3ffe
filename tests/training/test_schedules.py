import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitctl.config.checks import limits_of
from vitctl.config.train import ScheduleConfig
from vitctl.training.schedules import lr_share

STEPS, WARMUP = 1100, 100

SCHEDULES = limits_of(ScheduleConfig)["kind"].choices


def expected(kind: str, step: int, end: float) -> float:
    progress = min(1.0, max(0.0, (step - WARMUP) / (STEPS - WARMUP)))
    decayed = {
        "cosine": end + (1 - end) * 0.5 * (1 + math.cos(math.pi * progress)),
        "linear": end + (1 - end) * (1 - progress),
        "rsqrt": 1 / math.sqrt(1 + max(0, step - WARMUP) / 500),
        "constant": 1.0,
    }
    return decayed[kind] * min(1.0, step / WARMUP)


@pytest.mark.parametrize("end", [0.0, 0.01])
@pytest.mark.parametrize("kind", SCHEDULES)
def test_the_official_formulas(kind: Any, end: float) -> None:
    config = ScheduleConfig(kind=kind, warmup=WARMUP, end=end, timescale=500)
    for step in (0, 1, WARMUP - 1, WARMUP, (WARMUP + STEPS) // 2, STEPS - 1, STEPS):
        assert lr_share(config, step, STEPS) == pytest.approx(expected(kind, step, end), abs=1e-15), step


@pytest.mark.parametrize(
    ("kind", "at_start", "at_warm", "at_half", "at_end"),
    [
        ("cosine", 0, 1, 0.505, 0.01),
        ("linear", 0, 1, 0.505, 0.01),
        ("rsqrt", 0, 1, 2**-0.5, 3**-0.5),
        ("constant", 0, 1, 1, 1),
    ],
)
def test_by_hand(kind: Any, at_start: float, at_warm: float, at_half: float, at_end: float) -> None:
    config = ScheduleConfig(kind=kind, warmup=WARMUP, end=0.01, timescale=500)
    found = [lr_share(config, step, STEPS) for step in (0, WARMUP, 600, STEPS)]
    assert found == pytest.approx([at_start, at_warm, at_half, at_end], abs=1e-12)


def test_without_a_warm_up_the_first_step_has_all() -> None:
    assert [lr_share(ScheduleConfig(kind=kind), 0, 10) for kind in ("cosine", "linear", "rsqrt", "constant")] == [
        1,
        1,
        1,
        1,
    ]


def test_the_cool_down_is_straight_and_multiplies() -> None:
    config = ScheduleConfig(kind="rsqrt", warmup=0.1, cooldown=0.25, timescale=100)
    free = ScheduleConfig(kind="rsqrt", warmup=0.1, timescale=100)
    assert lr_share(config, 750, 1000) == lr_share(free, 750, 1000)
    assert lr_share(config, 900, 1000) == pytest.approx(0.4 * lr_share(free, 900, 1000))
    assert lr_share(config, 1000, 1000) == 0


@given(
    st.builds(
        ScheduleConfig,
        kind=st.sampled_from(SCHEDULES),
        warmup=st.floats(0, 0.99) | st.integers(1, 300),
        cooldown=st.floats(0, 0.99) | st.integers(1, 300),
        end=st.floats(0, 1),
        timescale=st.integers(1, 10_000),
    ),
    st.integers(1, 300),
)
def test_a_share_that_makes_no_jumps(config: ScheduleConfig, steps: int) -> None:
    shares = [lr_share(config, step, steps) for step in range(steps + 1)]
    assert all(0 <= value <= 1 for value in shares)
    warm, cool = config.warmup_steps(steps), config.cooldown_steps(steps)
    decay = max(math.pi / 2 / max(steps - warm, 1), 1 / (2 * config.timescale))  # steepest slopes
    jump = decay + (1 / warm if warm else 0) + (1 / cool if cool else 0)
    assert all(abs(one - other) <= jump + 1e-12 for one, other in zip(shares[1:], shares, strict=False))
