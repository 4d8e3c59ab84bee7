"""What a model needs of the graph beyond edges: triplets and reverse edges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class Topology:
    """Declared by each model as `needs`; the collater makes it.

    Attributes:
        triplets: pairs of edges that share their center, `ordered` (each pair twice) or
            `unordered` (once). An edge is never paired with itself; two images of one atom are
            two edges, so such a pair counts.
        reverse_edges: for every edge the edge that runs the other way.
        max_neighbors: keep only so many nearest neighbours per atom. For comparison with the
            2023 benchmark alone: it makes the energy discontinuous.
    """

    triplets: Literal["ordered", "unordered"] | None = None
    reverse_edges: bool = False
    max_neighbors: int | None = None


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


def reverse_edges(center: Tensor, neighbor: Tensor, cell_shifts: Tensor, n_atoms: int) -> Tensor:
    """Index of the edge (j, i, -S) for every edge (i, j, S); (n_edges,).

    Edges must be sorted by (center, neighbor, shift): then sorting the reversed edges the same
    way yields the permutation.
    """
    shifts = cell_shifts.round().long()
    span = int(shifts.abs().max()) + 1 if shifts.numel() else 1
    key = neighbor * n_atoms + center
    for axis in range(3):
        key = key * (2 * span + 1) + (span - shifts[:, axis])
    return torch.argsort(key, stable=True)
