"""Allegro equals the authors', given the same weights."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from torch import Tensor

from siliforce.deploy.allegro import from_allegro
from siliforce.errors import ModelFileError
from siliforce.models.allegro import Allegro
from siliforce.potential import Potential
from siliforce.species import Species
from tests.cases import graph_of
from tests.parity.allegro import make_reference
from tests.parity.nequip.make_reference import TYPES, evaluate
from tests.parity.stored import structure

REFERENCE = np.load(make_reference.PATH)
KINDS = tuple(make_reference.SETTINGS)
STRUCTURES = sorted(
    {k.split("/")[1] for k in REFERENCE.files if k.startswith(KINDS[0])} - {"settings", "weight"}
)
each_kind = pytest.mark.parametrize("kind", KINDS)


def theirs(kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The package's arguments and state dict."""
    prefix = f"{kind}/weight/"
    weights = {
        k.removeprefix(prefix): torch.from_numpy(REFERENCE[k])
        for k in REFERENCE.files
        if k.startswith(prefix)
    }
    return json.loads(str(REFERENCE[f"{kind}/settings"])), weights


@cache
def reference_potential(kind: str) -> Potential:
    config, weights = from_allegro(*theirs(kind))
    species = Species.from_symbols(TYPES)
    model = Allegro(config, len(species)).double()
    potential = Potential(model, species, np.zeros(len(species)), pin_isolated=False)
    potential.load_state_dict(weights)
    return potential


def stored(kind: str, name: str) -> Atoms:
    return structure(REFERENCE, f"{kind}/{name}")


@each_kind
@pytest.mark.parametrize("name", STRUCTURES)
def test_energies_and_forces_are_equal(kind: str, name: str) -> None:
    potential = reference_potential(kind)
    answer = potential(graph_of(potential, [stored(kind, name)]))
    forces = REFERENCE[f"{kind}/{name}/forces"]
    energies = REFERENCE[f"{kind}/{name}/atom_energies"]
    assert np.abs(answer.atom_energies.numpy() - energies).max() < 1e-8
    assert np.abs(answer.forces.numpy() - forces).max() < 1e-7
    assert name == "isolated" or np.abs(forces).max() > 0.1


@each_kind
def test_every_weight_counts(kind: str) -> None:
    potential = reference_potential(kind)
    graph = graph_of(potential, [stored(kind, "amorphous")])
    before = potential(graph).atom_energies
    for name, parameter in potential.model.named_parameters():
        original = parameter.detach().clone()
        with torch.no_grad():
            parameter.mul_(1.01)
            change = (potential(graph).atom_energies - before).abs().max()
            parameter.copy_(original)
        assert change > 1e-6, f"{name} has no effect: parity would not notice a wrong one"


def test_what_is_unknown_is_refused_by_name() -> None:
    config, weights = theirs("both")
    name = "model.func.allegro.latents.1.mlp.2.weight"
    with pytest.raises(ModelFileError, match=r"model\.func\.surprise"):
        from_allegro(config, weights | {"model.func.surprise": torch.ones(3)})
    with pytest.raises(ModelFileError, match="latents"):
        from_allegro(config, {k: v for k, v in weights.items() if k != name})
    with pytest.raises(ModelFileError, match="surprise"):
        from_allegro(config | {"surprise": 1}, weights)
    with pytest.raises(ModelFileError, match="pair_potential"):
        from_allegro(config | {"pair_potential": {"_target_": "ZBL"}}, weights)
    with pytest.raises(ModelFileError, match="embed"):
        from_allegro(config | {"radial_chemical_embed": {"_target_": "Splines"}}, weights)


@each_kind
def test_reference_is_what_the_package_says(kind: str) -> None:
    pytest.importorskip("allegro", reason="the package nequip-allegro is not installed")
    model = make_reference.build(make_reference.SETTINGS[kind])
    for name in STRUCTURES:
        energies, forces = evaluate(model, stored(kind, name))
        np.testing.assert_allclose(energies, REFERENCE[f"{kind}/{name}/atom_energies"], atol=1e-10)
        np.testing.assert_allclose(forces, REFERENCE[f"{kind}/{name}/forces"], atol=1e-10)
