"""What is asked of the machine."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import torch
from siliforce.hardware import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
def page_faults(n):
    start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(n):
        torch.zeros(16 * 2**20).add_(1)  # 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - start
page_faults(20)
print(page_faults(8))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="an option of glibc")
def test_freed_memory_is_kept_for_the_next_arrays() -> None:
    """A mapped array of 64 MiB costs thousands of page faults each time, a kept one none."""
    found = {}
    for way in ("mapped", "kept"):
        words = [sys.executable, "-c", FAULTS, way]
        found[way] = int(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    assert found["mapped"] > 1000
    assert found["kept"] < 100
