"""One writer at a time, among processes that share a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from siliforce.errors import DataError


@contextmanager
def locked(path: Path, busy: str = "") -> Iterator[None]:
    """Wait for, and hold, the lock of a file beside which something is written.

    The system frees it when the process ends, however it ends. Where a file system has no locks,
    or nothing may be written, this does not wait.

    Args:
        busy: what to say instead of waiting where another process holds it.

    Raises:
        DataError: another process holds it, and there was something to say.
    """
    try:
        import fcntl

        file = path.open("ab")
    except (ImportError, OSError):
        yield
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
        except BlockingIOError:
            raise DataError(busy) from None
        except OSError:
            pass
        yield
