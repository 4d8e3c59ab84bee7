"""The machine: which device computes, and the stamp that every measured time carries."""

from __future__ import annotations

import ctypes
import os
import platform
from pathlib import Path
from typing import Any

import torch

from siliforce.errors import ConfigError

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Names of the options in glibc's malloc.h."""


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """The device of that name; `auto` is a GPU if there is one.

    Args:
        local_rank: of this process on its machine, which has a GPU of its own.

    Raises:
        ConfigError: no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"device '{name}' cannot be used ({reason}); allowed: auto, cpu, cuda, cuda:N, mps"
        ) from None
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    return device


def hardware_stamp(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Processor, cores, threads, memory, accelerator and the versions that decide speed.

    Args:
        device: where the computation ran; an accelerator is named only if it was used.
    """
    stamp: dict[str, Any] = {
        "device": torch.device(device).type,
        "cpu": cpu_model(),
        "n_cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    if torch.device(device).type == "cuda":
        stamp["gpu"] = torch.cuda.get_device_name(device)
        stamp["gpu_memory_gib"] = round(
            torch.cuda.get_device_properties(device).total_memory / 2**30, 1
        )
        stamp["cuda"] = torch.version.cuda
    return stamp


def describe_hardware(stamp: dict[str, Any]) -> str:
    """One line for a person: the accelerator if one was used, else the processor and threads."""
    if not stamp:
        return "hardware not recorded"
    torch_version = f"torch {stamp.get('torch', 'unknown')}"
    if "gpu" in stamp:
        return f"{stamp['gpu']}, {torch_version}"
    threads = stamp.get("threads", "?")
    plural = "" if threads == 1 else "s"
    cpu, cores = stamp.get("cpu", "unknown processor"), stamp.get("n_cores", "?")
    return f"{cpu}, {threads} thread{plural} of {cores} cores, {torch_version}"


def cpu_model() -> str:
    """The processor's name as the system gives it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(errors="replace").splitlines():
            if line.lower().startswith("model name"):
                return " ".join(line.split(":", 1)[1].split())
    return platform.processor() or platform.machine() or "unknown processor"


def usable_cores() -> int:
    """Cores this process may use, which in a container or a job is less than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def peak_memory_gib(device: torch.device | str = "cpu") -> float | None:
    """Largest memory so far: of the accelerator if one is used, else resident of this process."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    try:
        import resource
    except ImportError:  # not a Unix system
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if platform.system() == "Darwin" else 2**20)


def keep_freed_memory() -> bool:
    """Let this process keep what it frees, for its next arrays; glibc alone, elsewhere nothing.

    The C library maps every array of more than 32 MiB anew and hands it back, and the system fills
    all its pages with zeros each time: with thousands of atoms that takes as long as computing.
    The price is some more memory (`docs/results.md` has both).

    Returns:
        Whether it was done.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    set_option = ctypes.CDLL(None).mallopt
    return bool(set_option(M_MMAP_MAX, 0)) and bool(set_option(M_TRIM_THRESHOLD, -1))


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        return None
