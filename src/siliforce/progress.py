"""Progress bars on a terminal, silence elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def track(
    items: Iterable[T], title: str, total: int | None = None, silent_below: int = 0
) -> Iterator[T]:
    """Iterate with a progress bar (with ETA where the total is known).

    Args:
        title: what is being done.
        total: number of items, if `items` does not know it.
        silent_below: no bar for fewer items.
    """
    if total is None and hasattr(items, "__len__"):
        total = len(items)  # type: ignore[arg-type]
    if not sys.stderr.isatty() or (total is not None and total < silent_below):
        yield from items
        return
    from rich.console import Console
    from rich.progress import track as rich_track

    yield from rich_track(items, title, total=total, console=Console(stderr=True), transient=True)
