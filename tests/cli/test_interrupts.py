"""Signals that arrive where Python drops the exceptions that they raise."""

import signal
import subprocess
import sys

import pytest

SCRIPT = """
import signal, sys, time, weakref
import vitctl.cli as cli

def work(prog_name):
    class Value: pass
    value = Value()
    reference = weakref.ref(value, lambda _: signal.raise_signal({number}))
    del value
    time.sleep(30)

cli.make_app = lambda _: work
cli.main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_a_destructor_is_not_lost(number: int) -> None:
    child = subprocess.run([sys.executable, "-c", SCRIPT.format(number=int(number))], capture_output=True, text=True)
    wanted = "KeyboardInterrupt" if number == signal.SIGINT else "vitctl.errors.Terminated"
    assert child.returncode != 0
    assert child.stderr.strip().splitlines()[-1] == wanted
    assert "Exception ignored" not in child.stderr
