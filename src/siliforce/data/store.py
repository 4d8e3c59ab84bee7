"""Frames on disk: flat arrays, memory-mapped, appendable, larger than memory.

A store is a folder. `meta.json` says how many frames and atoms count; everything behind that in
the array files is the rest of an append that was killed, and is overwritten by the next one. An
append becomes visible in one step, when `meta.json` is replaced.

| file | content | type, shape |
|---|---|---|
| frames.bin | one record per frame (`RECORD`) | structured, (n_frames,) |
| numbers.bin | atomic numbers | uint8, (n_atoms,) |
| positions.bin | Å | float64, (n_atoms, 3) |
| forces.bin | eV/Å, NaN where missing | float64, (n_atoms, 3) |
| texts.jsonl | group, config_type, tags, source of each frame | one JSON line per frame |
| neighbors-R/ | neighbour lists for cutoff R | see `siliforce.data.neighbor_cache` |
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from siliforce.data.frame import Frame
from siliforce.data.lock import locked
from siliforce.errors import DataError
from siliforce.files import write_atomic

FORMAT_VERSION = 1
CHUNK = 1000
"""Frames that an append makes visible at once."""

RECORD = np.dtype(
    [
        ("first_atom", "<i8"),
        ("n_atoms", "<i8"),
        ("cell", "<f8", (3, 3)),
        ("energy", "<f8"),
        ("stress", "<f8", (3, 3)),
        ("weight", "<f8"),
        ("text_start", "<i8"),
        ("text_length", "<i8"),
        ("digest", "V16"),
        ("pbc", "?", (3,)),
    ]
)
ARRAYS: dict[str, tuple[np.dtype, tuple[int, ...]]] = {
    "numbers": (np.dtype("u1"), ()),
    "positions": (np.dtype("<f8"), (3,)),
    "forces": (np.dtype("<f8"), (3,)),
}


class Store:
    """A folder of frames.

    Attributes:
        path: of the folder.
        records: facts of each frame, a memory map of `RECORD`.
        numbers, positions, forces: of all atoms, memory maps.
    """

    def __init__(self, path: Path, meta: dict[str, Any]) -> None:
        self.path = path
        self.meta = meta
        self._map()

    @classmethod
    def create(cls, path: str | Path) -> Store:
        """An empty store.

        Raises:
            DataError: the path exists already.
        """
        path = Path(path)
        if path.exists():
            raise DataError(f"{path} exists already; append to it, or choose another name")
        path.mkdir(parents=True)
        meta = {
            "siliforce_store": FORMAT_VERSION,
            "n_frames": 0,
            "n_atoms": 0,
            "text_bytes": 0,
            "facts": {},
        }
        write_atomic(path / "meta.json", json.dumps(meta, indent=1))
        return cls(path, meta)

    @classmethod
    def open(cls, path: str | Path) -> Store:
        """An existing store.

        Raises:
            DataError: not a store, of another format version, or shorter than it says.
        """
        path = Path(path)
        return cls(path, _read_meta(path))

    @staticmethod
    def is_store(path: str | Path) -> bool:
        """Whether a folder looks like a store."""
        return (Path(path) / "meta.json").is_file()

    # -- reading ------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self.meta["n_frames"]

    def __getitem__(self, index: int) -> Frame:
        record = self.records[index]
        atoms = slice(int(record["first_atom"]), int(record["first_atom"] + record["n_atoms"]))
        forces, stress = np.array(self.forces[atoms]), np.array(record["stress"])
        texts = self.texts(index)
        return Frame(
            numbers=self.numbers[atoms].astype(np.int64),
            positions=np.array(self.positions[atoms]),
            cell=np.array(record["cell"]),
            pbc=np.array(record["pbc"]),
            energy=float(record["energy"]),
            forces=None if np.isnan(forces).any() else forces,
            stress=None if np.isnan(stress).any() else stress,
            group=texts["group"],
            config_type=texts["config_type"],
            tags=texts["tags"],
            weight=float(record["weight"]),
            source=texts["source"],
        )

    def texts(self, index: int) -> dict[str, Any]:
        """Group, config_type, tags and source of a frame."""
        record = self.records[index]
        start, length = int(record["text_start"]), int(record["text_length"])
        try:
            return json.loads(bytes(self._texts[start : start + length]))
        except ValueError as error:
            raise DataError(
                f"{self.path}/texts.jsonl is damaged at frame {index} ({error}); import again"
            ) from None

    def verify(self) -> None:
        """Compare every frame with the digest written with it; reads everything.

        Raises:
            DataError: naming the first damaged frame.
        """
        for index in range(len(self)):
            if self[index].digest() != bytes(self.records["digest"][index]):
                raise DataError(
                    f"{self.path}: frame {index} ({self.texts(index)['source']}) is damaged; "
                    "import the original files again"
                )

    @property
    def facts(self) -> dict[str, Any]:
        """What is known of the whole set: level of theory, licence, how it was imported."""
        return self.meta["facts"]

    # -- writing ------------------------------------------------------------------------------

    def append(self, frames: Iterable[Frame], **facts: Any) -> int:
        """Add frames; every `CHUNK` of them becomes visible in one step.

        Args:
            frames: checked one by one (`Frame.check`).
            facts: recorded with the store.

        Returns:
            How many were added.

        Raises:
            DataError: a frame that cannot be used; those of earlier chunks stay.
            OSError: no space left; the store stays as it was before the chunk.
        """
        iterator, added = iter(frames), 0
        while chunk := list(islice(iterator, CHUNK)):
            for frame in chunk:
                frame.check()
            self._append_chunk(chunk, {})
            added += len(chunk)
        if facts:
            self._append_chunk([], facts)
        return added

    def _append_chunk(self, frames: Sequence[Frame], facts: dict[str, Any]) -> None:
        with locked(self.path / "lock"):
            self.meta = _read_meta(self.path)  # another process may have appended
            self._write_chunk(frames, facts)
            self._map()

    def _write_chunk(self, frames: Sequence[Frame], facts: dict[str, Any]) -> None:
        """Write behind the visible part, then make it visible."""
        meta = {**self.meta, "facts": {**self.meta["facts"], **facts}}
        if frames:
            texts = [_text_line(frame) for frame in frames]
            records = _records(frames, texts, meta["n_atoms"], meta["text_bytes"])
            nan = np.full((1, 3), np.nan)
            columns: dict[str, np.ndarray] = {
                "numbers": np.concatenate([f.numbers for f in frames]),
                "positions": np.concatenate([f.positions for f in frames]),
                "forces": np.concatenate(
                    [np.repeat(nan, f.n_atoms, 0) if f.forces is None else f.forces for f in frames]
                ),
            }
            for name, column in columns.items():
                dtype, shape = ARRAYS[name]
                start = meta["n_atoms"] * dtype.itemsize * int(np.prod(shape, dtype=int))
                write_at(self._file(name), start, column.astype(dtype).tobytes())
            write_at(self._file("frames"), meta["n_frames"] * RECORD.itemsize, records.tobytes())
            write_at(self.path / "texts.jsonl", meta["text_bytes"], b"".join(texts))
            meta["n_frames"] += len(frames)
            meta["n_atoms"] += sum(f.n_atoms for f in frames)
            meta["text_bytes"] += sum(map(len, texts))
        write_atomic(self.path / "meta.json", json.dumps(meta, indent=1))
        self.meta = meta

    def _file(self, name: str) -> Path:
        return self.path / f"{name}.bin"

    def _map(self) -> None:
        """Map the visible part of every array.

        Raises:
            DataError: a file is shorter than `meta.json` says.
        """
        n_frames, n_atoms = self.meta["n_frames"], self.meta["n_atoms"]
        self.records = mapped(self._file("frames"), RECORD, (n_frames,))
        self.numbers = mapped(self._file("numbers"), *_with_length("numbers", n_atoms))
        self.positions = mapped(self._file("positions"), *_with_length("positions", n_atoms))
        self.forces = mapped(self._file("forces"), *_with_length("forces", n_atoms))
        self._texts = mapped(self.path / "texts.jsonl", np.dtype("u1"), (self.meta["text_bytes"],))


def _read_meta(path: Path) -> dict[str, Any]:
    try:
        meta = json.loads((path / "meta.json").read_text())
        version = meta.get("siliforce_store")
    except FileNotFoundError:
        raise DataError(f"{path}: not a store (no meta.json); import frames first") from None
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"{path}/meta.json is damaged ({error}); import again") from None
    if version != FORMAT_VERSION:
        raise DataError(
            f"{path}: store format {version}, this siliforce reads {FORMAT_VERSION}; "
            "import the original files again"
        )
    return meta


def mapped(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """The first elements of a flat file as an array, read-only.

    Raises:
        DataError: the file is missing or shorter than that.
    """
    if shape[0] == 0:
        return np.zeros(shape, dtype=dtype)
    needed = int(np.prod(shape)) * dtype.itemsize
    try:
        size = path.stat().st_size
    except OSError:
        size = -1
    if size < needed:
        state = "missing" if size < 0 else f"{size} bytes, {needed} expected"
        raise DataError(f"{path} is damaged ({state}); import the original files again")
    # As a plain array: slices of np.memmap are slow to make.
    return np.asarray(np.memmap(path, dtype=dtype, mode="r", shape=shape))


def _with_length(name: str, n_atoms: int) -> tuple[np.dtype, tuple[int, ...]]:
    dtype, shape = ARRAYS[name]
    return dtype, (n_atoms, *shape)


def _text_line(frame: Frame) -> bytes:
    content = {
        "group": frame.group,
        "config_type": frame.config_type,
        "tags": frame.tags,
        "source": frame.source,
    }
    return (json.dumps(content, separators=(",", ":")) + "\n").encode()


def _records(
    frames: Sequence[Frame], texts: Sequence[bytes], first_atom: int, text_start: int
) -> np.ndarray:
    records = np.zeros(len(frames), dtype=RECORD)
    for record, frame, text in zip(records, frames, texts, strict=True):
        record["first_atom"], record["n_atoms"] = first_atom, frame.n_atoms
        record["cell"], record["pbc"] = frame.cell, frame.pbc
        record["energy"], record["weight"] = frame.energy, frame.weight
        record["stress"] = np.nan if frame.stress is None else frame.stress
        record["text_start"], record["text_length"] = text_start, len(text)
        record["digest"] = np.void(frame.digest())
        first_atom += frame.n_atoms
        text_start += len(text)
    return records


def write_at(path: Path, start: int, content: bytes) -> None:
    """Write at a position, dropping what lies behind: the rest of a killed append."""
    with _opened(path) as file:
        file.truncate(start)
        file.seek(start)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _opened(path: Path) -> BinaryIO:
    return path.open("r+b" if path.exists() else "w+b")
