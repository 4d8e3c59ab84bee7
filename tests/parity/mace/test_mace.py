"""MACE with mace-torch's weights gives mace-torch's energies and forces."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from siliforce.deploy.mace_torch import from_mace_torch
from siliforce.graph import Graph, System, collate
from siliforce.models.mace import MACE, MACEConfig
from siliforce.potential import Potential
from siliforce.species import Species
from tests.parity.mace.couplings import tables

HERE = Path(__file__).parent
DESCRIPTION = json.loads((HERE / "reference.json").read_text())
CONFIG = MACEConfig(**DESCRIPTION["settings"])
STRUCTURES = ("crystal", "amorphous", "triclinic", "two_species", "dimer", "small_cell")
ENERGY_TOLERANCE, FORCE_TOLERANCE = 1e-8, 1e-7


@pytest.fixture(scope="module")
def reference() -> dict[str, np.ndarray]:
    with np.load(HERE / "reference.npz") as file:
        return dict(file)


@pytest.fixture
def potential(reference: dict[str, np.ndarray]) -> Potential:
    theirs = {
        k.removeprefix("weights/"): torch.from_numpy(v)
        for k, v in reference.items()
        if k.startswith("weights/")
    }
    species = Species(tuple(DESCRIPTION["numbers"]))
    model = MACE(CONFIG, len(species)).double()
    gain = DESCRIPTION["silu_gain"]
    state = from_mace_torch(theirs, tables(CONFIG), CONFIG, len(species), gain)
    state["mean_neighbors"] = torch.tensor(DESCRIPTION["mean_neighbors"], dtype=torch.float64)
    model.load_state_dict(state)
    return Potential(
        model, species, np.zeros(len(species)), scale=DESCRIPTION["scale"], pin_isolated=False
    )


def graph_of(reference: dict[str, np.ndarray], name: str) -> Graph:
    fields = (reference[f"{name}/{f}"] for f in ("numbers", "positions", "cell", "pbc"))
    return collate([System.build(*fields, CONFIG.cutoff)], MACE.needs, torch.float64)


@pytest.mark.parametrize("name", STRUCTURES)
def test_energies_and_forces(
    name: str, reference: dict[str, np.ndarray], potential: Potential
) -> None:
    out = potential(graph_of(reference, name))
    assert out.forces is not None
    theirs = reference[f"{name}/forces"]
    assert np.abs(theirs).max() > 0.1, "forces too small to prove anything"
    energy_error = np.abs(out.atom_energies.numpy() - reference[f"{name}/energies"]).max()
    force_error = np.abs(out.forces.detach().numpy() - theirs).max()
    assert energy_error <= ENERGY_TOLERANCE
    assert force_error <= FORCE_TOLERANCE


def test_every_weight_matters(reference: dict[str, np.ndarray], potential: Potential) -> None:
    """Agreement would prove nothing of a weight that does not change the energies."""
    graph = graph_of(reference, "two_species")
    before = potential(graph, forces=False).atom_energies
    for name, parameter in potential.named_parameters():
        with torch.no_grad():
            parameter *= 1.01
            after = potential(graph, forces=False).atom_energies
            parameter /= 1.01
        assert (after - before).abs().max() > 10 * ENERGY_TOLERANCE, name
