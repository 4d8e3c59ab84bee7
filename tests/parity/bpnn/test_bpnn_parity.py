"""BPNN's descriptors against the equations evaluated by loops, and its networks by hand."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from ase import Atoms

from siliforce.models.bpnn import BPNN, Block, BPNNConfig, whitening
from siliforce.nn.symmetry_functions import integer_powers
from siliforce.potential import Potential
from siliforce.species import Species
from tests.cases import graph_of
from tests.structures import STRUCTURES, SYMBOLS

CUTOFF = 4.0
ETA_RADIAL = (0.003214, 0.035711, 0.071421, 0.124987, 0.214264, 0.357106, 0.714213, 1.428426)
ETA_ANGULAR = (0.000357, 0.028569, 0.089277)
ELEMENTS = (8, 14)


def surroundings(atoms: Atoms, i: int) -> list[tuple[int, np.ndarray]]:
    """Atomic number and relative position of everything within the cutoff of atom i."""
    found = []
    for shift in product(*[range(-3, 4) if p else range(1) for p in atoms.pbc]):
        for j in range(len(atoms)):
            vector = atoms.positions[j] + np.array(shift) @ atoms.cell.array - atoms.positions[i]
            if 0 < np.linalg.norm(vector) < CUTOFF:
                found.append((int(atoms.numbers[j]), vector))
    return found


def cut(r: float) -> float:
    return 0.5 * (math.cos(math.pi * r / CUTOFF) + 1) if r < CUTOFF else 0.0


def descriptor(atoms: Atoms, i: int) -> list[float]:
    """70 numbers: G2 by element and η, then G4 by pair of elements, λ, η and ζ."""
    around = surroundings(atoms, i)
    values = []
    for element, eta in product(ELEMENTS, ETA_RADIAL):
        lengths = [np.linalg.norm(v) for z, v in around if z == element]
        values.append(sum(math.exp(-eta * r * r) * cut(r) for r in lengths))
    for pair in ((8, 8), (8, 14), (14, 14)):
        triplets = []
        for a in range(len(around)):
            for b in range(a):
                if tuple(sorted((around[a][0], around[b][0]))) == pair:
                    u, v = around[a][1], around[b][1]
                    r, s, t = (float(np.linalg.norm(w)) for w in (u, v, u - v))
                    triplets.append(
                        (float(u @ v) / r / s, r * r + s * s + t * t, cut(r) * cut(s) * cut(t))
                    )
        for lam, eta, zeta in product((1, -1), ETA_ANGULAR, (1, 2, 4)):
            terms = [(1 + lam * c) ** zeta * math.exp(-eta * q) * f for c, q, f in triplets]
            values.append(2 ** (1 - zeta) * sum(terms))
    return values


def paper_potential() -> Potential:
    torch.manual_seed(0)
    config = BPNN.presets["paper"].model_copy(update={"cutoff": CUTOFF})
    potential = Potential(BPNN(config, 2), Species(ELEMENTS), np.zeros(2), pin_isolated=False)
    return potential.set_dtype(torch.float64)


@pytest.mark.parametrize("name", STRUCTURES)
def test_descriptors_are_the_equations(name: str) -> None:
    atoms, potential = STRUCTURES[name](), paper_potential()
    graph = potential.with_species(graph_of(potential, [atoms]))
    (columns,) = potential.model.descriptors(graph)
    expected = np.array([descriptor(atoms, i) for i in range(len(atoms))])
    assert columns.shape == (len(atoms), 70)
    np.testing.assert_allclose(columns.numpy(), expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", ["two_species", "cluster"])
def test_networks_are_the_equations(name: str) -> None:
    potential = paper_potential()
    graph = potential.with_species(graph_of(potential, [STRUCTURES[name]()]))
    potential.model.fit_constants([graph])
    (columns,) = potential.model.descriptors(graph)
    state = {k: v.numpy() for k, v in potential.model.state_dict().items()}
    energies = []
    for atom, s in enumerate(graph.species.tolist()):
        x = columns[atom].numpy() - state["blocks.0.mean.weight"][s]
        x = x @ state["blocks.0.whitening.weight"][s] @ state["blocks.0.weight.weight"][s]
        x = x + state["first_bias.weight"][s]
        for layer in range(5):
            weight = state[f"layers.{layer}.weight.weight"][s]
            x = (1 / (1 + np.exp(-x))) @ weight + state[f"layers.{layer}.bias.weight"][s]
        energies.append(x.item())
    answer = potential(graph).atom_energies
    np.testing.assert_allclose(answer.numpy(), energies, rtol=1e-10, atol=1e-12)
    assert np.ptp(energies) > 1e-3


def test_triplets_in_a_line_can_be_differentiated_twice() -> None:
    potential = paper_potential()
    graph = graph_of(potential, [STRUCTURES["collinear"]()])
    forces = potential(graph, create_graph=True).forces
    gradients = torch.autograd.grad(forces.square().sum(), list(potential.model.parameters())[:2])
    assert all(torch.isfinite(g).all() for g in gradients)
    assert gradients[0].abs().max() > 0


def test_powers() -> None:
    base = torch.linspace(0, 1, 7, dtype=torch.float64)
    for power, exponent in zip(
        integer_powers(base, (1, 2, 3, 4, 7, 16)), (1, 2, 3, 4, 7, 16), strict=True
    ):
        torch.testing.assert_close(power, base**exponent)


def test_whitened_columns_are_uncorrelated_with_unit_variance() -> None:
    torch.manual_seed(0)
    data = torch.randn(500, 4, dtype=torch.float64) @ torch.randn(4, 4, dtype=torch.float64)
    data = data * torch.tensor([1e-3, 1, 100, 10]) + torch.tensor([5, -1, 1000, 0])
    mean, centered = data.mean(0), data - data.mean(0)
    covariance = centered.T @ centered / len(data)
    white = centered @ whitening(mean, covariance, 1e-9)
    torch.testing.assert_close(white.T @ white / len(data), torch.eye(4, dtype=torch.float64))


def test_whitening_does_not_blow_up_what_hardly_varies() -> None:
    mean = torch.tensor([3.0, 0.0, 2.0], dtype=torch.float64)
    covariance = torch.zeros(3, 3, dtype=torch.float64)
    covariance[0, 0] = 1.0
    matrix = whitening(mean, covariance, 1e-2)
    assert torch.isfinite(matrix).all()
    assert matrix[0].abs().max() == pytest.approx(1.0)
    assert matrix[1].abs().max() == pytest.approx(10.0)


def test_whitening_is_fitted_once_per_element() -> None:
    potential = paper_potential()
    model = potential.model
    first = potential.with_species(graph_of(potential, [STRUCTURES["amorphous"]()]))
    second = potential.with_species(graph_of(potential, [STRUCTURES["two_species"]()]))
    model.fit_constants([first])
    before = model.state_dict()["blocks.0.whitening.weight"].clone()
    model.fit_constants([second])
    assert torch.equal(model.state_dict()["blocks.0.whitening.weight"], before)
    potential.extend([32])
    foreign = STRUCTURES["amorphous"]()
    foreign.symbols[:4] = "Ge"
    model.fit_constants([potential.with_species(graph_of(potential, [foreign]))])
    assert torch.equal(model.state_dict()["blocks.0.whitening.weight"][:2], before)
    new = model.blocks[1]
    assert isinstance(new, Block)
    assert new.n_columns == 8 + 3 * 18
    assert new.fitted.weight.tolist() == [1.0, 0.0, 1.0]
    assert model.config.extensions == (1,)


def test_fitting_what_is_new_leaves_old_energies() -> None:
    potential = paper_potential()
    old, foreign = STRUCTURES["amorphous"](), STRUCTURES["two_species"]()
    potential.model.fit_constants([potential.with_species(graph_of(potential, [old]))])
    before = potential(graph_of(potential, [old])).energy
    foreign.symbols[:3] = "Ge"
    potential.extend([32])
    potential.model.fit_constants([potential.with_species(graph_of(potential, [foreign]))])
    after = potential(graph_of(potential, [old])).energy
    torch.testing.assert_close(after, before, rtol=0, atol=1e-11)  # a bias takes up the new means


def test_elements_can_be_added_again_and_again() -> None:
    torch.manual_seed(1)
    config = BPNNConfig(cutoff=CUTOFF, hidden=(5,), angular_eta=(0.1,), zeta=(2,))
    potential = Potential(BPNN(config, 1), Species((8,)), [0.0]).set_dtype(torch.float64)
    potential.extend([14]).extend([6, 7])
    fresh = BPNN(potential.model.config, 4).double()
    fresh.load_state_dict(potential.model.state_dict())
    graph = potential.with_species(graph_of(potential, [STRUCTURES["amorphous"]()]))
    assert torch.equal(fresh(graph).atom_energy, potential.model(graph).atom_energy)
    assert [b.n_columns for b in potential.model.blocks] == [8 + 2, 8 + 2 * 2, 2 * 8 + (10 - 3) * 2]


def test_symbols_are_those_of_the_structures() -> None:
    assert Species.from_symbols(SYMBOLS).numbers == ELEMENTS
