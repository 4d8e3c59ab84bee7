"""Writing files so that a kill at any moment leaves the old content or the new, never half."""

from __future__ import annotations

import os
import uuid
from pathlib import Path


def write_atomic(path: str | Path, content: bytes | str) -> Path:
    """Replace `path` by `content` in one step, durable when it returns.

    Raises:
        OSError: no space, no permission; the old file is untouched and nothing is left behind.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    # Opened, not made by `tempfile`, so that the file gets the usual permissions.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path


def cache_folder() -> Path:
    """Folder for what siliforce can make again: `SILIFORCE_CACHE`, else the user's cache."""
    given = os.environ.get("SILIFORCE_CACHE")
    if given:
        return Path(given)
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "siliforce"
