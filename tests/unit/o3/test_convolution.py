"""The fused neighbour sum against its definition, and its derivatives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from e3nn import o3

from siliforce.graph import Graph, System, Topology, collate
from siliforce.nn.o3 import Convolution, EdgeBlocks, natural_paths, wigner_3j
from siliforce.nn.o3 import fused as fused_module
from siliforce.nn.o3.fused import BLOCK, NeighborSum, Plan, plain_sum

N_CHANNELS = 3


def graph(n_atoms: int = 12, cutoff: float = 3.0) -> Graph:
    """Atoms with very different numbers of neighbours, one of them without any."""
    rng = np.random.default_rng(1)
    positions = rng.normal(scale=1.1, size=(n_atoms, 3))
    positions[-1] = 50.0
    system = System.build(
        np.full(n_atoms, 14), positions, np.zeros((3, 3)), np.zeros(3, bool), cutoff
    )
    return collate([system], Topology(pairs=True), torch.float64)


def test_paths_are_those_of_natural_parity() -> None:
    paths = natural_paths(2, 3, 3)
    assert len(paths) == 17
    assert all((p.l1 + p.l2 + p.l3) % 2 == 0 for p in paths)
    assert [p.l3 for p in paths] == sorted(p.l3 for p in paths)


def test_equals_the_definition() -> None:
    """Loop over edges, couplings and components; e3nn's harmonics."""
    g, l_in, l_edge = graph(), 1, 2
    paths = natural_paths(l_in, l_edge, 2)
    generator = torch.Generator().manual_seed(2)
    h = torch.randn(12, 4, N_CHANNELS, dtype=torch.float64, generator=generator)
    r = torch.randn(g.n_edges, len(paths), N_CHANNELS, dtype=torch.float64, generator=generator)
    y = o3.spherical_harmonics(list(range(l_edge + 1)), g.edge_vectors, True, "component")
    expected = [torch.zeros(12, 2 * p.l3 + 1, N_CHANNELS, dtype=torch.float64) for p in paths]
    for e in range(g.n_edges):
        for k, p in enumerate(paths):
            expected[k][g.center[e]] += (2 * p.l3 + 1) ** 0.5 * torch.einsum(
                "abc,ak,b,k->ck",
                wigner_3j(p.l1, p.l2, p.l3),
                h[g.neighbor[e], p.l1**2 : (p.l1 + 1) ** 2],
                y[e, p.l2**2 : (p.l2 + 1) ** 2],
                r[e, k],
            )
    blocks = EdgeBlocks.build(g)
    convolution = Convolution(paths, l_edge).double()
    sums = convolution(h, blocks.deal(r.flatten(1)), blocks.deal(y), blocks)
    for degree, found in enumerate(sums):
        wanted = [x for p, x in zip(paths, expected, strict=True) if p.l3 == degree]
        torch.testing.assert_close(found, torch.cat(wanted, dim=2), rtol=0, atol=1e-12)


def test_blocks_hold_every_edge_once() -> None:
    g = graph()
    blocks = EdgeBlocks.build(g)
    assert g.n_edges > 2 * BLOCK
    assert blocks.slot.unique().numel() == g.n_edges
    assert torch.equal(blocks.atom[blocks.slot // BLOCK], g.center)
    assert torch.equal(blocks.neighbor[blocks.slot], g.neighbor)
    assert torch.equal(blocks.pair[blocks.slot], g.edge_pairs)
    pairs = torch.arange(1.0, g.pair_edges.numel() + 1)[:, None]
    dealt = blocks.deal_pairs(pairs)[:, 0]
    assert (dealt[blocks.slot] == 1 + g.edge_pairs).all()
    assert dealt.count_nonzero() == g.n_edges


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a few atoms need several pieces."""
    monkeypatch.setattr(fused_module, "PIECE", 1)


def test_derivatives_of_the_fused_sum(small_pieces: None) -> None:
    """The hand-written first and second derivatives against those of the plain form."""
    paths = natural_paths(1, 2, 2)
    plan = Plan(paths, torch.randint(0, 4, (4 * BLOCK,)), torch.tensor([0, 0, 1, 3]))
    assert len(list(plan.pieces(N_CHANNELS))) == 4
    n_coupled = sum((2 * p.l1 + 1) * (2 * p.l3 + 1) for p in paths)
    shapes = ((4 * BLOCK, len(paths) * N_CHANNELS), (4, 4, N_CHANNELS), (n_coupled, 4 * BLOCK))
    inputs = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes]
    results = []
    for function in (NeighborSum.apply, plain_sum):
        out = function(*inputs, plan)
        first = torch.autograd.grad(out.square().sum(), inputs, create_graph=True)
        loss = sum((g.sin() * (k + 1)).sum() for k, g in enumerate(first))
        results.append((out, *first, *torch.autograd.grad(loss, inputs)))
    for fused, plain in zip(*results, strict=True):
        torch.testing.assert_close(fused, plain, rtol=1e-10, atol=1e-10)


def test_no_edges() -> None:
    lonely = graph(n_atoms=1)
    assert lonely.n_edges == 0
    blocks = EdgeBlocks.build(lonely)
    paths = natural_paths(0, 2, 2)
    features = torch.ones(1, 1, N_CHANNELS, dtype=torch.float64, requires_grad=True)
    empty = torch.zeros(0, 1, dtype=torch.float64)
    weights = blocks.deal(empty.expand(0, len(paths) * N_CHANNELS))
    out = Convolution(paths, 2).double()(features, weights, blocks.deal(empty.expand(0, 9)), blocks)
    assert all(torch.equal(x, torch.zeros_like(x)) for x in out)
    (gradient,) = torch.autograd.grad(out[0].sum(), features)
    assert torch.equal(gradient, torch.zeros_like(gradient))
