"""`vitctl doctor`: describes this machine and installation, with one line of advice for each problem."""

import importlib
import importlib.util
import multiprocessing
import os
import platform
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from vitctl.io.run_directory import library_versions
from vitctl.machine import cores, memory_bytes, native_bf16
from vitctl.reporting import format_size

LOW_DISK = 5 << 30
OLDEST_TORCH = (2, 11)
EXTRAS = {"parquet": "pyarrow", "tensorboard": "tensorboard", "compress": "hdf5plugin"}


@dataclass(frozen=True)
class DoctorResult:
    ok: bool
    python: str
    platform: str
    libraries: dict[str, str]
    extras: dict[str, bool]
    device: str
    devices: list[str]
    precisions: dict[str, str]  # of the device: native, emulated or none
    cores: int
    threads: int
    memory: int | None
    folder: str
    writable: bool
    free_disk: int
    start_method: str
    advice: list[str] = field(default_factory=list)


def examine(out: str | Path = ".") -> DoctorResult:
    advice: list[str] = []
    working = imports_work(advice)
    device, devices, precisions, threads = torch_facts(advice) if "torch" in working else ("none", [], {}, 0)
    folder = Path(out)
    writable, free = disk_facts(folder, advice)
    if threads and threads > cores():
        advice.append(f"torch uses {threads} threads on {cores()} cores: set OMP_NUM_THREADS={cores()}")
    methods = multiprocessing.get_all_start_methods()
    return DoctorResult(
        ok=not advice, python=platform.python_version(), platform=platform.platform(), libraries=library_versions(),
        extras={name: importlib.util.find_spec(module) is not None for name, module in EXTRAS.items()},
        device=device, devices=devices, precisions=precisions, cores=cores(), threads=threads, memory=memory_bytes(),
        folder=str(folder), writable=writable, free_disk=free,
        start_method="forkserver" if "forkserver" in methods else "spawn", advice=advice,
    )  # fmt: skip


def imports_work(advice: list[str]) -> set[str]:
    """The libraries that can be imported together. The usual problem: torch and torchvision do not match."""
    working = set()
    for name in ("torch", "torchvision", "timm", "h5py", "PIL", "sklearn"):
        try:
            importlib.import_module(name)
            working.add(name)
        except Exception as error:  # a broken extension module may raise anything
            advice.append(
                f"import {name} fails ({type(error).__name__}: {' '.join(str(error).split())[:120]}): "
                "pip install --force-reinstall torch torchvision timm, in one line so that they match"
            )
    return working


def torch_facts(advice: list[str]) -> tuple[str, list[str], dict[str, str], int]:
    import torch

    if tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2]) < OLDEST_TORCH:
        advice.append(f"torch {torch.__version__} is too old: pip install --upgrade torch torchvision")
    threads = torch.get_num_threads()
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
        native = "native" if torch.cuda.is_bf16_supported(including_emulation=False) else "emulated"
        return "cuda", names, {"float32": "native", "bf16": native, "fp16": "native"}, threads
    if torch.backends.mps.is_available():
        return "mps", [platform.processor() or "Apple"], dict.fromkeys(("float32", "bf16", "fp16"), "native"), threads
    if shutil.which("nvidia-smi"):
        advice.append("nvidia-smi exists, but torch finds no GPU: check nvidia-smi, or install a torch with CUDA")
    bf16 = native_bf16()
    precisions = {"float32": "native", "bf16": f"native ({bf16})" if bf16 else "emulated", "fp16": "emulated"}
    return "cpu", [platform.processor() or platform.machine()], precisions, threads


def disk_facts(folder: Path, advice: list[str]) -> tuple[bool, int]:
    nearest = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    writable = nearest.is_dir() and os.access(nearest, os.W_OK)
    free = shutil.disk_usage(nearest).free
    if not writable:
        advice.append(f"{folder}: is not writable: choose another folder with --out")
    if free < LOW_DISK:
        free_text = f"its disk has {format_size(free)} free"
        advice.append(f"{folder}: {free_text}: free some space; a patch file of 10,000 images at 224 takes 1.5 GB")
    return writable, free
