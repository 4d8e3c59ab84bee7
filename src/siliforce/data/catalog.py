"""Public data sets by name: those inside the package, and SAMD23 from where it is published.

A set inside the package is a folder `sets/NAME/` with `*.extxyz.xz` files, a `README.md`, and
`set.json` with its title, licence and number of frames; a new folder is found by itself.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from siliforce.data import samd23
from siliforce.errors import DataError
from siliforce.files import write_atomic

SETS = Path(__file__).parent / "sets"


@dataclass(frozen=True)
class Entry:
    """A set that `get` can bring.

    Attributes:
        name: as asked for.
        title: one line.
        licence: of the data.
        embedded: whether it is part of the package.
    """

    name: str
    title: str
    licence: str
    embedded: bool


@dataclass(frozen=True)
class Fetched:
    """What `get` brought.

    Attributes:
        path: extended XYZ file, or folder.
        n_frames: in it.
        licence: of the data; show it.
        notes: checks that were made, and what the reader should know.
    """

    path: Path
    n_frames: int
    licence: str
    notes: list[str] = field(default_factory=list)


def entries() -> dict[str, Entry]:
    """All sets by name."""
    found = (json.loads(p.read_text()) | {"name": p.parent.name} for p in SETS.glob("*/set.json"))
    embedded = [Entry(s["name"], s["title"], s["licence"], True) for s in found]
    public = [Entry(name, *about, False) for name, about in samd23.TITLES.items()]
    return {e.name: e for e in [*sorted(embedded, key=lambda e: e.name), *public]}


def get(name: str, out: str | Path | None = None, source: str | Path | None = None) -> Fetched:
    """Bring a set.

    Args:
        name: one of `entries()`.
        out: file (sets in the package, default NAME.extxyz) or folder (the others, default NAME).
        source: a local copy to use instead of the network.

    Raises:
        DataError: unknown name, `out` holds something else, or not reachable or damaged.
        OSError: no space; what was fetched is continued next time.
    """
    known = entries()
    if name not in known:
        raise DataError(f"no data set '{name}'; there are {', '.join(known)}")
    entry = known[name]
    if entry.embedded:
        return _write_embedded(entry, Path(out or f"{name}.extxyz"))
    folder = Path(out or name)
    if folder.is_file():
        raise DataError(f"{folder} is a file; {name} needs a folder")
    n_frames, notes = samd23.fetch(name, folder, None if source is None else Path(source))
    return Fetched(folder, n_frames, entry.licence, notes)


def _write_embedded(entry: Entry, out: Path) -> Fetched:
    """All frames of an embedded set as one extended XYZ file that names its licence."""
    lines, n_frames = [], 0
    for path in sorted((SETS / entry.name).glob("*.extxyz.xz")):
        with lzma.open(path, "rt") as file:
            for frame in _frames(file):
                frame[1] = f'{frame[1].rstrip()} licence="{entry.licence}"\n'
                lines += frame
                n_frames += 1
    content = "".join(lines)
    if out.exists() and out.read_text() != content:
        raise DataError(f"{out} exists already; remove it, or choose another name")
    write_atomic(out, content)
    return Fetched(out, n_frames, entry.licence, [f"documented in {SETS / entry.name}/README.md"])


def _frames(file: IO[str]) -> Iterator[list[str]]:
    """Lines of each frame of an extended XYZ file."""
    while head := file.readline():
        yield [head, *(file.readline() for _ in range(int(head) + 1))]
