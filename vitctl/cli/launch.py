"""Starts several processes on one machine like torchrun, but keeps their exit code."""

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

import typer

from vitctl.cli.boundary import DEVICES, LOST, fail
from vitctl.errors import RunError, UsageError
from vitctl.machine import cores, cuda_devices, die_with_parent

PATIENCE = 60.0  # seconds for the other ranks to stop by themselves after one failed
ALWAYS = 2  # processes that are allowed on any machine, even on a single core


def launch(devices: int | None, device: str | None) -> bool:
    """Starts this command once per device and waits. Returns False if this process should do the work itself."""
    if devices in (None, 1) or "RANK" in os.environ:
        return False
    if devices is None or devices < 1:
        raise UsageError(f"--devices {devices}: at least one device is needed")
    check_device_count(devices, device)
    command, port = [sys.executable, "-m", "vitctl", *sys.argv[1:]], free_port()
    ranks = [
        subprocess.Popen(
            command, env=rank_environment(rank, devices, port), start_new_session=True, preexec_fn=die_with_parent
        )
        for rank in range(devices)
    ]
    code = wait_for_ranks(ranks)
    if code:
        raise typer.Exit(code)
    return True


def check_device_count(devices: int, device: str | None) -> None:
    gpus = 0 if device == "cpu" else cuda_devices()
    available, what = (gpus, "CUDA devices") if gpus else (max(cores(), ALWAYS), "CPU cores")
    if devices > available:
        raise UsageError(f"--devices {devices}: more than the {available} {what} here; use at most {available}")


def rank_environment(rank: int, world: int, port: int) -> dict[str, str]:
    own: dict[str, object] = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": world,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, cores() // world))
    own |= {DEVICES: world, "OMP_NUM_THREADS": threads}
    return os.environ | {name: str(value) for name, value in own.items()}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_for_ranks(ranks: list[subprocess.Popen[bytes]]) -> int:
    """Waits for all ranks and returns the exit code of the first that fails. Passes signals on to them."""
    sent: list[int] = []

    def forward_signal(number: int, _frame: object) -> None:
        sent.append(number)
        for rank in ranks:
            rank.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, forward_signal)
    codes: list[int | None] = [None]
    while None in codes and not any(codes):
        time.sleep(0.05)
        codes = [rank.poll() for rank in ranks]
    if not any(codes):
        return 0
    last = end_ranks(ranks)
    code = exit_code_of_ranks(codes, sent) or exit_code_of_ranks(last, sent)
    if not code:
        fail(f"the ranks lost contact with one another; continue with: {resume_line()}", RunError.exit_code)
    return code


def exit_code_of_ranks(codes: Sequence[int | None], sent: Sequence[int]) -> int:
    """The code of a rank that reported its failure, or 0. Prints an error and exits if a rank was killed."""
    reported = next((code for code in codes if code and code > 0 and code != LOST), 0)
    killed = next((rank for rank, code in enumerate(codes) if code and code < 0), None)
    if sent and reported in (0, 1, 130, 143):
        return 128 + sent[0]  # 1: a rank that was interrupted while importing may fail with any error
    if reported:
        return reported
    if killed is not None:
        number = -(codes[killed] or 0)
        memory = " (out of memory? A smaller --micro-batch needs less)" if number == signal.SIGKILL else ""
        fail(f"rank {killed} was killed by signal {number}{memory}; continue with: {resume_line()}", RunError.exit_code)
    return 0


def end_ranks(ranks: list[subprocess.Popen[bytes]]) -> list[int | None]:
    """Gives all ranks time to stop, then kills the rest; returns the codes of those that stopped."""
    crashed = any(rank.poll() not in (None, 0, 130, 143) for rank in ranks)
    deadline = time.monotonic() + (1.0 if crashed else PATIENCE)
    while any(rank.poll() is None for rank in ranks) and time.monotonic() < deadline:
        time.sleep(0.05)
    codes = [rank.poll() for rank in ranks]
    for rank in ranks:
        rank.kill()
        rank.wait()
    return codes


def resume_line() -> str:
    """The same command with --resume."""
    words = [word for word in sys.argv[1:] if word != "--overwrite"]
    has_resume = any(word in ("--dry-run", "--resume") or word.startswith("--resume=") for word in words)
    return shlex.join(["vitctl", *words, *([] if has_resume else ["--resume", "auto"])])
