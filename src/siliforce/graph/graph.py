"""The batched graph: what a model sees of a set of atomic structures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from siliforce.graph.neighbors import NeighborList, neighbor_list
from siliforce.graph.topology import (
    Topology,
    closed,
    edge_slots,
    nearest,
    reverse_edges,
    triplets,
    undirected_pairs,
)


@dataclass(frozen=True)
class System:
    """One structure with its neighbour list, as NumPy arrays; systems are collated to a Graph.

    Attributes:
        numbers: atomic numbers, (n_atoms,).
        positions: (n_atoms, 3), Å.
        cell: lattice vectors as rows, (3, 3), Å; zeros where there is none.
        pbc: (3,).
        edges: pairs within the cutoff.
    """

    numbers: np.ndarray
    positions: np.ndarray
    cell: np.ndarray
    pbc: np.ndarray
    edges: NeighborList

    @classmethod
    def build(
        cls,
        numbers: np.ndarray,
        positions: np.ndarray,
        cell: np.ndarray,
        pbc: np.ndarray,
        cutoff: float,
    ) -> System:
        """Structure plus neighbour list. Raises what `neighbor_list` raises."""
        numbers, pbc = np.asarray(numbers, dtype=np.int64), np.asarray(pbc, dtype=bool)
        edges = neighbor_list(positions, cell, pbc, cutoff)
        return cls(numbers, np.asarray(positions, float), np.asarray(cell, float), pbc, edges)

    @property
    def n_atoms(self) -> int:
        return len(self.numbers)


@dataclass(frozen=True)
class Graph:
    """A batch of systems, atoms and edges concatenated; edges sorted by center.

    Models read `species`, `center`, `neighbor`, `edge_vectors` and the topology they declared;
    never `positions` or `cell`.

    Attributes:
        numbers: atomic numbers, (n_atoms,).
        species: row of each atom in the model's species tables, (n_atoms,).
        positions: (n_atoms, 3), Å, float64.
        system_index: (n_atoms,).
        cell: (n_systems, 3, 3), Å, float64.
        pbc: (n_systems, 3).
        center, neighbor: (n_edges,).
        edge_ptr: first edge of each atom, (n_atoms + 1,).
        cell_shifts: (n_edges, 3), integers.
        edge_vectors: r_neighbor - r_center + shift @ cell, (n_edges, 3), Å, the model's dtype.
        triplets: pairs of edges with one center, (2, n_triplets), or None.
        reverse_edges: (n_edges,), or None.
        pair_edges: one edge of each undirected pair, (n_pairs,), or None.
        edge_pairs: undirected pair of each edge, (n_edges,), or None.
        slots: edges of each atom, n_edges in empty slots, (n_atoms, max_edges), or None.
    """

    numbers: Tensor
    species: Tensor
    positions: Tensor
    system_index: Tensor
    cell: Tensor
    pbc: Tensor
    center: Tensor
    neighbor: Tensor
    edge_ptr: Tensor
    cell_shifts: Tensor
    edge_vectors: Tensor
    triplets: Tensor | None = None
    reverse_edges: Tensor | None = None
    pair_edges: Tensor | None = None
    edge_pairs: Tensor | None = None
    slots: Tensor | None = None

    @property
    def n_atoms(self) -> int:
        return self.numbers.shape[0]

    @property
    def n_edges(self) -> int:
        return self.center.shape[0]

    @property
    def n_systems(self) -> int:
        return self.cell.shape[0]

    @property
    def edge_lengths(self) -> Tensor:
        """(n_edges,), Å."""
        return torch.linalg.vector_norm(self.edge_vectors, dim=-1)

    def replace(self, **changes: Any) -> Graph:
        """A copy with some fields replaced."""
        return replace(self, **changes)

    def to(self, device: torch.device | str) -> Graph:
        """A copy on another device."""
        moved = {
            f.name: value.to(device, non_blocking=True)
            for f in fields(self)
            if (value := getattr(self, f.name)) is not None
        }
        return replace(self, **moved)

    def moved(self, positions: Tensor, cell: Tensor | None = None) -> Graph:
        """The same pairs at new positions (and cells): what MD does between list updates."""
        cell = self.cell if cell is None else cell
        vectors = _edge_vectors(
            positions, cell, self.center, self.neighbor, self.cell_shifts, self.system_index
        )
        vectors = vectors.to(self.edge_vectors.dtype)
        return replace(self, positions=positions, cell=cell, edge_vectors=vectors)

    def with_isolated_atoms(self, n_species: int) -> Graph:
        """One more atom of each species, without edges, after the others.

        They carry the model's answer for an isolated atom at the cost of `n_species` atoms. Only
        the fields that models read are extended.
        """
        extra = torch.arange(n_species, device=self.species.device)
        slots = self.slots
        if slots is not None:
            empty = slots.new_full((n_species, slots.shape[1]), self.n_edges)
            slots = torch.cat([slots, empty])
        return replace(
            self,
            slots=slots,
            species=torch.cat([self.species, extra]),
            edge_ptr=torch.cat([self.edge_ptr, self.edge_ptr[-1:].expand(n_species)]),
        )


def collate(
    systems: Sequence[System], topology: Topology, dtype: torch.dtype = torch.float32
) -> Graph:
    """Concatenate systems to one graph; `species` is filled in by the potential.

    Args:
        systems: at least one.
        topology: what the model needs.
        dtype: of the edge vectors; they are computed in float64 first.
    """
    sizes = np.array([s.n_atoms for s in systems])
    offsets = np.cumsum(sizes) - sizes
    edges = [s.edges for s in systems]

    def joined(arrays: Iterable[np.ndarray], kind: type) -> Tensor:
        return torch.from_numpy(np.concatenate(list(arrays)).astype(kind))

    return assemble(
        numbers=joined((s.numbers for s in systems), np.int64),
        positions=joined((s.positions for s in systems), np.float64),
        sizes=torch.from_numpy(sizes),
        cell=torch.from_numpy(np.stack([s.cell for s in systems]).astype(np.float64)),
        pbc=torch.from_numpy(np.stack([s.pbc for s in systems])),
        center=joined((e.center + o for e, o in zip(edges, offsets, strict=True)), np.int64),
        neighbor=joined((e.neighbor + o for e, o in zip(edges, offsets, strict=True)), np.int64),
        cell_shifts=joined((e.cell_shifts for e in edges), np.int32),
        topology=topology,
        dtype=dtype,
    )


def assemble(
    *,
    numbers: Tensor,
    positions: Tensor,
    sizes: Tensor,
    cell: Tensor,
    pbc: Tensor,
    center: Tensor,
    neighbor: Tensor,
    cell_shifts: Tensor,
    topology: Topology,
    dtype: torch.dtype = torch.float32,
    vectors: Tensor | None = None,
    degree: Tensor | None = None,
) -> Graph:
    """A graph from arrays that are already concatenated: the one place that makes topology.

    Args:
        numbers, positions: of all atoms; float64 positions.
        sizes: atoms of each system, (n_systems,).
        cell, pbc: (n_systems, 3, 3) and (n_systems, 3).
        center, neighbor: counted through the batch, sorted by (center, neighbor, shift).
        cell_shifts: (n_edges, 3), integers.
        topology: what the model needs.
        dtype: of the edge vectors.
        vectors: of the edges, (n_edges, 3), where the caller has them; in float64 where the
            topology compares lengths.
        degree: edges of each atom, (n_atoms,), where the caller has them.
    """
    n_atoms = numbers.shape[0]
    system_index = torch.repeat_interleave(torch.arange(len(sizes), device=sizes.device), sizes)
    if vectors is None:
        vectors = _edge_vectors(positions, cell, center, neighbor, cell_shifts, system_index)
    reach = vectors.new_zeros(())  # longest edge, before any is cut away
    if topology.closed_triplets and len(vectors):
        reach = torch.linalg.vector_norm(vectors, dim=1).max()
    if topology.max_neighbors is not None:
        keep = nearest(center, vectors, topology.max_neighbors)
        center, neighbor, cell_shifts = center[keep], neighbor[keep], cell_shifts[keep]
        vectors, degree = vectors[keep], None
    if degree is None:
        degree = torch.bincount(center, minlength=n_atoms)
    edge_ptr = torch.zeros(n_atoms + 1, dtype=torch.int64, device=center.device)
    torch.cumsum(degree, 0, out=edge_ptr[1:])
    pairs = (
        triplets(edge_ptr, center, topology.triplets == "ordered") if topology.triplets else None
    )
    if pairs is not None and topology.closed_triplets:
        pairs = pairs[:, closed(pairs, vectors, reach)]
    by_image = (center, neighbor, cell_shifts, n_atoms)
    pair_edges, edge_pairs = undirected_pairs(*by_image) if topology.pairs else (None, None)
    return Graph(
        numbers=numbers,
        species=torch.zeros_like(numbers),
        positions=positions,
        system_index=system_index,
        cell=cell,
        pbc=pbc,
        center=center,
        neighbor=neighbor,
        edge_ptr=edge_ptr,
        cell_shifts=cell_shifts,
        edge_vectors=vectors.to(dtype),
        triplets=pairs,
        reverse_edges=reverse_edges(*by_image) if topology.reverse_edges else None,
        pair_edges=pair_edges,
        edge_pairs=edge_pairs,
        slots=edge_slots(edge_ptr, center) if topology.slots else None,
    )


def _edge_vectors(
    positions: Tensor,
    cell: Tensor,
    center: Tensor,
    neighbor: Tensor,
    cell_shifts: Tensor,
    system_index: Tensor,
) -> Tensor:
    of_edge = cell[system_index[center]]
    translation = torch.einsum("es,esx->ex", cell_shifts.to(cell.dtype), of_edge)
    return positions[neighbor] - positions[center] + translation
