"""Running out of memory, noticed and measured."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import resource
import sys
from pathlib import Path

import torch


def is_out_of_memory(error: Exception) -> bool:
    """Whether an allocation failed, on a GPU or in main memory."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return "can't allocate memory" in text or "out of memory" in text


def release(device: torch.device) -> None:
    """Give back what PyTorch, or the C library, keeps for later."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


def available_bytes(device: torch.device) -> int:
    """Memory that can still be taken."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + cached)
    free = _meminfo("MemAvailable")
    limit = _cgroup_free()
    return min(free, limit) if limit is not None else free


class PeakMemory:
    """Most memory in use while it was watched, above what was in use before; bytes."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.before = self._now()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        elif sys.platform == "linux":
            # Resets the kernel's record of this process's peak.
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")

    def peak(self) -> int:
        """Bytes above the start."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) - self.before
        return max(_status("VmHWM") - self.before, 0)

    def _now(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.memory_allocated(self.device)
        return _status("VmRSS")


def _status(key: str) -> int:
    """A size of this process, from the kernel; the peak so far where there is no /proc."""
    try:
        return _kilobytes(Path("/proc/self/status"), key)
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _meminfo(key: str) -> int:
    try:
        return _kilobytes(Path("/proc/meminfo"), key)
    except OSError:
        return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2)


def _kilobytes(path: Path, key: str) -> int:
    for line in path.read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{path} has no {key}")


def _cgroup_free() -> int | None:
    """What a container's limit leaves, if there is one."""
    root = Path("/sys/fs/cgroup")
    try:
        limit = (root / "memory.max").read_text().strip()
        used = int((root / "memory.current").read_text())
    except (OSError, ValueError):
        return None
    return None if limit == "max" else max(int(limit) - used, 0)
