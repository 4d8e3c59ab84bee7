"""Gather from neighbours, sum over edges: the only places where atoms see each other."""

from __future__ import annotations

from torch import Tensor

from siliforce.graph import Graph


def gather_neighbors(features: Tensor, graph: Graph) -> Tensor:
    """Features of each edge's neighbor, (n_edges, ...).

    Every model reads its neighbours through this function: the seam at which a parallel code
    exchanges ghost atoms.
    """
    return features.index_select(0, graph.neighbor)


def sum_over_neighbors(messages: Tensor, graph: Graph) -> Tensor:
    """Sum of the messages of each atom's edges, (n_atoms, ...)."""
    n_atoms = graph.species.shape[0]
    return messages.new_zeros(n_atoms, *messages.shape[1:]).index_add(0, graph.center, messages)
