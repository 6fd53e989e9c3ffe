"""What this machine is and how it is best used."""

import ctypes
import os
import signal
import subprocess
import sys
import threading


def cores() -> int:
    """Cores that this process may use: a container or a scheduler may give fewer than the machine has."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        with open("/sys/fs/cgroup/cpu.max") as file:
            quota, period = file.read().split()
    except (OSError, ValueError):
        return allowed
    return min(allowed, max(1, -(-int(quota) // int(period)))) if quota.isdigit() else allowed


def cuda_devices() -> int:
    """NVIDIA's, as far as CUDA_VISIBLE_DEVICES allows; the driver is asked, because importing torch takes seconds."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int()
    return count.value if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 else 0


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


class CStderr:
    """While any thread is inside, what C libraries print to stderr is dropped: libjpeg and libtiff, of damaged images.

    A variable of glibc points elsewhere, not file descriptor 2: what Python and others write still arrives.
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
        """Finds the variable, where the C library is glibc, and makes a stream to nowhere."""
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


CUT_SHORT = "was cut short while it was being read; put it back, then run the command again (a run with --resume)"
mapped_files: dict[str, int] = {}  # path, and how long it was when it was mapped
bus_error_handler: object = None  # ctypes' own must live as long as the process


def watch_mapped_file(path: object, size: int) -> None:
    """To name it, should it be cut short."""
    mapped_files[os.path.abspath(str(path))] = size


def exit_on_bus_error(word: str = "error") -> None:
    """Where a mapped file is cut short, reading on is SIGBUS, which ends a process without a word: here with a line.

    Python's own handlers run between two steps of Python, which never come; this one runs where the signal arrives.
    """
    global bus_error_handler
    once = threading.Lock()  # of the threads that meet it at the same time, one speaks

    def leave(_number: int) -> None:  # never returns: the same byte would be read again
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
    except (OSError, AttributeError, MemoryError):  # a system without it, or that forbids code made at run time
        return


def is_shorter(path: str, size: int) -> bool:
    try:
        return os.stat(path).st_size < size
    except OSError:
        return False
