"""Sums over the angles at an atom, at the cost of its edges and not of its pairs of edges.

By the addition theorem a Legendre polynomial of the angle between two edges is a sum of products
of functions of one edge each, `P_l(cos θ_ab) = Σ_m Y_lm(a) Y_lm(b) / (2 l + 1)` for harmonics of
mean square 1, so that the sum over all edges b of an atom is done once for all edges a.
"""

from __future__ import annotations

import torch
from torch import Tensor

from siliforce.nn.o3 import EdgeBlocks
from siliforce.nn.o3.fused import BLOCK


def legendre_sums(features: Tensor, harmonics: Tensor, blocks: EdgeBlocks, n_atoms: int) -> Tensor:
    """`Σ_{b ≠ a} P_l(cos θ_ab) x_b` over the other edges b of the atom that edge a belongs to.

    Exact: no triplets are listed, and the edge itself, whose P_l is 1, is taken off at the end.

    Args:
        features: x, (n_edges, n_channels).
        harmonics: of the edges' directions, (n_edges, (l_max + 1)²), mean square 1.
        blocks: the edges.
        n_atoms: length of the species.

    Returns:
        (n_edges, n_channels, l_max + 1).
    """
    n_channels, dim = features.shape[1], harmonics.shape[1]
    y = blocks.deal(harmonics).view(-1, BLOCK, dim)
    x = blocks.deal(features).view(-1, BLOCK, n_channels)
    density = features.new_zeros(n_atoms, dim, n_channels)
    density = density.index_add(0, blocks.atom, y.transpose(1, 2) @ x).index_select(0, blocks.atom)
    sums = []
    for degree in range(round(dim**0.5)):
        rows = slice(degree**2, (degree + 1) ** 2)
        sums.append((y[:, :, rows] / (2 * degree + 1)) @ density[:, rows])
    every = torch.stack(sums, dim=3).flatten(0, 1).index_select(0, blocks.slot)
    return every - features[:, :, None]
