"""What torch.compile needs of a machine, and how little it is to say."""

import logging
import os
import shutil

import torch


def can_compile() -> bool:
    """A C++ compiler, with which torch compiles for CPUs."""
    return shutil.which(os.environ.get("CXX") or "g++") is not None


def quiet_compiler(may_fail: bool) -> None:
    """Silences torch.compile. Where nobody asked for compiling, what cannot be compiled runs as it is."""
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    torch._dynamo.config.suppress_errors = may_fail
