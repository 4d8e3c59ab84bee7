"""SchNet equals PyTorch Geometric's, given the same weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from torch import Tensor

from siliforce.models.schnet import SchNet, SchNetConfig
from siliforce.potential import Potential
from siliforce.species import Species
from tests.cases import graph_of
from tests.parity.schnet import make_reference
from tests.parity.stored import structure

REFERENCE = np.load(make_reference.PATH)
STRUCTURES = sorted({k.split("/")[0] for k in REFERENCE.files} - {"weight"})
NAMES = {
    "embedding.weight": "embedding.weight",
    "lin1": "readout.layers.0",
    "lin2": "readout.layers.1",
    "mlp.0": "filters.layers.0",
    "mlp.2": "filters.layers.1",
    "conv.lin1": "enter",
    "conv.lin2": "leave.layers.0",
    "lin": "leave.layers.1",
}
"""Part of a name in PyTorch Geometric -> here; `conv.nn` there is `mlp` a second time."""


def renamed(name: str) -> str | None:
    """Our name of one of the package's weights; None for constants and doubles."""
    if name.startswith("distance_expansion") or ".conv.nn." in name:
        return None
    if name in NAMES:
        return NAMES[name]
    if name.startswith("interactions."):
        _, layer, *middle, kind = name.split(".")
        return f"interactions.{layer}.{NAMES['.'.join(middle)]}.{kind}"
    module, kind = name.split(".")
    return f"{NAMES[module]}.{kind}"


def reference_potential() -> Potential:
    species = Species(make_reference.NUMBERS)
    model = SchNet(SchNetConfig(**make_reference.CONFIG), len(species)).double()
    weights: dict[str, Tensor] = {"mean_neighbors": model.mean_neighbors}
    for key in REFERENCE.files:
        kind, name = key.split("/")
        if kind == "weight" and (target := renamed(name)):
            assert target not in weights
            weights[target] = torch.from_numpy(REFERENCE[key])
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


def test_reference_is_what_the_package_says() -> None:
    pytest.importorskip("torch_geometric", reason="PyTorch Geometric is not installed")
    model = make_reference.build()
    for name in STRUCTURES:
        energies, forces = make_reference.evaluate(model, stored(name))
        np.testing.assert_allclose(energies, REFERENCE[f"{name}/atom_energies"], atol=1e-10)
        np.testing.assert_allclose(forces, REFERENCE[f"{name}/forces"], atol=1e-10)
