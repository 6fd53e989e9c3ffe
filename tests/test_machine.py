"""What C does behind Python: a mapped file that is truncated while it is read, and what libraries print."""

import ctypes
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from vitctl.machine import CUT_SHORT, CStderr

SCRIPT = """
import os, sys, threading
import numpy as np
import torch
from vitctl.data.sources.files import File
from vitctl.machine import exit_on_bus_error, keep_freed_memory

keep_freed_memory()
exit_on_bus_error()
rows = File.at("rows").map_bytes((1000, 5000), 0)
os.truncate("rows", 4096)
spare = np.empty((900, 5000), np.uint8)
READERS = {
    "one byte": lambda: rows[999, 1],
    "a copy": lambda: np.copyto(spare, rows[100:]),
    "rows taken": lambda: np.take(rows, np.arange(100, 1000), axis=0, out=spare, mode="clip"),
    "a tensor": lambda: torch.from_numpy(np.frombuffer(rows, np.uint8)).float().sum(),
}
read = READERS[sys.argv[1]]
if sys.argv[2] == "thread":
    thread = threading.Thread(target=read)
    thread.start()
    while thread.is_alive():  # the main thread is busy
        sum(range(1000))
else:
    read()
print("never")
"""


@pytest.mark.parametrize("where", ["here", "thread"])
@pytest.mark.parametrize("reader", ["one byte", "a copy", "rows taken", "a tensor"])
def test_a_truncated_file_is_named_and_the_process_ends(tmp_path: Path, reader: str, where: str) -> None:
    (tmp_path / "rows").write_bytes(bytes(5_000_000))
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, reader, where]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == f"error: {tmp_path / 'rows'}: {CUT_SHORT}\n"


PRINT = """
import ctypes, sys, threading
from vitctl.machine import C_STDERR
libc = ctypes.CDLL(None)
def say(text):
    libc.fputs(text, ctypes.c_void_p.in_dll(libc, "stderr"))
say(b"before\\n")
with C_STDERR:
    with C_STDERR:
        say(b"inside\\n")
    say(b"inside\\n")
    print("python", file=sys.stderr, flush=True)
say(b"after\\n")
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="of glibc")
def test_what_c_prints_is_dropped_for_a_while() -> None:
    done = subprocess.run([sys.executable, "-c", PRINT], capture_output=True, env=os.environ, text=True, check=True)
    assert done.stderr.split() == ["before", "python", "after"]


def test_threads_may_overlap() -> None:
    muted, entered, leave = CStderr(), threading.Event(), threading.Event()

    def stay() -> None:
        with muted:
            entered.set()
            leave.wait()

    thread = threading.Thread(target=stay)
    with muted:
        thread.start()
        entered.wait()
        inside = muted.stream and muted.stream.value
    assert (muted.stream and muted.stream.value) == inside == (muted.nowhere or None)
    leave.set()
    thread.join()
    assert (muted.stream and muted.stream.value) == (muted.before or None)
