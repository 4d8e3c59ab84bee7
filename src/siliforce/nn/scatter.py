"""Gather from neighbours, sum over edges: the only places where atoms see each other."""

from __future__ import annotations

from torch import Tensor

from siliforce.graph import Graph


def with_ghosts(features: Tensor, graph: Graph) -> Tensor:
    """Features of all atoms that `graph.neighbor` counts, ready to be gathered.

    The one seam at which a parallel code exchanges ghost atoms; one process has them all.
    """
    return features


def gather_neighbors(features: Tensor, graph: Graph) -> Tensor:
    """Features of each edge's neighbor, (n_edges, ...).

    Every model reads its neighbours through this function or `with_ghosts`.
    """
    return with_ghosts(features, graph).index_select(0, graph.neighbor)


def sum_over_neighbors(messages: Tensor, graph: Graph) -> Tensor:
    """Sum of the messages of each atom's edges, (n_atoms, ...)."""
    n_atoms = graph.species.shape[0]
    return messages.new_zeros(n_atoms, *messages.shape[1:]).index_add(0, graph.center, messages)
