"""Our potentials inside torch-sim, where it is installed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase.build import bulk

ts = pytest.importorskip("torch_sim")

from torch_sim.models.interface import validate_model_outputs  # noqa: E402

from siliforce.errors import ConfigError, DataError  # noqa: E402
from siliforce.simulation.calculator import SiliforceCalculator  # noqa: E402
from siliforce.simulation.torch_sim import TorchSimModel  # noqa: E402
from tests.toys import DirectMorse, toy_potential  # noqa: E402

CPU = torch.device("cpu")


def test_passes_the_validation_of_torch_sim():
    potential = toy_potential(("H", "C", "Mg", "Si", "Fe"))  # what its structures hold
    validate_model_outputs(TorchSimModel(potential), CPU, torch.float64)


def test_answers_are_those_of_the_calculator():
    structures = [bulk("Cu", a=3.7, cubic=True), bulk("Cu", a=3.6).repeat((2, 2, 1))]
    for k, atoms in enumerate(structures):
        atoms.set_cell(atoms.cell.array + 0.1 * np.eye(3)[[1, 2, 0]], scale_atoms=True)
        atoms.rattle(0.1, seed=k)
    state = ts.io.atoms_to_state(structures, CPU, torch.float64)
    found = TorchSimModel(toy_potential())(state)
    for k, atoms in enumerate(structures):
        atoms.calc = SiliforceCalculator(toy_potential(), device="cpu")
        own = (state.system_idx == k).numpy()
        assert float(found["energy"][k]) == pytest.approx(atoms.get_potential_energy())
        np.testing.assert_allclose(found["forces"].numpy()[own], atoms.get_forces(), atol=1e-10)
        np.testing.assert_allclose(
            found["stress"][k].numpy(), atoms.get_stress(voigt=False), atol=1e-10
        )


def test_its_integrator_runs_on_them():
    start = [bulk("Cu", a=3.7, cubic=True), bulk("Cu", a=3.65, cubic=True)]
    model = TorchSimModel(toy_potential())
    method = ts.Integrator.nve if hasattr(ts, "Integrator") else ts.nve
    end = ts.integrate(start, model, integrator=method, n_steps=60, temperature=300, timestep=0.002)
    assert model.pairs.searches < 20  # of 2 x 61
    for energy, atoms in zip(end.energy, ts.io.state_to_atoms(end), strict=True):
        atoms.calc = SiliforceCalculator(toy_potential(), device="cpu")
        assert float(energy) == pytest.approx(atoms.get_potential_energy(), abs=1e-8)
        assert np.abs(atoms.get_forces()).max() > 0.01


def test_refusals():
    state = ts.io.atoms_to_state([bulk("Ag")], CPU, torch.float64)
    with pytest.raises(DataError, match="not Ag"):
        TorchSimModel(toy_potential())(state)
    direct = toy_potential(model=DirectMorse)
    assert "stress" not in TorchSimModel(direct)(
        ts.io.atoms_to_state([bulk("Cu")], CPU, torch.float64)
    )
    with pytest.raises(ConfigError, match="no stress"):
        TorchSimModel(direct, compute_stress=True)
