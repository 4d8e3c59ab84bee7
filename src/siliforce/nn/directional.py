"""Sums over triplets without triplets: edges of one atom, weighted by the angle between them.

    B_a = sum_{b ≠ a} sum_l (2 l + 1) P_l(u_a · u_b) R_l(r_b) m_b,    R_l = sum_n f_ln(r) W_ln

runs over all edges b of the atom of edge a; R and m have channels. By the addition theorem of
spherical harmonics

    (2 l + 1) P_l(u_a · u_b) = sum_m Y_lm(u_a) Y_lm(u_b),

so that it is, exactly, a density of the atom read by each of its edges, less the edge's own part
(`P_l(1) = 1`):

    D_lmn = sum_b Y_lm(u_b) f_ln(r_b) m_b,    A_lm = sum_n W_ln D_lmn,
    B_a = sum_lm Y_lm(u_a) A_lm - sum_l (2 l + 1) R_l(r_a) m_a.

The cost grows with the number of edges, not with that of pairs of edges; both sums are matrix
products, and nothing with channels is as large as edges times l or m.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from siliforce.graph import Graph
from siliforce.nn.o3.convolution import EdgeBlocks

SIZES = (32, 48, 64, 96, 128)
"""Edges of one atom that may be summed in one matrix product."""


def block_size(graph: Graph) -> int:
    """The largest of `SIZES` that leaves hardly more slots unused than the smallest.

    A large block writes its sums once for many edges. Where counting means waiting for the
    device, or a compiler would see a size that depends on data, the smallest.
    """
    if graph.edge_ptr.device.type != "cpu" or torch.compiler.is_compiling():
        return SIZES[0]
    count = graph.edge_ptr.diff()
    slots = {size: int(((count + size - 1) // size).sum()) * size for size in SIZES}
    return max(size for size in SIZES if slots[size] <= 1.05 * slots[SIZES[0]])


@dataclass(frozen=True)
class Directions:
    """What the sums of all layers share. Rows are slots of `blocks`.

    Attributes:
        blocks: the edges.
        n_atoms: that they belong to.
        harmonics: Y, (n_slots, (l_max + 1)²).
        radial: f, (n_slots, l_max + 1, n_radial).
        waves: Y f, (n_slots, (l_max + 1)² * n_radial).
        degree: l of each harmonic, ((l_max + 1)²,).
    """

    blocks: EdgeBlocks
    n_atoms: int
    harmonics: Tensor
    radial: Tensor
    waves: Tensor
    degree: Tensor

    @classmethod
    def build(cls, harmonics: Tensor, radial: Tensor, graph: Graph) -> Directions:
        """Deal harmonics of the edges and radial functions of the pairs into blocks.

        Args:
            harmonics: (n_edges, (l_max + 1)²), mean square 1 over the sphere.
            radial: (n_pairs, l_max + 1, n_radial).
            graph: with `Topology(pairs=True)`.
        """
        blocks = EdgeBlocks.build(graph, block_size(graph))
        y = blocks.deal(harmonics)
        f = blocks.deal_pairs(radial.flatten(1)).unflatten(1, radial.shape[1:])
        sizes = [2 * degree + 1 for degree in range(radial.shape[1])]
        products = [
            (y_l[:, :, None] * f_l[:, None, :]).flatten(1)
            for y_l, f_l in zip(y.split(sizes, dim=1), f.unbind(1), strict=True)
        ]
        degree = [degree for degree, size in enumerate(sizes) for _ in range(size)]
        index = torch.tensor(degree, device=y.device)
        return cls(blocks, graph.species.shape[0], y, f, torch.cat(products, dim=1), index)

    def sum(self, messages: Tensor, weight: Tensor) -> Tensor:
        """`B` of the text above.

        Args:
            messages: m, (n_edges, n_channels).
            weight: W, (l_max + 1, n_radial, n_channels).

        Returns:
            In slots, (n_slots, n_channels); edge e is in row `blocks.slot[e]`.
        """
        m = self.blocks.deal(messages)
        atom, n_channels = self.blocks.atom, m.shape[1]
        of_blocks = self._blocked(self.waves).transpose(1, 2) @ self._blocked(m)
        of_blocks = of_blocks.unflatten(1, (-1, weight.shape[1]))
        of_blocks = (of_blocks * weight.index_select(0, self.degree)).sum(2)
        density = of_blocks.new_zeros(self.n_atoms, *of_blocks.shape[1:])
        density = density.index_add(0, atom, of_blocks)
        read = self._blocked(self.harmonics) @ density.index_select(0, atom)
        factor = 2 * torch.arange(weight.shape[0], device=m.device) + 1
        own = self.radial.flatten(1) @ (weight * factor[:, None, None]).flatten(0, 1)
        return read.view(-1, n_channels) - own * m

    def _blocked(self, slots: Tensor) -> Tensor:
        return slots.view(-1, self.blocks.size, slots.shape[1])
