"""Datasets: frames of one or several stores, ready to be batched."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import takewhile
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols

from siliforce.data.batch import Batch, Targets
from siliforce.data.frame import Frame, Tag
from siliforce.data.neighbor_cache import NeighborCache
from siliforce.data.store import Store
from siliforce.errors import DataError
from siliforce.graph import Topology
from siliforce.graph.graph import assemble

FRAME_FACTS = {"level_of_theory": ("level_of_theory", "level"), "licence": ("licence", "license")}
"""Fact of a set -> info keys under which frames carry it."""


class Dataset:
    """A view of frames in stores; subsets share the stores and the neighbour lists.

    Attributes:
        stores: where the frames are.
        indices: rows, counted through the stores, (n_frames,).
    """

    def __init__(self, stores: Sequence[Store], indices: np.ndarray | None = None) -> None:
        self.stores = tuple(stores)
        self._starts = np.cumsum([0, *(len(s) for s in self.stores)])
        everything = np.arange(self._starts[-1])
        self.indices = everything if indices is None else np.asarray(indices, dtype=np.int64)
        self._caches: dict[float, list[NeighborCache]] = {}

    @classmethod
    def concatenate(cls, parts: Sequence[Dataset]) -> Dataset:
        """One dataset of several, in order."""
        starts = np.cumsum([0, *(p._starts[-1] for p in parts)])
        rows = [p.indices + start for p, start in zip(parts, starts, strict=False)]
        return cls([s for p in parts for s in p.stores], np.concatenate(rows))

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Frame:
        store, row = self._locate(int(self.indices[index]))
        return self.stores[store][row]

    def __iter__(self) -> Iterator[Frame]:
        return (self[i] for i in range(len(self)))

    def subset(self, indices: Sequence[int] | np.ndarray) -> Dataset:
        """The given rows of this dataset, sharing its neighbour lists."""
        chosen = Dataset(self.stores, self.indices[np.asarray(indices, dtype=np.int64)])
        chosen._caches = self._caches
        return chosen

    # -- facts of the frames ------------------------------------------------------------------

    @cached_property
    def records(self) -> np.ndarray:
        """One record per frame (`siliforce.data.store.RECORD`), (n_frames,)."""
        if len(self.stores) == 1:
            return self.stores[0].records[self.indices]
        return np.concatenate([s.records for s in self.stores])[self.indices]

    @property
    def n_atoms(self) -> np.ndarray:
        """(n_frames,)."""
        return self.records["n_atoms"]

    @property
    def energies(self) -> np.ndarray:
        """(n_frames,), eV, NaN where missing."""
        return self.records["energy"]

    def numbers(self, index: int) -> np.ndarray:
        """Atomic numbers of one frame, (n_atoms,), uint8."""
        store, _ = self._locate(int(self.indices[index]))
        first = int(self.records["first_atom"][index])
        return self.stores[store].numbers[first : first + int(self.records["n_atoms"][index])]

    @cached_property
    def counts(self) -> tuple[tuple[int, ...], np.ndarray]:
        """Elements by atomic number, and how often each frame has them, (n_frames, n_elements)."""
        table = np.zeros((len(self), 256), dtype=np.int64)
        for row in range(len(self)):
            table[row] = np.bincount(self.numbers(row), minlength=256)
        present = np.flatnonzero(table.any(axis=0))
        return tuple(int(z) for z in present), table[:, present]

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers."""
        return self.counts[0]

    @cached_property
    def _texts(self) -> list[dict]:
        places = (self._locate(int(i)) for i in self.indices)
        return [self.stores[store].texts(row) for store, row in places]

    @property
    def groups(self) -> list[str]:
        """Trajectory of each frame; empty strings where unknown."""
        return [t["group"] for t in self._texts]

    @property
    def config_types(self) -> list[str]:
        """Kind of each frame; empty strings where unknown."""
        return [t["config_type"] for t in self._texts]

    @property
    def sources(self) -> list[str]:
        """File and position of each frame."""
        return [t["source"] for t in self._texts]

    @property
    def all_tags(self) -> list[dict[str, Tag]]:
        """Tags of each frame."""
        return [t["tags"] for t in self._texts]

    @cached_property
    def compositions(self) -> list[str]:
        """Reduced formula of each frame, such as HfO2."""
        elements, counts = self.counts
        reduced = counts // np.gcd.reduce(counts, axis=1)[:, None]
        unique, which = np.unique(reduced, axis=0, return_inverse=True)
        symbols = [chemical_symbols[z] for z in elements]
        texts = [
            "".join(f"{s}{n if n > 1 else ''}" for s, n in zip(symbols, row, strict=True) if n)
            for row in unique
        ]
        return [texts[k] for k in which]

    @property
    def tag_names(self) -> list[str]:
        """Names of all tags, sorted."""
        return sorted({name for t in self._texts for name in t["tags"]})

    def tags(self, name: str) -> list[Tag | None]:
        """Values of a tag, None where a frame has none.

        Raises:
            KeyError: no frame has it.
        """
        values = [t["tags"].get(name) for t in self._texts]
        if all(v is None for v in values):
            raise KeyError(name)
        return values

    @cached_property
    def hash(self) -> str:
        """16 hexadecimal digits that name the frames, their labels and their order."""
        return hashlib.blake2b(self.records["digest"].tobytes(), digest_size=8).hexdigest()

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Facts on which all stores agree, and what the frames say of their origin.

        `level_of_theory` and `licence` come from the stores, or else from the info keys `level` (or
        `level_of_theory`) and `licence` of the frames; where frames differ, it says so.
        """
        first, *rest = [s.facts for s in self.stores]
        facts = {k: v for k, v in first.items() if all(f.get(k) == v for f in rest)}
        for name, keys in FRAME_FACTS.items():
            if name not in facts:
                values = {
                    next((t["tags"][k] for k in keys if k in t["tags"]), None) for t in self._texts
                }
                if values != {None}:
                    facts[name] = _agreed(values)
        return facts

    @property
    def label_keys(self) -> dict[str, dict[str, int]]:
        """Label -> key it was read from -> frames, as far as the stores were made from files."""
        keys: dict[str, Counter[str]] = {}
        for store in self.stores:
            for record in store.facts.get("imports", []):
                for label, counts in record["report"]["labels"].items():
                    keys.setdefault(label, Counter()).update(counts)
        return {label: dict(counts) for label, counts in keys.items()}

    # -- batches ------------------------------------------------------------------------------

    def edge_counts(self, cutoff: float) -> np.ndarray:
        """Edges of each frame, (n_frames,); computes neighbour lists that are missing."""
        counts = [cache.edge_counts for cache in self._neighbors(cutoff)]
        return np.concatenate(counts)[self.indices]

    def edge_lengths(self, index: int, cutoff: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Center, neighbor and length (Å) of every edge of one frame, (n_edges,) each."""
        store, row = self._locate(int(self.indices[index]))
        cache, frame = self._neighbors(cutoff)[store], self[index]
        edges = cache.edges(row)
        first = int(self.records[index]["first_atom"])
        center = np.repeat(np.arange(frame.n_atoms), cache.degree[first : first + frame.n_atoms])
        neighbor = np.array(cache.neighbor[edges], dtype=np.int64)
        vectors = frame.positions[neighbor] - frame.positions[center]
        lengths = np.linalg.norm(vectors + cache.shift[edges] @ frame.cell, axis=1)
        return center, neighbor, lengths

    def batch(
        self,
        indices: Sequence[int] | np.ndarray,
        cutoff: float,
        topology: Topology,
        dtype: torch.dtype = torch.float32,
    ) -> Batch:
        """Frames as one graph with their labels.

        Args:
            indices: rows of this dataset.
            cutoff: Å.
            topology: what the model needs.
            dtype: of the edge vectors.

        Raises:
            DataError: no rows.
        """
        rows = np.asarray(indices, dtype=np.int64)
        if len(rows) == 0:
            raise DataError("a batch needs at least one frame")
        records = self.records[rows]
        sizes = records["n_atoms"].astype(np.int64)
        joined, n_edges = self._joined(rows, records, cutoff)
        rounded = dtype == torch.float32 and not topology.compares_lengths
        positions = joined["positions"]
        vectors = np.empty((n_edges.sum(), 3), np.float32 if rounded else np.float64)
        neighbor = np.empty(len(vectors), np.int64)
        first_atom, first_edge = np.cumsum(sizes) - sizes, np.cumsum(n_edges) - n_edges
        # Frame by frame: the arrays of one fit in the processor's cache, those of a batch do not.
        for k, cell in enumerate(records["cell"]):
            atoms = slice(first_atom[k], first_atom[k] + sizes[k])
            edges = slice(first_edge[k], first_edge[k] + n_edges[k])
            np.add(joined["neighbor"][edges], first_atom[k], out=neighbor[edges])
            apart = joined["shift"][edges].astype(np.float64) @ cell
            apart += positions.take(neighbor[edges], axis=0)
            apart -= positions[atoms].repeat(joined["degree"][atoms], axis=0)
            vectors[edges] = apart
        t = torch.from_numpy
        graph = assemble(
            numbers=t(joined["numbers"].astype(np.int64)),
            positions=t(positions),
            sizes=t(sizes),
            cell=t(records["cell"].copy()),
            pbc=t(records["pbc"].copy()),
            center=t(np.repeat(np.arange(sizes.sum()), joined["degree"])),
            neighbor=t(neighbor),
            cell_shifts=t(joined["shift"]),
            vectors=t(vectors),
            degree=t(joined["degree"].astype(np.int64)),
            topology=topology,
            dtype=dtype,
        )
        targets = Targets(
            energy=t(records["energy"].copy()),
            forces=t(joined["forces"]),
            stress=t(records["stress"].copy()),
            n_atoms=t(sizes),
            weight=t(records["weight"].copy()),
            frame_index=t(rows),
        )
        return Batch(graph, targets)

    def _joined(
        self, rows: np.ndarray, records: np.ndarray, cutoff: float
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Columns of atoms and edges of some frames, one after the other; edges of each frame."""
        caches = self._neighbors(cutoff)
        atom_columns, edge_columns = ("numbers", "positions", "forces"), ("neighbor", "shift")
        columns: dict[str, list[np.ndarray]] = {
            name: [] for name in (*atom_columns, *edge_columns, "degree")
        }
        for index, record in zip(self.indices[rows], records, strict=True):
            s, row = self._locate(int(index))
            store, cache = self.stores[s], caches[s]
            first = int(record["first_atom"])
            atoms, edges = slice(first, first + int(record["n_atoms"])), cache.edges(row)
            for name in atom_columns:
                columns[name].append(getattr(store, name)[atoms])
            for name in edge_columns:
                columns[name].append(getattr(cache, name)[edges])
            columns["degree"].append(cache.degree[atoms])
        n_edges = np.array([len(part) for part in columns["neighbor"]])
        return {name: np.concatenate(parts) for name, parts in columns.items()}, n_edges

    # -- inside -------------------------------------------------------------------------------

    def _locate(self, row: int) -> tuple[int, int]:
        store = int(np.searchsorted(self._starts, row, side="right")) - 1
        return store, row - int(self._starts[store])

    def _neighbors(self, cutoff: float) -> list[NeighborCache]:
        if cutoff not in self._caches:
            self._caches[cutoff] = [NeighborCache(s, cutoff) for s in self.stores]
        return self._caches[cutoff]


def _agreed(values: set[Tag | None]) -> str:
    """The value, or what all values begin with and how many there are."""
    if len(values) == 1:
        return str(next(iter(values)))
    texts = sorted("not stated" if v is None else str(v) for v in values)
    words = zip(*(t.split() for t in texts), strict=False)
    common = " ".join(same[0] for same in takewhile(lambda w: len(set(w)) == 1, words))
    shown = f"{common} ..." if common else "; ".join(texts[:3]) + ("; ..." if texts[3:] else "")
    return f"{shown} (frames differ: {len(texts)} variants)"
