"""DimeNet++ equals PyTorch Geometric's, given the same weights."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from ase import Atoms
from torch import Tensor

from siliforce.models.dimenet_pp import DimeNetPP, DimeNetPPConfig
from siliforce.potential import Potential
from siliforce.species import Species
from tests.cases import graph_of
from tests.parity.dimenet_pp import make_reference
from tests.parity.stored import structure

REFERENCE = np.load(make_reference.PATH)
STRUCTURES = sorted({k.split("/")[0] for k in REFERENCE.files} - {"weight"})
NAMES = (
    (r"rbf\.freq", "bessel.frequencies"),
    (r"emb\.emb\.(\w+)", r"embedding.species.\1"),
    (r"emb\.lin_rbf\.(\w+)", r"embedding.radial.\1"),
    (r"emb\.lin\.(\w+)", r"embedding.mix.\1"),
    (r"interaction_blocks\.(\d+)\.lin_rbf\.([01])\.(\w+)", r"interactions.\1.radial.\2.\3"),
    (r"interaction_blocks\.(\d+)\.lin_sbf\.([01])\.(\w+)", r"interactions.\1.directions.\2.\3"),
    (r"interaction_blocks\.(\d+)\.lin_kj\.(\w+)", r"interactions.\1.incoming.\2"),
    (r"interaction_blocks\.(\d+)\.lin_ji\.(\w+)", r"interactions.\1.own.\2"),
    (r"interaction_blocks\.(\d+)\.lin_(down|up)\.(\w+)", r"interactions.\1.\2.\3"),
    (r"interaction_blocks\.(\d+)\.lin\.(\w+)", r"interactions.\1.skip.\2"),
    (
        r"interaction_blocks\.(\d+)\.layers_(before|after)_skip\.(\d+)\.lin\.([01])\.(\w+)",
        r"interactions.\1.\2_skip.\3.layers.\4.\5",
    ),
    (r"output_blocks\.(\d+)\.lin_rbf\.(\w+)", r"readouts.\1.radial.\2"),
    (r"output_blocks\.(\d+)\.lin_up\.(\w+)", r"readouts.\1.up.\2"),
    (r"output_blocks\.(\d+)\.lins\.(\d+)\.(\w+)", r"readouts.\1.layers.\2.\3"),
    (r"output_blocks\.(\d+)\.lin\.(\w+)", r"readouts.\1.last.\2"),
)
"""Name in PyTorch Geometric -> here, with its `lin1`, `lin2` counted as `lin.0`, `lin.1`."""
READS_RBF = re.compile(r"\.lin_rbf1?\.weight$")
"""The first layers after the radial basis, which here has the factor sqrt(2) of DimeNet's eq. 7."""


def renamed(name: str) -> str:
    """Our name of one of the package's weights.

    Raises:
        KeyError: there is none.
    """
    counted = re.sub(r"(lin|lin_rbf|lin_sbf)([12])\.", lambda m: f"{m[1]}.{int(m[2]) - 1}.", name)
    for pattern, target in NAMES:
        match = re.fullmatch(pattern, counted)
        if match:
            return match.expand(target)
    raise KeyError(f"{name} has no counterpart")


def reference_potential() -> Potential:
    species = Species(make_reference.NUMBERS)
    model = DimeNetPP(DimeNetPPConfig(**make_reference.CONFIG), len(species)).double()
    weights: dict[str, Tensor] = {"mean_neighbors": model.mean_neighbors}
    for key in REFERENCE.files:
        kind, name = key.split("/")
        if kind == "weight":
            target, weight = renamed(name), torch.from_numpy(REFERENCE[key])
            assert target not in weights
            weights[target] = weight / math.sqrt(2) if READS_RBF.search(name) else weight
    model.load_state_dict(weights)
    return Potential(model, species, np.zeros(len(species)), pin_isolated=False)


def stored(name: str) -> Atoms:
    return structure(REFERENCE, name)


@pytest.mark.parametrize("name", STRUCTURES)
def test_energies_and_forces_are_equal(name: str) -> None:
    potential = reference_potential()
    answer = potential(graph_of(potential, [stored(name)]))
    energies, forces = REFERENCE[f"{name}/atom_energies"], REFERENCE[f"{name}/forces"]
    assert np.abs(answer.atom_energies.numpy() - energies).max() < 1e-8
    assert np.abs(answer.forces.numpy() - forces).max() < 1e-7
    assert name == "isolated" or np.abs(forces).max() > 0.1


def test_every_weight_counts() -> None:
    potential = reference_potential()
    graph = graph_of(potential, [stored("amorphous")])
    before = potential(graph).atom_energies
    for name, parameter in potential.model.named_parameters():
        original = parameter.detach().clone()
        with torch.no_grad():
            parameter.mul_(1.01)
            change = (potential(graph).atom_energies - before).abs().max()
            parameter.copy_(original)
        assert change > 1e-5, f"{name} has no effect: parity would not notice a wrong one"


def test_unknown_weights_are_refused() -> None:
    with pytest.raises(KeyError, match="lin_new"):
        renamed("interaction_blocks.0.lin_new.weight")


def test_reference_is_what_the_package_says() -> None:
    pytest.importorskip("torch_geometric", reason="PyTorch Geometric is not installed")
    model = make_reference.build()
    for name in STRUCTURES:
        energies, forces = make_reference.evaluate(model, stored(name))
        np.testing.assert_allclose(energies, REFERENCE[f"{name}/atom_energies"], atol=1e-10)
        np.testing.assert_allclose(forces, REFERENCE[f"{name}/forces"], atol=1e-10)
