import io
import re

import pytest
from rich.console import Console

from vitctl.cli.console import RichProgress
from vitctl.reporting import (
    LiveProgress,
    PlainReporter,
    SilentReporter,
    format_count,
    format_duration,
    format_rate,
    format_size,
)


def test_plain_progress_shows_done_rate_and_figures() -> None:
    stream = io.StringIO()
    with PlainReporter(stream, interval=0.0).progress("patchify", 10, done=4) as bar:
        bar.advance(3, rejects=1)
    first, *more = stream.getvalue().splitlines()
    assert re.fullmatch(r"patchify: 7/10  rejects 1  [0-9,]+ img/s  ETA 0s", first)
    assert not more, "the last line was printed twice"


def test_plain_progress_prints_nothing_between_intervals_and_ends_with_a_line() -> None:
    stream = io.StringIO()
    with PlainReporter(stream, interval=3600).progress("scan", None, "files") as bar:
        for _ in range(100):
            bar.advance(1)
        assert stream.getvalue() == ""
    assert stream.getvalue().startswith("scan: 100  ")


def training_bar(bar: LiveProgress) -> None:
    bar.advance(8, epoch="1/4", step="1/100", loss=1.2345)
    bar.first = (bar.first[0] - 10, 8)
    bar.advance(20, epoch="1/4", step="2/100", loss=1.5)
    bar.advance(0, val="43.7%")


def test_the_eta_comes_last_and_figures_are_left_out_of_a_narrow_line() -> None:
    bar = LiveProgress("train", 800, "img", 0)
    training_bar(bar)
    assert bar.describe() == "train: epoch 1/4  step 2/100  loss 1.5  val 43.7%  2 img/s  ETA 6m26s"
    assert bar.describe(60) == "train: epoch 1/4  step 2/100  loss 1.5  2 img/s  ETA 6m26s"


def test_the_eta_is_of_the_newest_total() -> None:
    bar = LiveProgress("train", None, "img", 0)
    bar.advance(8)
    bar.first = (bar.first[0] - 10, 8)
    assert "ETA" not in bar.describe()
    bar.advance(20, 828)
    assert bar.describe() == "train: 28/828  2 img/s  ETA 6m40s"


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_nothing_is_cut_off_on_a_terminal(width: int) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=width)
    with RichProgress(console, "train", 800, "img", 0) as bar:
        training_bar(bar)
        bar.bar.refresh()
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", console.file.getvalue())  # type: ignore[attr-defined]
    last = [line for line in re.split(r"[\r\n]", text) if line.strip()][-1]
    assert len(last) <= width
    assert re.fullmatch(
        r". [━╸╺]+ train: (epoch 1/4  )?(step 2/100  )?(loss 1.5  )?(val 43.7%  )?2 img/s  ETA 6m26s *", last
    )
    assert ("val" in last) == (width >= 80)


def test_a_bar_that_fails_prints_nothing() -> None:
    stream = io.StringIO()
    bar = PlainReporter(stream, interval=3600).progress("scan", None)
    with pytest.raises(ValueError, match="x"), bar:
        bar.advance(1)
        raise ValueError("x")
    assert stream.getvalue() == ""


def test_silent_prints_warnings_to_its_stream() -> None:
    stream = io.StringIO()
    reporter = SilentReporter(stream)
    reporter.note("nothing")
    reporter.warn("something")
    with reporter.progress("x", 1) as bar:
        bar.advance(1)
    assert stream.getvalue() == "warning: something\n"


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "0s"), (59.4, "59s"), (61, "1m01s"), (3725, "1h02m")])
def test_duration(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(("count", "noun", "text"), [(1, "image", "1 image"), (1200, "image", "1,200 images"),
                                                     (0, "class", "0 classes")])  # fmt: skip
def test_count(count: int, noun: str, text: str) -> None:
    assert format_count(count, noun) == text


@pytest.mark.parametrize(("count", "text"), [(12, "12 B"), (1500, "1.5 kB"), (2.5e9, "2.5 GB"), (3e15, "3000.0 TB")])
def test_size(count: float, text: str) -> None:
    assert format_size(count) == text


@pytest.mark.parametrize(
    ("rate", "text"), [(0.0, "0 cells/s"), (1234.4, "1,234 cells/s"), (1.0, "1 cells/s"), (0.02, "50s per cell")]
)
def test_a_slow_rate_is_shown_as_seconds_per_unit(rate: float, text: str) -> None:
    assert format_rate(rate, "cells") == text
