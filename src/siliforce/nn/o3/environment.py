"""Tensor product of edge features with the environment of the atom they belong to.

    V'[e, k, u] = sum_p w[p, u] sum_ij C^p_ijk V[e, i, u] G_c(e)[j, u]

for every coupling p. The environment G is the same for all edges of an atom: contracted with the
couplings first it is one small matrix per atom and channel, and the product is a matrix product
over the edges of a block.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from siliforce.nn.o3.convolution import EdgeBlocks, coupling_paths
from siliforce.nn.o3.exact import ExactModule
from siliforce.nn.o3.fused import BLOCK
from siliforce.nn.o3.irreps import Irrep
from siliforce.nn.o3.wigner import wigner_3j


def environment(weights: Tensor, harmonics: Tensor, blocks: EdgeBlocks, n_atoms: int) -> Tensor:
    """Weighted harmonics of all edges of an atom, summed.

    Args:
        weights: in slots, zero in unused ones, (n_slots, l_max + 1, n_channels).
        harmonics: in slots, (n_slots, (l_max + 1)²).
        blocks: the edges.
        n_atoms: how many.

    Returns:
        (n_atoms, (l_max + 1)², n_channels).
    """
    w = weights.unflatten(0, (-1, BLOCK))
    y = harmonics.unflatten(0, (-1, BLOCK)).transpose(1, 2)
    sums = torch.cat(
        [y[:, d * d : (d + 1) ** 2] @ w[:, :, d] for d in range(weights.shape[1])], dim=1
    )
    return sums.new_zeros(n_atoms, *sums.shape[1:]).index_add(0, blocks.atom, sums)


class EnvironmentProduct(ExactModule):
    """The product at the head of this file.

    Attributes:
        weights: (n_paths, n_channels).
    """

    _couplings: Tensor

    def __init__(
        self, inputs: Sequence[Irrep], l_edge: int, outputs: Sequence[Irrep], n_channels: int
    ) -> None:
        super().__init__()
        self.paths = coupling_paths(inputs, l_edge, outputs)
        self.weights = nn.Parameter(torch.randn(len(self.paths), n_channels))
        dims = [irrep.dim for irrep in outputs]
        self.dim_in, self.dim_out = sum(irrep.dim for irrep in inputs), sum(dims)
        shape = (len(self.paths), (l_edge + 1) ** 2, self.dim_in, self.dim_out)
        table = torch.zeros(shape, dtype=torch.float64)
        for k, p in enumerate(self.paths):
            start = sum(dims[: p.target])
            # Unit variance of each output component for inputs of unit variance.
            coupling = wigner_3j(p.l1, p.l2, p.l3) * (2 * p.l3 + 1) ** 0.5
            edge, out = slice(p.l2**2, (p.l2 + 1) ** 2), slice(start, start + 2 * p.l3 + 1)
            table[k, edge, p.components, out] = coupling.transpose(0, 1)
        self.register_constant("_couplings", table.flatten(1))

    def forward(self, features: Tensor, surroundings: Tensor, blocks: EdgeBlocks) -> Tensor:
        """Multiply.

        Args:
            features: V of the blocks, (n_blocks, n_channels, BLOCK, dim_in).
            surroundings: G of the atoms, (n_atoms, (l_edge + 1)², n_channels).
            blocks: the edges.

        Returns:
            V' of the blocks, (n_blocks, n_channels, BLOCK, dim_out).
        """
        table = (self.weights.t() @ self._couplings).unflatten(1, (surroundings.shape[1], -1))
        matrices = (surroundings.permute(2, 0, 1) @ table).transpose(0, 1)
        matrices = matrices.unflatten(2, (self.dim_in, self.dim_out))
        return features @ matrices.index_select(0, blocks.atom)
