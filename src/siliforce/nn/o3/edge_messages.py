"""From atoms to edge frames and back, for messages that keep the lowest orders only."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from siliforce.graph import Graph
from siliforce.nn.segments import Segments

BLOCK = 8
"""Edges of one atom that share a matrix product."""


@dataclass(frozen=True)
class EdgeMessages:
    """Where messages of one resolution come from and go to, and the rotations on the way.

    In the frame of its edge a function on the sphere has coefficients f_0, f_-, f_+ of order
    m = 0, -1, +1. A turn about the edge by φ leaves f_0 and mixes the others, so that every linear
    map of all of them is `A + cos φ P + sin φ Q`. Edges are dealt into blocks of one target atom,
    and once more into blocks of one source atom.

    Attributes:
        targets, sources: the two ways of dealing.
        edge: of each target slot, (n_slots,); one past the last in unused ones.
        source_slot: slot among the sources of each target slot, (n_slots,).
        from_targets, from_sources: (A, P, Q) in terms of products of the atom's coefficients with
            weights for m = 0, -1, +1, (n_blocks, block * 3, n_components * 3).
        leave: for m = 0, -1, +1 from rows (l = 0 .., l = 1 .., l = 1 ..) in the edge's frame to
            components, times the message's weight, (n_blocks, block * n_rows, n_components).
    """

    targets: Segments
    sources: Segments
    edge: Tensor
    source_slot: Tensor
    from_targets: Tensor
    from_sources: Tensor
    leave: tuple[Tensor, ...]

    @classmethod
    def build(cls, graph: Graph, rows: Tensor, weight: Tensor, l_max: int) -> EdgeMessages:
        """Deal the edges whose weight is not zero.

        Args:
            graph: the edges.
            rows: of Wigner matrices, (n_edges, 3, at least (l_max + 1)²).
            weight: of the messages, (n_edges,).
            l_max: degree of the messages.
        """
        rows, n_atoms = rows[:, :, : (l_max + 1) ** 2], graph.species.shape[0]
        edges = torch.arange(graph.n_edges, device=weight.device)
        # A compiler wants sizes that do not depend on data: there all edges are computed.
        if not torch.compiler.is_compiling():
            edges = weight.detach().nonzero().squeeze(1)
            rows, weight = rows[edges], weight[edges]
        targets = Segments.build(graph.center[edges], n_atoms, BLOCK)
        sources = Segments.build(graph.neighbor[edges], n_atoms, BLOCK)
        zero, minus, plus = rows.unbind(1)
        none = torch.zeros_like(zero)
        products = (zero, none, none, none, minus, plus, none, -plus, minus)
        enter = torch.stack(products, dim=2).unflatten(2, (3, 3)).transpose(1, 2).flatten(2)
        leave = [
            targets.deal(row[:, None] * weight[:, None, None] * degree_mask(l_max, first, row))
            for row, first in ((zero, 0), (minus, 1), (plus, 1))
        ]
        return cls(
            targets,
            sources,
            edge=torch.cat([edges, edges.new_full((1,), graph.n_edges)])[targets.row],
            source_slot=torch.cat([sources.slot, edges.new_zeros(1)])[targets.row],
            from_targets=targets.deal(enter),
            from_sources=sources.deal(enter),
            leave=tuple(leave),
        )


def degree_mask(l_max: int, first: int, like: Tensor) -> Tensor:
    """Which components have degree `first ..  l_max`, (l_max + 1 - first, (l_max + 1)²)."""
    degrees = torch.arange(l_max + 1, device=like.device)
    of_component = degrees.repeat_interleave(2 * degrees + 1)
    return (degrees[first:, None] == of_component).to(like.dtype)
