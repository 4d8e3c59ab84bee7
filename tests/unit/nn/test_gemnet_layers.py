"""The layers GemNet is made of."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from siliforce.graph import Graph, System, Topology, collate
from siliforce.nn.angle_sum import legendre_sums
from siliforce.nn.o3 import EdgeBlocks, SphericalHarmonics
from siliforce.nn.scale_factor import ScaleFactor, fit_scale_factors
from siliforce.nn.silu import silu, skip_silu
from tests.structures import STRUCTURES

N_DEGREES = 7


def everything() -> Graph:
    """All structures in one batch, with their triplets listed."""
    systems = [
        System.build(a.numbers, a.positions, a.cell.array, a.pbc, 4.0)
        for a in (make() for make in STRUCTURES.values())
    ]
    return collate(systems, Topology(triplets="ordered", pairs=True), torch.float64)


def sum_over_triplets(features: Tensor, graph: Graph) -> Tensor:
    """Σ P_l(cos θ) x, one triplet after the other, Legendre polynomials by NumPy."""
    assert graph.triplets is not None
    first, second = graph.triplets
    directions = graph.edge_vectors / graph.edge_lengths[:, None]
    cosines = (directions[first] * directions[second]).sum(1)
    values = torch.from_numpy(
        np.stack([np.polynomial.Legendre.basis(k)(cosines.numpy()) for k in range(N_DEGREES)], 1)
    )
    out = features.new_zeros(graph.n_edges, features.shape[1], N_DEGREES)
    return out.index_add(0, first, features[second][:, :, None] * values[:, None, :])


def test_legendre_sums_are_sums_over_triplets() -> None:
    graph = everything()
    features = torch.randn(graph.n_edges, 3, dtype=torch.float64)
    harmonics = SphericalHarmonics(N_DEGREES - 1).double()
    directions = graph.edge_vectors / graph.edge_lengths[:, None]
    blocks = EdgeBlocks.build(graph)
    sums = legendre_sums(features, harmonics(directions), blocks, graph.n_atoms)
    expected = sum_over_triplets(features, graph)
    assert expected.abs().max() > 1
    torch.testing.assert_close(sums, expected, rtol=0, atol=1e-12 * float(expected.abs().max()))


def test_silu_is_differentiable_twice() -> None:
    x = torch.linspace(-30, 30, 41, dtype=torch.float64, requires_grad=True)
    skip = torch.randn(41, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(silu(x, 1.7), 1.7 * torch.nn.functional.silu(x))
    torch.testing.assert_close(
        skip_silu(skip, x, 1.7, 0.6), 0.6 * skip + 1.7 * torch.nn.functional.silu(x)
    )
    for function in (lambda x, _: silu(x, 1.7), lambda x, y: skip_silu(y, x, 1.7, 0.6)):
        assert torch.autograd.gradcheck(function, (x, skip))
        assert torch.autograd.gradgradcheck(function, (x, skip))


class TwoFactors(torch.nn.Module):
    """The second factor's input depends on the first factor."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = ScaleFactor(), ScaleFactor()

    def forward(self, graph: Graph) -> Tensor:
        x = graph.edge_vectors
        y = self.first(x**2, x)
        return self.second(torch.tanh(y), y)


def test_scale_factors_keep_the_variance() -> None:
    graph = everything()
    model = TwoFactors().double()
    fit_scale_factors(model, [graph])
    x = graph.edge_vectors
    y = model.first(x**2, x)
    assert abs(float(y.var(0).mean() / x.var(0).mean()) - 1) < 1e-12
    assert abs(float(model(graph).var(0).mean() / y.var(0).mean()) - 1) < 1e-12
    once = float(model.second.value)
    fit_scale_factors(model, [graph, graph])
    assert abs(float(model.second.value) / once - 1) < 1e-12


def test_scale_factor_stays_one_where_nothing_varies() -> None:
    empty = collate(
        [System.build(np.array([14]), np.zeros((1, 3)), np.zeros((3, 3)), np.zeros(3, bool), 4.0)],
        Topology(),
    )
    model = TwoFactors()
    fit_scale_factors(model, [empty])
    assert float(model.first.value) == float(model.second.value) == 1.0
