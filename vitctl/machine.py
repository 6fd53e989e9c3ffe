"""Queries and settings of the operating system: cores, memory, devices, signals."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path


def read_cgroup(name: str) -> list[str]:
    """The words of a limit of this container; ["max"] if there is none."""
    try:
        return Path("/sys/fs/cgroup", name).read_text().split() or ["max"]
    except OSError:
        return ["max"]


def cores() -> int:
    """Cores that this process may use: a container or a scheduler may allow fewer than the machine has."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, *period = read_cgroup("cpu.max")
    return min(allowed, max(1, -(-int(quota) // int(period[0])))) if quota.isdigit() and period else allowed


def cuda_devices() -> int:
    """NVIDIA devices that CUDA_VISIBLE_DEVICES allows. This asks the driver: importing torch takes seconds."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int()
    return count.value if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 else 0


M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Asks glibc to keep large freed buffers instead of returning them to the kernel, which would clear them again.

    Every step allocates the same sizes again, so memory does not grow. True if glibc accepted.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 1))


def compute_alone() -> bool:
    """In the calling thread, and in no other, OpenMP starts no more threads. True if it accepted.

    torch's own setting would also change the products of the thread that trains.
    """
    try:
        import torch

        torch.get_num_threads()  # its first call in a thread applies torch's setting, which must not follow later
        ctypes.CDLL(None).omp_set_num_threads(1)
    except (OSError, AttributeError, TypeError):  # another OpenMP, or Windows
        return False
    return True


class CStderr:
    """Drops what C libraries print to stderr while a thread is inside: libjpeg and libtiff print about damaged images.

    It redirects glibc's variable `stderr`, not file descriptor 2, so Python's own output still arrives.
    """

    def __init__(self) -> None:
        self.lock, self.inside, self.before = threading.Lock(), 0, 0
        self.stream: ctypes.c_void_p | None = None
        self.nowhere: int | None = None

    def __enter__(self) -> None:
        with self.lock:
            self.inside += 1
            if self.nowhere is None:
                self.open()
            if self.inside == 1 and self.stream:
                self.before, self.stream.value = self.stream.value or 0, self.nowhere

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.inside -= 1
            if self.inside == 0 and self.stream:
                self.stream.value = self.before

    def open(self) -> None:
        """Finds glibc's variable and opens /dev/null; does nothing with another C library."""
        library, self.nowhere = ctypes.CDLL(None), 0
        if hasattr(library, "gnu_get_libc_version"):
            library.fopen.restype = ctypes.c_void_p
            self.nowhere = library.fopen(os.devnull.encode(), b"w") or 0
        if self.nowhere:
            self.stream = ctypes.c_void_p.in_dll(library, "stderr")


C_STDERR = CStderr()


def memory_bytes() -> int | None:
    """Memory that this process may use: the machine's, or its container's if that is less."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    limit = read_cgroup("memory.max")[0]
    return min(total, int(limit)) if limit.isdigit() else total


def native_bf16() -> str | None:
    """The best instruction set of this processor that multiplies bfloat16, or None."""
    try:
        with open("/proc/cpuinfo") as file:
            flags = set(next((line for line in file if line.startswith(("flags", "Features"))), "").split())
    except OSError:
        return "NEON" if apple_has_bf16() else None
    known = {"amx_bf16": "AMX", "avx512_bf16": "AVX512", "bf16": "NEON"}
    return next((known[flag] for flag in known if flag in flags), None)


def apple_has_bf16() -> bool:
    """Apple's processors have it since the M2."""
    try:
        command = ["sysctl", "-n", "hw.optional.arm.FEAT_BF16"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() == "1"
    except OSError:
        return False


PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Called in a child process: Linux sends it SIGTERM when its parent ends."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


CUT_SHORT = "was truncated while it was being read; restore it, then run the command again (training with --resume)"
mapped_files: dict[str, int] = {}  # the size of each path when it was mapped
bus_error_handler: object = None  # a ctypes callback must live as long as the process


def watch_mapped_file(path: object, size: int) -> None:
    """Remembers the file, so that the error can name it if it is truncated."""
    mapped_files[os.path.abspath(str(path))] = size


def exit_on_bus_error(word: str = "error") -> None:
    """Reading past the end of a truncated mapped file raises SIGBUS, which kills silently: this prints an error first.

    Python runs its own handlers between two bytecodes, and never reaches the next one; a C handler runs at once.
    """
    global bus_error_handler
    once = threading.Lock()  # several threads may fail at once; one prints

    def leave(_number: int) -> None:  # must not return: the same byte would be read again
        once.acquire()
        try:
            short = [path for path, size in [*mapped_files.items()] if is_shorter(path, size)]
            line = f"{word}: {short[0] if short else 'a mapped file'}: {CUT_SHORT}\n"
            os.write(2, line.encode("utf-8", "backslashreplace"))
        finally:
            os._exit(3)

    try:
        bus_error_handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(leave)
        set_handler = ctypes.CDLL(None).signal
        set_handler.argtypes, set_handler.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
        set_handler(signal.SIGBUS, ctypes.cast(bus_error_handler, ctypes.c_void_p))
    except (OSError, AttributeError, MemoryError):  # no such signal, or a system that forbids generated code
        return


def is_shorter(path: str, size: int) -> bool:
    try:
        return os.stat(path).st_size < size
    except OSError:
        return False
