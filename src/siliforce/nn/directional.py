"""Sums over triplets without triplets: edges of one atom, weighted by the angle between them.

    B_a = sum_{b ≠ a} sum_l (2 l + 1) P_l(u_a · u_b) X_l,b

runs over all edges b of the atom of edge a. By the addition theorem of spherical harmonics

    (2 l + 1) P_l(u_a · u_b) = sum_m Y_lm(u_a) Y_lm(u_b),

so that it is, exactly, a density of the atom read by each of its edges, less the edge's own part
(`P_l(1) = 1`):

    A_lm = sum_b Y_lm(u_b) X_l,b        B_a = sum_lm Y_lm(u_a) A_lm - sum_l (2 l + 1) X_l,a.

The cost grows with the number of edges, not with that of pairs of edges.
"""

from __future__ import annotations

import torch
from torch import Tensor

from siliforce.nn.o3.convolution import EdgeBlocks
from siliforce.nn.o3.fused import BLOCK


def directional_sum(
    radial: Tensor,
    weight: Tensor,
    messages: Tensor,
    harmonics: Tensor,
    blocks: EdgeBlocks,
    n_atoms: int,
) -> Tensor:
    """`B` of the text above with `X_l = (radial_l @ weight_l) * messages`.

    Args:
        radial: functions of the length in slots, (n_slots, l_max + 1, n_radial).
        weight: (l_max + 1, n_radial, n_channels).
        messages: in slots, zero in unused ones, (n_slots, n_channels).
        harmonics: Y in slots, (n_slots, (l_max + 1)²).
        blocks: the edges.
        n_atoms: that the blocks belong to.

    Returns:
        In slots, (n_slots, n_channels).
    """
    l_max = weight.shape[0] - 1
    n_channels = messages.shape[1]
    y = harmonics.view(-1, BLOCK, (l_max + 1) ** 2)
    density, own = [], torch.zeros_like(messages)
    for degree in range(l_max + 1):
        x = (radial[:, degree] @ weight[degree]) * messages
        own = own + (2 * degree + 1) * x
        y_l = y[:, :, degree**2 : (degree + 1) ** 2]
        density.append(y_l.transpose(1, 2) @ x.view(-1, BLOCK, n_channels))
    of_blocks = torch.cat(density, dim=1)
    of_atoms = of_blocks.new_zeros(n_atoms, *of_blocks.shape[1:])
    of_atoms = of_atoms.index_add(0, blocks.atom, of_blocks)
    read = y @ of_atoms.index_select(0, blocks.atom)
    return read.view(-1, n_channels) - own
