"""Several processes on one machine, as torchrun would start them, but with their true exit code."""

import os
import signal
import socket
import subprocess
import sys
import time

import typer

from vitctl.machine import cores, die_with_parent

PATIENCE = 60.0  # seconds that the others get to stop by themselves when one has failed


def launch(devices: int | None) -> bool:
    """Starts this command once for each device and waits; False where this process is to do the work itself."""
    if devices in (None, 1) or "RANK" in os.environ:
        return False
    if devices is None or devices < 1:
        raise typer.BadParameter("at least one device is needed", param_hint="--devices")
    command, port = [sys.executable, "-m", "vitctl", *sys.argv[1:]], free_port()
    ranks = [
        subprocess.Popen(
            command, env=environment(rank, devices, port), start_new_session=True, preexec_fn=die_with_parent
        )
        for rank in range(devices)
    ]
    code = wait(ranks)
    if code:
        raise typer.Exit(code)
    return True


def environment(rank: int, world: int, port: int) -> dict[str, str]:
    own: dict[str, object] = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": world,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, cores() // world))
    own |= {"VITCTL_DEVICES": world, "OMP_NUM_THREADS": threads}
    return os.environ | {name: str(value) for name, value in own.items()}


def free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return int(place.getsockname()[1])


def wait(ranks: list[subprocess.Popen[bytes]]) -> int:
    """The code of the first that fails; signals to us are theirs."""

    def pass_on(number: int, _frame: object) -> None:
        for rank in ranks:
            rank.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    while True:
        codes = [rank.poll() for rank in ranks]
        failed = [code for code in codes if code]
        if failed:
            end(ranks)
            return failed[0] if failed[0] > 0 else 128 - failed[0]
        if all(code == 0 for code in codes):
            return 0
        time.sleep(0.05)


def end(ranks: list[subprocess.Popen[bytes]]) -> None:
    """They all stop by themselves when they were asked to; who waits for one that crashed is ended."""
    crashed = any(rank.poll() not in (None, 0, 130, 143) for rank in ranks)
    until = time.monotonic() + (1.0 if crashed else PATIENCE)
    while any(rank.poll() is None for rank in ranks) and time.monotonic() < until:
        time.sleep(0.05)
    for rank in ranks:
        rank.kill()
        rank.wait()
