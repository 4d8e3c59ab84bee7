"""Features of both parities: which exist, how they couple, and the modules made for them."""

from __future__ import annotations

import torch
from e3nn import o3
from e3nn.nn import Gate as E3nnGate

from siliforce.nn.mlp import unit_gain
from siliforce.nn.o3 import (
    SCALAR,
    EdgeBlocks,
    EnvironmentProduct,
    Gate,
    Irrep,
    SphericalHarmonics,
    all_irreps,
    coupling_paths,
    environment,
    layers_of_irreps,
    natural_irreps,
)
from tests.unit.o3.test_convolution import N_CHANNELS, graph


def names(irreps: tuple[Irrep, ...]) -> list[str]:
    return [str(irrep) for irrep in irreps]


def test_couplings_are_those_of_e3nn() -> None:
    inputs = outputs = all_irreps(3)
    found = {
        (str(inputs[[2 * p.l1, 2 * p.l1 + 1][starts(inputs).index(p.source) % 2]]), p.l2,
         str(outputs[p.target]))
        for p in coupling_paths(inputs, 2, outputs)
    }  # fmt: skip
    expected = {
        (str(a), harmonic.l, str(b))
        for a in map(o3.Irrep, names(inputs))
        for harmonic in map(o3.Irrep, names(natural_irreps(2)))
        for b in a * harmonic
        if b.l <= 3
    }
    assert found == expected
    assert len(found) == 48


def starts(irreps: tuple[Irrep, ...]) -> list[int]:
    return [sum(i.dim for i in irreps[:k]) for k in range(len(irreps))]


def test_layers_keep_what_can_be_made_and_used() -> None:
    sets = layers_of_irreps((SCALAR,), all_irreps(2), 2, 6)
    assert [names(s) for s in sets] == [
        ["0e"],
        ["0e", "1o", "2e"],
        ["0e", "1e", "1o", "2e", "2o"],
        ["0e", "0o", "1e", "1o", "2e", "2o"],
        ["0e", "1e", "1o", "2e", "2o"],
        ["0e", "1o", "2e"],
        ["0e"],
    ]
    assert names(layers_of_irreps((SCALAR,), all_irreps(1), 1, 2)[1]) == ["0e", "1o"]


def test_gate_is_that_of_e3nn() -> None:
    """Up to its normalisation of activations, which it samples."""
    torch.manual_seed(0)
    n, irreps = 2, all_irreps(2)
    scalars, gated = irreps[:2], irreps[2:]
    theirs = E3nnGate(
        "2x0e+2x0o", [torch.nn.functional.silu, torch.tanh], "8x0e", [torch.nn.functional.silu],
        "2x1e+2x1o+2x2e+2x2o",
    ).double()  # fmt: skip
    features = torch.randn(5, sum(i.dim for i in irreps), n, dtype=torch.float64)
    gates = torch.randn(5, len(gated), n, dtype=torch.float64)
    parts = dict(zip(names(irreps), features.split([i.dim for i in irreps], dim=1), strict=True))
    # Their input is sorted, the odd one of a degree first; channels before components.
    columns = []
    for irrep in sorted(irreps):
        columns.append(parts[str(irrep)].transpose(1, 2).flatten(1))
        if irrep == SCALAR:
            columns.append(gates.flatten(1))
    assert str(theirs.irreps_in) == "2x0o+10x0e+2x1o+2x1e+2x2o+2x2e"
    answer = theirs(torch.cat(columns, dim=1))
    ours = Gate(irreps).double()(features, gates).split([i.dim for i in irreps], dim=1)
    ratios = [theirs.act_scalars.acts[k].cst / unit_gain(f) for k, f in enumerate(("silu", "tanh"))]
    expected = [x.transpose(1, 2).flatten(1) for x in ours]
    factors = [*ratios, *[ratios[0]] * len(gated)]
    expected = torch.cat([x * f for x, f in zip(expected, factors, strict=True)], dim=1)
    torch.testing.assert_close(answer, expected, rtol=0, atol=1e-12)
    assert len(scalars) == theirs.irreps_scalars.num_irreps // n


def test_environment_product_equals_the_definition() -> None:
    """Loop over edges and couplings, with e3nn's coefficients."""
    torch.manual_seed(1)
    g, inputs, outputs = graph(), all_irreps(1), all_irreps(2)
    blocks, n = EdgeBlocks.build(g), N_CHANNELS
    harmonics = SphericalHarmonics(2).double()(g.edge_vectors / g.edge_lengths[:, None])
    w = torch.randn(g.n_edges, 3, n, dtype=torch.float64)
    v = torch.randn(g.n_edges, 8, n, dtype=torch.float64)
    product = EnvironmentProduct(inputs, 2, outputs, n).double()
    dealt = blocks.deal(v.flatten(1)).view(-1, 16, 8, n).permute(0, 3, 1, 2)
    weights = blocks.deal(w.flatten(1)).view(-1, 3, n)
    around = environment(weights, blocks.deal(harmonics), blocks, 12)
    found = product(dealt, around, blocks).transpose(1, 2).flatten(0, 1)[blocks.slot]

    degree = torch.tensor([0, 1, 1, 1, 2, 2, 2, 2, 2])
    sums = torch.zeros(12, 9, n, dtype=torch.float64)
    for e in range(g.n_edges):
        sums[g.center[e]] += harmonics[e, :, None] * w[e, degree]
    torch.testing.assert_close(around, sums, rtol=0, atol=1e-12)
    expected = torch.zeros(g.n_edges, n, 18, dtype=torch.float64)
    for k, p in enumerate(product.paths):
        start = starts(outputs)[p.target]
        c = o3.wigner_3j(p.l1, p.l2, p.l3, dtype=torch.float64) * (2 * p.l3 + 1) ** 0.5
        expected[:, :, start : start + 2 * p.l3 + 1] += torch.einsum(
            "abc,eau,ebu,u->euc",
            c, v[:, p.components], sums[g.center, p.l2**2 : (p.l2 + 1) ** 2],
            product.weights[k].detach(),
        )  # fmt: skip
    torch.testing.assert_close(found.detach(), expected, rtol=0, atol=1e-11)
