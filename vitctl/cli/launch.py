"""Several processes on one machine, as torchrun would start them, but with their true exit code."""

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

PATIENCE = 60.0  # seconds that the others get to stop by themselves when one has failed
ALWAYS = 2  # processes that may be tried anywhere: two even share a core


def launch(devices: int | None, device: str | None) -> bool:
    """Starts this command once for each device and waits; False where this process is to do the work itself."""
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
    """Before any process is started."""
    gpus = 0 if device == "cpu" else cuda_devices()
    there, what = (gpus, "CUDA devices") if gpus else (max(cores(), ALWAYS), "CPU cores")
    if devices > there:
        raise UsageError(f"--devices {devices}: more than the {there} {what} here; give {there} at most")


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
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return int(place.getsockname()[1])


def wait_for_ranks(ranks: list[subprocess.Popen[bytes]]) -> int:
    """The code of the first that fails, or a line on how it was killed; signals to us are theirs."""
    sent: list[int] = []

    def pass_on(number: int, _frame: object) -> None:
        sent.append(number)
        for rank in ranks:
            rank.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
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
    """The code of a rank that said why it failed; a line where one was killed; 0 where it is still to be seen."""
    told = next((code for code in codes if code and code > 0 and code != LOST), 0)
    killed = next((rank for rank, code in enumerate(codes) if code and code < 0), None)
    if sent and told in (0, 1, 130, 143):
        return 128 + sent[0]  # also of ranks that were not ready for it: an import that is interrupted may fail anyhow
    if told:
        return told
    if killed is not None:
        number = -(codes[killed] or 0)
        memory = " (out of memory? A smaller --micro-batch needs less)" if number == signal.SIGKILL else ""
        fail(f"rank {killed} was killed by signal {number}{memory}; continue with: {resume_line()}", RunError.exit_code)
    return 0


def end_ranks(ranks: list[subprocess.Popen[bytes]]) -> list[int | None]:
    """Ends those that wait for one that crashed, when the others had time to stop; the codes of these."""
    crashed = any(rank.poll() not in (None, 0, 130, 143) for rank in ranks)
    until = time.monotonic() + (1.0 if crashed else PATIENCE)
    while any(rank.poll() is None for rank in ranks) and time.monotonic() < until:
        time.sleep(0.05)
    codes = [rank.poll() for rank in ranks]
    for rank in ranks:
        rank.kill()
        rank.wait()
    return codes


def resume_line() -> str:
    """This command, going on with its run."""
    words = [word for word in sys.argv[1:] if word != "--overwrite"]
    is_said = any(word in ("--dry-run", "--resume") or word.startswith("--resume=") for word in words)
    return shlex.join(["vitctl", *words, *([] if is_said else ["--resume", "auto"])])
