"""One writer at a time, among processes that share a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait for, and hold, the lock of a file beside which something is written.

    The system frees it when the process ends, however it ends. Where a file system has no locks,
    or nothing may be written, this does not wait.
    """
    try:
        import fcntl

        file = path.open("ab")
    except (ImportError, OSError):
        yield
        return
    with file:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
