"""GemNet-T and GemNet-dT equal fairchem-core's, given the same weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms

from siliforce.models import get_model
from siliforce.nn.scale_factor import ScaleFactor
from siliforce.potential import Potential
from siliforce.species import Species
from tests.cases import graph_of
from tests.parity.gemnet import make_reference
from tests.parity.gemnet.mapping import converted, renamed
from tests.parity.stored import structure

REFERENCE = np.load(make_reference.PATH)
STRUCTURES = sorted({k.split("/")[1] for k in REFERENCE.files if k.startswith("structure/")})
each_model = pytest.mark.parametrize("kind", make_reference.MODELS)


def reference_potential(kind: str) -> Potential:
    species = Species(make_reference.NUMBERS)
    model_class = get_model(kind)
    model = model_class(model_class.Config(**make_reference.CONFIG), len(species)).double()
    weights = {
        key.removeprefix(f"{kind}/weight/"): torch.from_numpy(REFERENCE[key])
        for key in REFERENCE.files
        if key.startswith(f"{kind}/weight/")
    }
    model.load_state_dict(converted(weights) | {"mean_neighbors": model.mean_neighbors})
    return Potential(model, species, np.zeros(len(species)), pin_isolated=False)


def stored(name: str) -> Atoms:
    return structure(REFERENCE, f"structure/{name}")


@pytest.mark.parametrize("name", STRUCTURES)
@each_model
def test_energies_and_forces_are_equal(kind: str, name: str) -> None:
    potential = reference_potential(kind)
    answer = potential(graph_of(potential, [stored(name)]))
    energies = REFERENCE[f"{kind}/{name}/atom_energies"]
    forces = REFERENCE[f"{kind}/{name}/forces"]
    assert np.abs(answer.atom_energies.detach().numpy() - energies).max() < 1e-8
    assert np.abs(answer.forces.detach().numpy() - forces).max() < 1e-7
    assert np.abs(forces).max() > 0.1


@each_model
def test_every_weight_counts(kind: str) -> None:
    potential = reference_potential(kind)
    graph = graph_of(potential, [stored("amorphous")])
    before = potential(graph)
    for name, weight in potential.model.state_dict(keep_vars=True).items():
        if name == "mean_neighbors":
            continue
        original = weight.detach().clone()
        with torch.no_grad():
            weight.mul_(1.01)
            after = potential(graph)
            weight.copy_(original)
        change = max(
            float((after.atom_energies - before.atom_energies).detach().abs().max()),
            float((after.forces - before.forces).detach().abs().max()),
        )
        assert change > 1e-5, f"{name} has no effect: parity would not notice a wrong one"


def test_unknown_weights_are_refused() -> None:
    with pytest.raises(KeyError, match="quad_interaction"):
        renamed("int_blocks.0.quad_interaction.dense_db.linear.weight")


@each_model
def test_scale_factors_are_fitted_alike(kind: str) -> None:
    potential = reference_potential(kind)
    graph = graph_of(potential, [stored(name) for name in make_reference.FITTED_ON])
    potential.model.fit_constants([potential.with_species(graph)])
    factors = {n: m.value for n, m in potential.model.named_modules() if isinstance(m, ScaleFactor)}
    expected = {
        renamed(key.removeprefix(f"{kind}/fitted/")).removesuffix(".value"): REFERENCE[key]
        for key in REFERENCE.files
        if key.startswith(f"{kind}/fitted/")
    }
    assert factors.keys() == expected.keys()
    for name, value in factors.items():
        np.testing.assert_allclose(value.numpy(), expected[name], rtol=1e-10, err_msg=name)


@each_model
def test_reference_is_what_the_package_says(kind: str) -> None:
    pytest.importorskip("fairchem", reason="fairchem-core is not installed")
    model = make_reference.build(make_reference.MODELS[kind])
    for name in STRUCTURES:
        energies, forces = make_reference.evaluate(model, [stored(name)])
        np.testing.assert_allclose(energies, REFERENCE[f"{kind}/{name}/atom_energies"], atol=1e-10)
        np.testing.assert_allclose(forces, REFERENCE[f"{kind}/{name}/forces"], atol=1e-10)
