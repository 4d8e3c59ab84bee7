"""Directional sums against explicit triplets."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from siliforce.graph import Graph, System, Topology, collate
from siliforce.nn import directional
from siliforce.nn.directional import Directions, block_size
from siliforce.nn.o3 import SphericalHarmonics
from tests.structures import CUTOFF, STRUCTURES

L_MAX, N_RADIAL, N_CHANNELS = 6, 3, 5
DOUBLE = torch.float64


def graph_of(*names: str) -> Graph:
    systems = []
    for name in names:
        a = STRUCTURES[name]()
        systems.append(System.build(a.numbers, a.positions, a.cell.array, a.pbc, CUTOFF))
    return collate(systems, Topology(triplets="ordered", pairs=True), DOUBLE)


def inputs(graph: Graph) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Edge vectors, radial functions of pairs, messages of edges, weights; to be derived."""
    torch.manual_seed(0)
    assert graph.pair_edges is not None
    n_pairs = graph.pair_edges.shape[0]
    values = (
        graph.edge_vectors,
        torch.randn(n_pairs, L_MAX + 1, N_RADIAL, dtype=DOUBLE),
        torch.randn(graph.n_edges, N_CHANNELS, dtype=DOUBLE),
        torch.randn(L_MAX + 1, N_RADIAL, N_CHANNELS, dtype=DOUBLE),
    )
    return tuple(v.requires_grad_() for v in values)  # type: ignore[return-value]


def by_density(graph: Graph, vectors: Tensor, radial: Tensor, m: Tensor, w: Tensor) -> Tensor:
    harmonics = SphericalHarmonics(L_MAX).to(DOUBLE)(torch.nn.functional.normalize(vectors, dim=1))
    directions = Directions.build(harmonics, radial, graph)
    return directions.sum(m, w).index_select(0, directions.blocks.slot)


def legendre(cosine: Tensor) -> Tensor:
    """`P_0 .. P_L_MAX` by their recurrence."""
    values = [torch.ones_like(cosine), cosine]
    for n in range(1, L_MAX):
        values.append(((2 * n + 1) * cosine * values[n] - n * values[n - 1]) / (n + 1))
    return torch.stack(values, dim=-1)


def by_triplets(graph: Graph, vectors: Tensor, radial: Tensor, m: Tensor, w: Tensor) -> Tensor:
    assert graph.triplets is not None
    assert graph.edge_pairs is not None
    first, second = graph.triplets
    units = torch.nn.functional.normalize(vectors, dim=1)
    angular = legendre((units[first] * units[second]).sum(1))
    angular = angular * (2 * torch.arange(L_MAX + 1) + 1)
    waves = torch.einsum("tl,tln,lnc->tc", angular, radial[graph.edge_pairs[second]], w)
    return torch.zeros_like(m).index_add(0, first, waves * m[second])


@pytest.mark.parametrize("size", directional.SIZES)
def test_equals_the_sum_over_triplets(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directional, "block_size", lambda graph: size)
    graph = graph_of("crystal", "isolated", "self_images", "cluster", "collinear")
    values = inputs(graph)
    ours, expected = by_density(graph, *values), by_triplets(graph, *values)
    assert expected.abs().max() > 10
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-11)


def test_two_derivatives_equal_those_of_the_sum_over_triplets() -> None:
    graph = graph_of("amorphous", "collinear")
    values = inputs(graph)
    results = []
    for function in (by_density, by_triplets):
        gradients = torch.autograd.grad(
            function(graph, *values).sin().sum(), values, create_graph=True
        )
        second = torch.autograd.grad(sum(g.square().sum() for g in gradients), values)
        results.append((*gradients, *second))
    for ours, expected in zip(*results, strict=True):
        scale = expected.abs().max()
        assert (ours - expected).abs().max() < 1e-11 * scale


def test_blocks_are_as_large_as_the_neighbourhoods_allow() -> None:
    assert block_size(graph_of("isolated")) == max(directional.SIZES)
    graph = graph_of("crystal", "isolated", "self_images", "cluster", "collinear")
    size = block_size(graph)
    count = graph.edge_ptr.diff()
    used = int(((count + size - 1) // size).sum()) * size
    assert used <= 1.05 * int(((count + 31) // 32).sum()) * 32
