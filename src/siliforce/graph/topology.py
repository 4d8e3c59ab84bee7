"""What a model needs of the graph beyond edges: triplets, reverse edges, undirected pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from siliforce.errors import ConfigError


@dataclass(frozen=True)
class Topology:
    """Declared by each model as `needs`; the collater makes it.

    Attributes:
        triplets: pairs of edges that share their center, `ordered` (each pair twice) or
            `unordered` (once). An edge is never paired with itself; two images of one atom are
            two edges, so such a pair counts.
        closed_triplets: leave out triplets whose two neighbours are not neighbours of each other.
        reverse_edges: for every edge the edge that runs the other way.
        pairs: edges grouped with their reverse, for models that compute a function of the length
            once for both directions.
        slots: edges of every atom side by side, for models that relate all neighbours of an atom
            to each other by matrix products.
        max_neighbors: keep only so many nearest neighbours per atom. For comparison with the
            2023 benchmark alone: it makes the energy discontinuous.
    """

    triplets: Literal["ordered", "unordered"] | None = None
    closed_triplets: bool = False
    reverse_edges: bool = False
    pairs: bool = False
    slots: bool = False
    max_neighbors: int | None = None

    @property
    def compares_lengths(self) -> bool:
        """Whether its pairs depend on lengths, which must then not be rounded."""
        return self.closed_triplets or self.max_neighbors is not None


def triplets(edge_ptr: Tensor, center: Tensor, ordered: bool) -> Tensor:
    """All pairs of edges with the same center.

    Args:
        edge_ptr: first edge of each atom, (n_atoms + 1,).
        center: (n_edges,), sorted.
        ordered: both (a, b) and (b, a), or only a < b.

    Returns:
        Indices of the two edges, (2, n_triplets), sorted by the first.
    """
    edges = torch.arange(center.numel(), device=center.device)
    start = edge_ptr[center] if ordered else edges + 1
    count = edge_ptr[center + 1] - start
    first = torch.repeat_interleave(edges, count)
    offset = torch.cumsum(count, 0) - count
    second = torch.arange(first.numel(), device=center.device) - offset[first] + start[first]
    pairs = torch.stack([first, second])
    return pairs[:, first != second] if ordered else pairs


def closed(triplets: Tensor, edge_vectors: Tensor, reach: Tensor) -> Tensor:
    """Which triplets have their two neighbours within `reach` of each other; (n_triplets,).

    With `reach` the longest edge of complete neighbour lists this is exact: two neighbours
    farther apart than any edge are farther apart than the lists' cutoff, skin included.
    """
    first, second = edge_vectors[triplets[0]], edge_vectors[triplets[1]]
    # A relative margin, since the third side is rounded otherwise than the edge it equals.
    return (second - first).square().sum(dim=1) <= reach.square() * (1 + 1e-12)


def reverse_edges(center: Tensor, neighbor: Tensor, cell_shifts: Tensor, n_atoms: int) -> Tensor:
    """Index of the edge (j, i, -S) for every edge (i, j, S); (n_edges,).

    Args:
        center, neighbor, cell_shifts: sorted by (center, neighbor, shift).
        n_atoms: of the batch.

    Raises:
        ConfigError: an edge has no reverse, as when `max_neighbors` has cut it away.
    """
    reverse, found = _find_reverse(center, neighbor, cell_shifts, n_atoms)
    if not found.all():
        raise ConfigError(
            f"{int((~found).sum())} edges have no reverse edge; a model that needs reverse edges "
            "cannot use max_neighbors"
        )
    return reverse


def undirected_pairs(
    center: Tensor, neighbor: Tensor, cell_shifts: Tensor, n_atoms: int
) -> tuple[Tensor, Tensor]:
    """Group every edge with its reverse, where it has one.

    Args:
        center, neighbor, cell_shifts: sorted by (center, neighbor, shift).
        n_atoms: of the batch.

    Returns:
        One edge of each pair, (n_pairs,), and the pair of each edge, (n_edges,).
    """
    reverse, found = _find_reverse(center, neighbor, cell_shifts, n_atoms)
    edges = torch.arange(center.numel(), device=center.device)
    first = torch.where(found, torch.minimum(edges, reverse), edges)
    is_first = first == edges
    rank = torch.cumsum(is_first, 0) - 1
    return edges[is_first], rank[first]


def edge_slots(edge_ptr: Tensor, center: Tensor) -> Tensor:
    """Edges of every atom side by side, as many columns as the atom with the most edges has.

    Args:
        edge_ptr: first edge of each atom, (n_atoms + 1,).
        center: (n_edges,), sorted.

    Returns:
        Index of each edge, one past the last in empty slots; (n_atoms, max_edges).
    """
    n_atoms, n_edges = edge_ptr.shape[0] - 1, center.shape[0]
    width = int(edge_ptr.diff().max()) if n_edges else 0
    slots = torch.full((n_atoms, width), n_edges, device=center.device)
    edges = torch.arange(n_edges, device=center.device)
    slots[center, edges - edge_ptr[center]] = edges
    return slots


def _find_reverse(
    center: Tensor, neighbor: Tensor, cell_shifts: Tensor, n_atoms: int
) -> tuple[Tensor, Tensor]:
    """Position of (j, i, -S) among the sorted edges, and whether it is there."""
    shifts = cell_shifts.long()
    span = int(shifts.abs().max()) + 1 if shifts.numel() else 1
    forward, backward = center * n_atoms + neighbor, neighbor * n_atoms + center
    for axis in range(3):
        forward = forward * (2 * span + 1) + (span + shifts[:, axis])
        backward = backward * (2 * span + 1) + (span - shifts[:, axis])
    position = torch.searchsorted(forward, backward).clamp(max=max(len(forward) - 1, 0))
    return position, forward[position] == backward


def nearest(center: Tensor, edge_vectors: Tensor, max_neighbors: int) -> Tensor:
    """Which edges lead to the `max_neighbors` nearest neighbours of their center; (n_edges,)."""
    by_length = torch.argsort(edge_vectors.square().sum(dim=1), stable=True)
    order = by_length[torch.argsort(center[by_length], stable=True)]
    first = torch.searchsorted(center, center)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=center.device) - first[order]
    return rank < max_neighbors
