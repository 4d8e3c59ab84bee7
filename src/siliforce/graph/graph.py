"""The batched graph: what a model sees of a set of atomic structures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from siliforce.graph.neighbors import NeighborList, completed_cell, neighbor_list
from siliforce.graph.topology import Topology, reverse_edges, triplets


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
        cell_shifts: (n_edges, 3), float64.
        edge_vectors: r_neighbor - r_center + shift @ cell, (n_edges, 3), Å, the model's dtype.
        triplets: pairs of edges with one center, (2, n_triplets), or None.
        reverse_edges: (n_edges,), or None.
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
        return replace(
            self,
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
    pairs = [s.edges for s in systems]
    if topology.max_neighbors is not None:
        pairs = [_nearest(s, topology.max_neighbors) for s in systems]
    center = np.concatenate([p.center + o for p, o in zip(pairs, offsets, strict=True)])
    neighbor = np.concatenate([p.neighbor + o for p, o in zip(pairs, offsets, strict=True)])
    n_atoms = int(sizes.sum())
    ptr = np.zeros(n_atoms + 1, dtype=np.int64)
    np.cumsum(np.bincount(center, minlength=n_atoms), out=ptr[1:])
    t = torch.from_numpy
    numbers = t(np.concatenate([s.numbers for s in systems]).astype(np.int64))
    positions = t(np.concatenate([s.positions for s in systems]).astype(np.float64))
    cell = t(np.stack([s.cell for s in systems]).astype(np.float64))
    shifts = t(np.concatenate([p.cell_shifts for p in pairs]).astype(np.float64))
    system_index = t(np.repeat(np.arange(len(systems)), sizes))
    c, n, edge_ptr = t(center), t(neighbor), t(ptr)
    ordered = topology.triplets == "ordered"
    return Graph(
        numbers=numbers,
        species=torch.zeros_like(numbers),
        positions=positions,
        system_index=system_index,
        cell=cell,
        pbc=t(np.stack([s.pbc for s in systems])),
        center=c,
        neighbor=n,
        edge_ptr=edge_ptr,
        cell_shifts=shifts,
        edge_vectors=_edge_vectors(positions, cell, c, n, shifts, system_index).to(dtype),
        triplets=triplets(edge_ptr, c, ordered) if topology.triplets else None,
        reverse_edges=reverse_edges(c, n, shifts, n_atoms) if topology.reverse_edges else None,
    )


def _edge_vectors(
    positions: Tensor,
    cell: Tensor,
    center: Tensor,
    neighbor: Tensor,
    cell_shifts: Tensor,
    system_index: Tensor,
) -> Tensor:
    translation = torch.einsum("es,esx->ex", cell_shifts, cell[system_index[center]])
    return positions[neighbor] - positions[center] + translation


def _nearest(system: System, max_neighbors: int) -> NeighborList:
    """The `max_neighbors` nearest neighbours of every atom (the 2023 benchmark's graph)."""
    edges = system.edges
    cell = completed_cell(system.cell, system.pbc)
    vectors = system.positions[edges.neighbor] - system.positions[edges.center]
    lengths = np.linalg.norm(vectors + edges.cell_shifts @ cell, axis=1)
    order = np.lexsort((lengths, edges.center))
    first = np.searchsorted(edges.center, edges.center)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order)) - first[order]
    keep = rank < max_neighbors
    return NeighborList(edges.center[keep], edges.neighbor[keep], edges.cell_shifts[keep])
