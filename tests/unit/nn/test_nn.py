"""The blocks the models share."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.data import covalent_radii
from torch import Tensor, nn

from siliforce.derivatives import edge_gradient, forces_from_edges
from siliforce.graph import Graph, System, Topology, collate
from siliforce.nn.cutoff import cosine_cutoff, polynomial_envelope
from siliforce.nn.mlp import ACTIVATIONS, MLP, shifted_softplus
from siliforce.nn.radial import BesselBasis, GaussianBasis
from siliforce.nn.repulsion import ZBL
from siliforce.nn.scatter import gather_neighbors, sum_over_neighbors
from siliforce.nn.species_table import SpeciesTable
from siliforce.species import Species
from tests.structures import STRUCTURES

DOUBLE = torch.float64


def derivatives(function, x: float, order: int) -> list[float]:
    """Value and derivatives up to `order` at x."""
    at = torch.tensor(x, dtype=DOUBLE, requires_grad=True)
    values = [function(at)]
    for _ in range(order):
        (slope,) = torch.autograd.grad(values[-1], at, create_graph=True)
        values.append(slope)
    return [v.item() for v in values]


@pytest.mark.parametrize("p", [2, 5, 6])
def test_polynomial_envelope_is_one_inside_and_twice_smooth_at_the_cutoff(p: int) -> None:
    assert polynomial_envelope(torch.tensor(0.0), p) == 1.0
    assert derivatives(lambda x: polynomial_envelope(x, p), 1 - 1e-9, 2) == pytest.approx(
        [0, 0, 0], abs=1e-6
    )
    assert polynomial_envelope(torch.tensor([1.0, 1.3]), p).abs().max() == 0


def test_cosine_cutoff() -> None:
    values = cosine_cutoff(torch.tensor([0.0, 2.0, 3.0, 4.0, 5.0], dtype=DOUBLE), 4.0)
    quarter = (math.cos(0.75 * math.pi) + 1) / 2
    torch.testing.assert_close(values, torch.tensor([1, 0.5, quarter, 0, 0], dtype=DOUBLE))
    assert derivatives(lambda x: cosine_cutoff(x, 4.0), 4 - 1e-9, 1) == pytest.approx(
        [0, 0], abs=1e-8
    )


def test_gaussians_peak_on_an_even_grid() -> None:
    basis = GaussianBasis(5.0, 11)
    centers = torch.linspace(0, 5, 11, dtype=DOUBLE)
    torch.testing.assert_close(basis(centers).diagonal(), torch.ones(11, dtype=DOUBLE))
    expected = math.exp(-0.5 * (0.2 / 0.5) ** 2)
    assert basis(torch.tensor([2.7], dtype=DOUBLE))[0, 5].item() == pytest.approx(expected)


def test_bessel_functions_vanish_at_the_cutoff_and_are_orthonormal() -> None:
    basis = BesselBasis(5.0, 6)
    r = torch.linspace(1e-6, 5.0, 20001, dtype=DOUBLE)
    values = basis(r)
    assert values[-1].abs().max() < 1e-12
    overlap = torch.trapezoid(
        values[:, :, None] * values[:, None, :] * r[:, None, None] ** 2, r, dim=0
    )
    torch.testing.assert_close(overlap, torch.eye(6, dtype=DOUBLE), atol=1e-6, rtol=0)


def test_trainable_bessel_starts_as_the_fixed_one() -> None:
    r = torch.linspace(0.5, 4.9, 7)
    torch.testing.assert_close(BesselBasis(5.0, 8, trainable=True)(r), BesselBasis(5.0, 8)(r))
    assert [n for n, _ in BesselBasis(5.0, 8, trainable=True).named_parameters()] == ["frequencies"]
    assert not list(BesselBasis(5.0, 8).parameters())


@pytest.mark.parametrize("make", [GaussianBasis, BesselBasis])
def test_constants_follow_the_dtype_of_the_input(make: type[nn.Module]) -> None:
    r = torch.linspace(0.5, 4.9, 7, dtype=DOUBLE)
    through_single = make(5.0, 9).float().double()
    torch.testing.assert_close(through_single(r), make(5.0, 9)(r), rtol=0, atol=0)


def test_shifted_softplus() -> None:
    x = torch.linspace(-5, 5, 11, dtype=DOUBLE)
    torch.testing.assert_close(shifted_softplus(x), torch.log(0.5 * torch.exp(x) + 0.5))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_mlp_keeps_the_second_moment(activation: str) -> None:
    torch.manual_seed(0)
    mlp = MLP([512, 512, 512, 512], activation)
    moment = mlp(torch.randn(200, 512)).square().mean()
    assert moment.item() == pytest.approx(1.0, abs=0.25)
    assert sum(p.numel() for p in MLP([3, 4, 2], activation, bias=False).parameters()) == 20


def random_graph() -> Graph:
    atoms = STRUCTURES["self_images"]()
    system = System.build(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, 4.0)
    graph = collate([system, system], Topology(), DOUBLE)
    return graph.replace(species=(graph.numbers == 14).long())


def test_gather_and_sum_are_what_a_loop_does() -> None:
    graph, features = random_graph(), torch.randn(4, 3, 2, dtype=DOUBLE)
    gathered = gather_neighbors(features, graph)
    summed = torch.zeros_like(features)
    for edge in range(graph.n_edges):
        assert torch.equal(gathered[edge], features[graph.neighbor[edge]])
        summed[graph.center[edge]] += gathered[edge]
    torch.testing.assert_close(sum_over_neighbors(gathered, graph), summed)


def test_sums_cover_atoms_without_edges() -> None:
    graph = random_graph().with_isolated_atoms(2)
    summed = sum_over_neighbors(torch.ones(graph.n_edges, 1, dtype=DOUBLE), graph)
    assert summed.shape == (6, 1)
    assert (summed[-2:] == 0).all()
    assert torch.equal(graph.species[-2:], torch.tensor([0, 1]))


@pytest.mark.parametrize("trainable", [True, False])
def test_species_table_extends_by_copies(trainable: bool) -> None:
    table = SpeciesTable(torch.randn(2, 3), trainable=trainable)
    before = table.weight.detach().clone()
    table.extend([1, 0, 1])
    assert torch.equal(table.weight.detach(), before[[0, 1, 1, 0, 1]])
    assert isinstance(table.weight, nn.Parameter) == trainable
    assert torch.equal(table(torch.tensor([4, 0])), table.weight[[4, 0]])
    assert list(table.state_dict()) == ["weight"]


def zbl_pair_energy(z1: int, z2: int, r: float) -> float:
    """The formula once more, in plain Python."""
    x = r * (z1**0.23 + z2**0.23) / 0.46850
    terms = zip(
        (0.18175, 0.50986, 0.28022, 0.02817), (3.19980, 0.94229, 0.40290, 0.20162), strict=True
    )
    phi = sum(c * math.exp(-e * x) for c, e in terms)
    t = r / (covalent_radii[z1] + covalent_radii[z2])
    switch = 1 - 28 * t**6 + 48 * t**7 - 21 * t**8 if t < 1 else 0.0
    return 14.399645 * z1 * z2 / r * phi * switch


def zbl(atoms: Atoms) -> tuple[Tensor, Tensor]:
    species = Species.from_symbols(["O", "Si"])
    system = System.build(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, 4.0)
    graph = collate([system], Topology(), DOUBLE)
    leaf = graph.edge_vectors.requires_grad_()
    graph = graph.replace(species=(graph.numbers == 14).long(), edge_vectors=leaf)
    energy = ZBL(species).double()(graph)
    return energy, forces_from_edges(edge_gradient(energy, leaf, False), graph)


@pytest.mark.parametrize("symbols", ["O2", "SiO", "Si2"])
@pytest.mark.parametrize("distance", [0.3, 0.8, 1.2, 1.9, 2.5])
def test_zbl_pairs(symbols: str, distance: float) -> None:
    atoms = Atoms(symbols, positions=[[0, 0, 0], [0, 0, distance]])
    energy, forces = zbl(atoms)
    expected = zbl_pair_energy(*(int(z) for z in atoms.numbers), distance)
    assert energy.sum().item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    reach = sum(covalent_radii[z] for z in atoms.numbers)
    if distance < reach:
        assert forces[1, 2] > 0, "it must push the atoms apart"
    else:
        assert torch.equal(forces, torch.zeros_like(forces))


def test_zbl_forces_are_derivatives() -> None:
    atoms = STRUCTURES["cluster"]()
    atoms.positions *= 0.6
    _, forces = zbl(atoms)
    step, numeric = 1e-5, np.zeros((len(atoms), 3))
    for i, axis in np.ndindex(numeric.shape):
        energies = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[i, axis] += sign * step
            energies.append(zbl(moved)[0].sum().item())
        numeric[i, axis] = -(energies[0] - energies[1]) / (2 * step)
    assert np.abs(numeric).max() > 1.0
    np.testing.assert_allclose(forces.detach().numpy(), numeric, atol=1e-6)
