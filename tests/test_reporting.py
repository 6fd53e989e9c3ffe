import io

import pytest

from vitctl.reporting import PlainReporter, SilentReporter, format_count, format_duration, format_rate, format_size


def test_plain_progress_shows_done_rate_and_figures() -> None:
    stream = io.StringIO()
    with PlainReporter(stream, interval=0.0).progress("patchify", 10, done=4) as bar:
        bar.advance(3, rejects=1)
    first = stream.getvalue().splitlines()[0]
    assert first.startswith("patchify: 7/10  ")
    assert first.endswith("rejects 1")
    assert "ETA" in first


def test_plain_progress_prints_nothing_between_intervals_and_ends_with_a_line() -> None:
    stream = io.StringIO()
    with PlainReporter(stream, interval=3600).progress("scan", None, "files") as bar:
        for _ in range(100):
            bar.advance(1)
        assert stream.getvalue() == ""
    assert stream.getvalue().startswith("scan: 100  ")


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
