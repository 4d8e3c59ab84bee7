"""Tensor product of neighbour features with edge harmonics, summed over neighbours.

    A_i^{p}[m3, k] = sum_j R^{p}[ij, k] sum_{m1 m2} C^{l1 l2 l3}_{m1 m2 m3} h_j[m1, k] Y[ij, m2]

for every coupling p = (l1, l2, l3). Harmonics are contracted with the coupling coefficients first
(no channels yet); the sum over m1 *and* over neighbours is then one matrix product per coupling
and block of edges, so that no array of edges x couplings x components x channels exists, which is
where the time of the textbook order goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from siliforce.graph import Graph
from siliforce.nn.o3.exact import ExactModule
from siliforce.nn.o3.fused import BLOCK, NeighborSum, Path, Plan, plain_sum
from siliforce.nn.o3.irreps import Irrep, natural_irreps
from siliforce.nn.o3.wigner import wigner_3j


def coupling_paths(
    inputs: Sequence[Irrep], l_edge: int, outputs: Sequence[Irrep]
) -> tuple[Path, ...]:
    """All couplings that conserve parity, sorted by output, then input, then l2.

    Args:
        inputs, outputs: the features' irreps, in the order of their components.
        l_edge: degree of the harmonics, which have natural parity.
    """
    starts = [sum(irrep.dim for irrep in inputs[:k]) for k in range(len(inputs))]
    return tuple(
        Path(a.degree, l2, b.degree, start, target)
        for target, b in enumerate(outputs)
        for start, a in zip(starts, inputs, strict=True)
        for l2 in a.harmonics_to(b, l_edge)
    )


def natural_paths(l_in: int, l_edge: int, l_out: int) -> tuple[Path, ...]:
    """`coupling_paths` where degree l always has parity (-1)^l: those of even l1 + l2 + l3."""
    return coupling_paths(natural_irreps(l_in), l_edge, natural_irreps(l_out))


@dataclass(frozen=True)
class EdgeBlocks:
    """Edges dealt into blocks of one size, each block owned by one atom, the last ones not full.

    Where counting them would mean waiting for the device, or a compiler would see a size that
    depends on data, the number of blocks is an upper bound that depends on shapes alone.

    Attributes:
        slot: where each edge goes, (n_edges,).
        atom: owner of each block, (n_blocks,).
        neighbor: of each slot, (n_slots,); atom 0 in unused ones.
        pair: undirected pair of each slot, (n_slots,); one past the last in unused ones.
        size: slots of a block.
    """

    slot: Tensor
    atom: Tensor
    neighbor: Tensor
    pair: Tensor
    size: int = BLOCK

    @classmethod
    def build(cls, graph: Graph, size: int = BLOCK) -> EdgeBlocks:
        """Deal the edges of every atom, `size` to a block; needs `Topology(pairs=True)`."""
        assert graph.pair_edges is not None
        assert graph.edge_pairs is not None
        ptr, n_atoms, n_edges = graph.edge_ptr, graph.species.shape[0], graph.n_edges
        blocks_end = ((ptr.diff() + size - 1) // size).cumsum(0)
        exact = ptr.device.type == "cpu" and not torch.compiler.is_compiling()
        n_blocks = int(blocks_end[-1]) if exact else n_edges // size + n_atoms
        rank = torch.arange(n_edges, device=ptr.device) - ptr[graph.center]
        first = torch.cat([ptr.new_zeros(1), blocks_end])[graph.center]
        slot = first * size + rank
        index = torch.arange(n_blocks, device=ptr.device)
        atom = torch.searchsorted(blocks_end, index, right=True).clamp(max=n_atoms - 1)
        neighbor = ptr.new_zeros(n_blocks * size).index_copy(0, slot, graph.neighbor)
        unused = torch.full_like(neighbor, graph.pair_edges.shape[0])
        return cls(slot, atom, neighbor, unused.index_copy(0, slot, graph.edge_pairs), size)

    def deal(self, values: Tensor) -> Tensor:
        """(n_edges, n) -> (n_slots, n), zeros in unused slots."""
        slots = values.new_zeros(self.neighbor.shape[0], values.shape[1])
        return slots.index_copy(0, self.slot, values)

    def deal_pairs(self, values: Tensor) -> Tensor:
        """(n_pairs, n) -> (n_slots, n), zeros in unused slots."""
        zero = values.new_zeros(1, values.shape[1])
        return torch.cat([values, zero]).index_select(0, self.pair)


class Convolution(ExactModule):
    """The sum at the head of this file, for a fixed set of couplings.

    Attributes:
        paths: the couplings, sorted by output.
    """

    _coupling: Tensor

    def __init__(self, paths: tuple[Path, ...], l_edge: int) -> None:
        super().__init__()
        self.paths = paths
        self.n_outputs = 1 + max(p.target for p in paths)
        columns = []
        for p in paths:
            # Unit variance of each output component for inputs of unit variance.
            coupling = wigner_3j(p.l1, p.l2, p.l3) * (2 * p.l3 + 1) ** 0.5
            rows = coupling.new_zeros((l_edge + 1) ** 2, (2 * p.l1 + 1) * (2 * p.l3 + 1))
            rows[p.l2**2 : (p.l2 + 1) ** 2] = coupling.permute(1, 2, 0).flatten(1)
            columns.append(rows)
        self.register_constant("_coupling", torch.cat(columns, dim=1).t())

    @property
    def paths_per_output(self) -> list[int]:
        """Number of couplings to each output."""
        return [sum(p.target == k for p in self.paths) for k in range(self.n_outputs)]

    def forward(
        self, features: Tensor, weights: Tensor, harmonics: Tensor, blocks: EdgeBlocks
    ) -> list[Tensor]:
        """Sum over neighbours.

        Args:
            features: of the atoms, (n_atoms, n_components, n_channels).
            weights: R in slots, zero in unused ones, (n_slots, n_paths * n_channels).
            harmonics: Y in slots, (n_slots, (l_edge + 1)²).
            blocks: the edges.

        Returns:
            Per output, (n_atoms, 2 l3 + 1, n_paths_to_it * n_channels).
        """
        plan = Plan(self.paths, blocks.neighbor, blocks.atom)
        # A compiler differentiates and fuses the plain form by itself.
        neighbor_sum = plain_sum if torch.compiler.is_compiling() else NeighborSum.apply
        flat = neighbor_sum(weights, features, self._coupling @ harmonics.t(), plan)
        n_atoms, _, n_channels = features.shape
        pieces = flat.split([(2 * p.l3 + 1) * n_channels for p in self.paths], dim=1)
        out: list[list[Tensor]] = [[] for _ in range(self.n_outputs)]
        for p, piece in zip(self.paths, pieces, strict=True):
            out[p.target].append(piece.view(n_atoms, 2 * p.l3 + 1, n_channels))
        return [torch.cat(group, dim=2) for group in out]
