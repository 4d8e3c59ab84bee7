"""Neighbour lists of a store, computed once per cutoff and memory-mapped.

`neighbors-R/` holds, for the first `n_frames` frames, edges in the order of the graph: per atom
its number of edges (uint16), per edge the neighbour counted within the frame (int32) and the cell
shift (int8). Appending to the store extends it at the next use; a kill costs the chunk in flight.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np

from siliforce.data.lock import locked
from siliforce.data.store import Store, mapped, write_at
from siliforce.errors import DataError
from siliforce.files import write_atomic
from siliforce.graph.neighbors import neighbor_list
from siliforce.progress import track

CHUNK = 500
COLUMNS: dict[str, tuple[np.dtype, tuple[int, ...]]] = {
    "edge_ptr": (np.dtype("<i8"), ()),  # end of each frame's edges
    "degree": (np.dtype("<u2"), ()),
    "neighbor": (np.dtype("<i4"), ()),
    "shift": (np.dtype("i1"), (3,)),
}

EMPTY = {"n_frames": 0, "n_atoms": 0, "n_edges": 0}


class NeighborCache:
    """Neighbour lists of all frames of a store within a cutoff.

    Attributes:
        edge_ptr: end of each frame's edges, (n_frames,).
        degree: edges of each atom, (n_atoms,).
        neighbor: counted within the frame, (n_edges,).
        shift: cell shifts, (n_edges, 3).
    """

    def __init__(self, store: Store, cutoff: float) -> None:
        """Open, or compute what is missing."""
        self.store, self.cutoff = store, cutoff
        self.path = store.path / f"neighbors-{cutoff:.10g}"
        self._meta = self._read_meta()
        if self._meta["n_frames"] < len(store) or not self._map():
            self._extend()
            self._map()

    def edges(self, index: int) -> slice:
        """Where the edges of a frame are."""
        start = int(self.edge_ptr[index - 1]) if index else 0
        return slice(start, int(self.edge_ptr[index]))

    @property
    def edge_counts(self) -> np.ndarray:
        """(n_frames,)."""
        return np.diff(self.edge_ptr, prepend=0)

    def _read_meta(self) -> dict[str, int]:
        try:
            meta = json.loads((self.path / "meta.json").read_text())
        except (FileNotFoundError, ValueError):
            return dict(EMPTY)  # a cache: what cannot be read is computed again
        return meta if meta["n_frames"] <= len(self.store) else dict(EMPTY)

    def _map(self) -> bool:
        """Map the arrays; whether they are whole."""
        m = self._meta
        lengths = (m["n_frames"], m["n_atoms"], m["n_edges"], m["n_edges"])
        try:
            self.edge_ptr, self.degree, self.neighbor, self.shift = (
                mapped(self.path / f"{name}.bin", dtype, (length, *shape))
                for (name, (dtype, shape)), length in zip(COLUMNS.items(), lengths, strict=True)
            )
        except DataError:
            return False
        return True

    def _extend(self) -> None:
        """Compute what is missing, or all of it if what is there is damaged."""
        self.path.mkdir(exist_ok=True)
        with locked(self.path / "lock"):
            self._meta = self._read_meta()  # another process may have been here
            if not self._map():
                self._meta = dict(EMPTY)
            starts = range(self._meta["n_frames"], len(self.store), CHUNK)
            for start in track(starts, f"neighbours within {self.cutoff:g} Å", silent_below=2):
                self._write(start, min(start + CHUNK, len(self.store)))

    def _write(self, start: int, stop: int) -> None:
        """Compute and add the lists of frames start..stop, then make them visible."""
        meta = dict(self._meta)
        parts: dict[str, list[np.ndarray]] = {name: [] for name in COLUMNS}
        n_edges = meta["n_edges"]
        for degree, neighbor, shift in self._lists(start, stop):
            n_edges += len(neighbor)
            columns = (np.array([n_edges]), degree, neighbor, shift)
            for name, value in zip(COLUMNS, columns, strict=True):
                parts[name].append(value)
        positions = {"edge_ptr": start, "degree": meta["n_atoms"]}
        for name, arrays in parts.items():
            dtype, shape = COLUMNS[name]
            offset = positions.get(name, meta["n_edges"]) * dtype.itemsize * int(np.prod(shape))
            write_at(
                self.path / f"{name}.bin", offset, np.concatenate(arrays).astype(dtype).tobytes()
            )
        meta["n_frames"], meta["n_edges"] = stop, n_edges
        meta["n_atoms"] += sum(map(len, parts["degree"]))
        write_atomic(self.path / "meta.json", json.dumps(meta))
        self._meta = meta

    def _lists(self, start: int, stop: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        store = self.store
        for index in range(start, stop):
            record = store.records[index]
            first, n = int(record["first_atom"]), int(record["n_atoms"])
            positions = np.array(store.positions[first : first + n])
            try:
                found = neighbor_list(positions, record["cell"], record["pbc"], self.cutoff)
            except DataError as error:
                source = store.texts(index)["source"]
                raise DataError(f"{source or f'frame {index}'}: {error}") from None
            if np.abs(found.cell_shifts).max(initial=0) > 127:
                raise DataError(f"frame {index}: atoms lie more than 127 cells apart; wrap them")
            degree = np.bincount(found.center, minlength=n)
            yield degree, found.neighbor, found.cell_shifts
