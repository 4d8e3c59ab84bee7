"""Batches that shrink when memory does not hold them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from siliforce.potential import Potential
from siliforce.training.memory import is_out_of_memory, release

T = TypeVar("T")


def halving(attempt: Callable[[int], T], size: int, unit: str, source: Any, notes: list[str]) -> T:
    """Try with a batch of `size`, and with half of it whenever memory does not hold it.

    Args:
        attempt: does it with a batch of the given size.
        unit: of the size, for the note that is left.
        source: whose device's memory is given back before the next try.
        notes: told what was done.
    """
    while True:
        try:
            return attempt(size)
        except RuntimeError as error:
            if not is_out_of_memory(error) or size <= 1:
                raise
            size //= 2
            if isinstance(source, Potential):
                release(source.device)
            notes.append(f"out of memory: went on with batches of {size} {unit}")
