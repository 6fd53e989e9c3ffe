"""What this machine is and how it is best used."""

import ctypes
import os
import signal
import subprocess
import sys


def cores() -> int:
    """Cores that this process may use: a container or a scheduler may give fewer than the machine has."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        with open("/sys/fs/cgroup/cpu.max") as file:
            quota, period = file.read().split()
    except (OSError, ValueError):
        return allowed
    return min(allowed, max(1, -(-int(quota) // int(period)))) if quota.isdigit() else allowed


M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Asks glibc to keep large freed buffers instead of returning them to the kernel, which must then clear them anew.

    Batches and activations of the same sizes come again at every step, so nothing grows for it. True where it was done.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 1))


def memory_bytes() -> int | None:
    """Memory that this process may use: the machine's, or its container's if that is less."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    try:
        with open("/sys/fs/cgroup/memory.max") as file:
            limit = file.read().strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdigit() else total


def native_bf16() -> str | None:
    """The instructions with which this processor multiplies bfloat16, best first, or None."""
    try:
        with open("/proc/cpuinfo") as file:
            flags = set(next((line for line in file if line.startswith(("flags", "Features"))), "").split())
    except OSError:
        return "NEON" if apple_has_bf16() else None
    return next(
        (name for flag, name in (("amx_bf16", "AMX"), ("avx512_bf16", "AVX512"), ("bf16", "NEON")) if flag in flags),
        None,
    )


def apple_has_bf16() -> bool:
    """Apple's processors have it since the M2."""
    try:
        asked = ["sysctl", "-n", "hw.optional.arm.FEAT_BF16"]
        return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip() == "1"
    except OSError:
        return False


PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """In a child, on Linux: when the process that started it is gone, it is asked to stop."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
