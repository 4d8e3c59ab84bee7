"""Dynamics: energy is kept, thermostats hold their temperature, every failure has its reason."""

from __future__ import annotations

import ase.units
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import read
from pydantic import ValidationError

from siliforce.errors import ConfigError, DataError
from siliforce.indicators.dynamics import dynamics, summary
from siliforce.indicators.rdf import radial
from siliforce.potential import Card
from siliforce.simulation.batched import run_md
from siliforce.simulation.calculator import SiliforceCalculator
from siliforce.simulation.domain import OutsideRangeWarning
from siliforce.simulation.md import MDConfig, temperature_of
from siliforce.simulation.relax import relax
from tests.springs import Spring, lattice
from tests.toys import DirectMorse, toy_potential


def test_nve_keeps_the_energy_and_smaller_steps_keep_it_better():
    spread = []
    for timestep in (4.0, 2.0):
        config = MDConfig(ensemble="nve", timestep=timestep, equilibration=0.1, production=0.4)
        run = run_md(lattice(), SiliforceCalculator(toy_potential(), device="cpu"), config)
        assert run.failure is None
        assert abs(run.drift()) < 1.0
        spread.append(run.production("conserved").std())
    assert spread[1] < 0.4 * spread[0]  # second order: a quarter


def test_start_is_exact_at_rest_and_reproducible():
    config = MDConfig(equilibration=0, production=0.02, seed=4)
    atoms = lattice()
    runs = [run_md(atoms, EMT(), config) for _ in range(2)]
    assert runs[0].log == runs[1].log
    assert runs[0].log["temperature"][0] == pytest.approx(300)
    np.testing.assert_allclose(runs[0].frames[0].get_momenta().sum(axis=0), 0, atol=1e-10)
    assert not atoms.has("momenta")
    assert (
        run_md(atoms, EMT(), MDConfig(equilibration=0, production=0.02, seed=5)).log != runs[0].log
    )


def test_temperature_counts_no_centre_of_mass():
    atoms = Atoms("Cu2", positions=[[0, 0, 0], [2.5, 0, 0]])
    atoms.set_velocities([[0.01, 0, 0], [-0.01, 0, 0]])
    assert temperature_of(atoms) == pytest.approx(
        2 * atoms.get_kinetic_energy() / (3 * ase.units.kB)
    )


def test_frames_are_written_as_they_come(tmp_path):
    config = MDConfig(equilibration=0.02, production=0.06, frame_every=20)
    run = run_md(lattice(), EMT(), config, out=tmp_path / "md")
    frames = read(tmp_path / "md" / "run-0.xyz", index=":")
    assert len(frames) == len(run.frames) == 4
    np.testing.assert_allclose(frames[-1].positions, run.frames[-1].positions, atol=1e-8)
    np.testing.assert_allclose(frames[-1].get_momenta(), run.frames[-1].get_momenta(), atol=1e-8)
    rows = (tmp_path / "md" / "run-0.csv").read_text().splitlines()
    assert rows[0].split(",")[:3] == ["time (ps)", "temperature (K)", "potential (eV)"]
    table = np.genfromtxt(rows, delimiter=",", names=True, deletechars="")
    np.testing.assert_allclose(
        table["pressure_(GPa)"], np.array(run.log["pressure"]) / ase.units.GPa, rtol=1e-8
    )
    assert len(rows) == len(run.log["time"]) + 1
    assert run.survived == pytest.approx(0.08)


def test_progress_reaches_the_end():
    seen = []
    config = MDConfig(equilibration=0.02, production=0.03)
    run_md(lattice(), EMT(), config, progress=seen.append)
    assert (seen[-1].done, seen[-1].total, seen[-1].running) == (50, 50, 1)
    assert seen[-1].ns_per_day > 0


def test_runaway_heating_is_a_failure_with_a_time():
    atoms = lattice()[:4]
    calculator = Spring(atoms.positions.copy(), sign=-1.0)  # pushes away from home
    run = run_md(atoms, calculator, MDConfig(equilibration=0, production=1.0))
    assert run.failure.reason == "temperature runaway"
    assert 0 < run.failure.time < 1.0
    assert run.failure.time == run.survived


def test_energy_drift_is_a_failure():
    run = run_md(
        lattice()[:4],
        Spring(lattice().positions[:4], sign=-1.0),
        MDConfig(ensemble="nve", equilibration=0, production=1.0, max_heating=1e9),
    )
    assert run.failure.reason == "energy drift"


def test_close_contact_is_a_failure():
    atoms = lattice()[:2]
    home = np.repeat(atoms.positions[:1], 2, axis=0)  # both atoms want to be at one place
    run = run_md(atoms, Spring(home), MDConfig(max_heating=1e9, equilibration=0))
    assert run.failure.reason == "close contact"
    assert "Å apart" in run.failure.detail


def test_not_a_number_is_a_failure():
    class Broken(EMT):
        calls = 0

        def calculate(self, *args, **kwargs):
            super().calculate(*args, **kwargs)
            Broken.calls += 1
            if Broken.calls > 15:
                self.results["forces"] = self.results["forces"] * np.nan

    run = run_md(lattice(), Broken(), MDConfig(equilibration=0))
    assert run.failure.reason == "not a number"


def test_input_that_cannot_run_is_an_error_not_a_failure():
    with pytest.raises(ConfigError, match="two atoms"):
        run_md(lattice()[:1], EMT())
    gold = lattice()
    gold.symbols[0] = "Au"
    with pytest.raises(DataError, match="not Au"):
        run_md(gold, SiliforceCalculator(toy_potential(), device="cpu"))
    with pytest.raises(ValidationError):
        MDConfig(temperature=-5)


def test_result_of_a_run_and_of_a_failed_one(tmp_path):
    config = MDConfig(equilibration=0.05, production=0.1)
    good = dynamics(toy_potential(), lattice(), config)
    assert good.failure == ""
    assert good.value("survived") == pytest.approx(0.15)
    assert good.value("min_distance") == pytest.approx(2.55, abs=0.3)
    assert good.curves["drift"][0] == 0
    assert len(good.curves["time"]) == len(good.curves["temperature"])
    good.save(tmp_path)
    atoms = lattice()[:4]
    bad = dynamics(Spring(atoms.positions.copy(), sign=-1.0), atoms, config)
    assert "after" in bad.failure
    assert bad.value("temperature_mean") is None
    assert bad.metric("temperature_mean").note == bad.failure


def test_frames_outside_the_training_data_are_counted():
    config = MDConfig(equilibration=0.02, production=0.04)
    wide = Card(atoms_per_volume=(0.07, 0.1), min_distance={"Cu-Cu": 1.5}, temperature=(100, 300))
    inside = dynamics(toy_potential(card=wide), lattice(), config).provenance
    assert (inside["frames"], inside["frames_outside"]) == (3, 0)
    assert "temperature_outside" not in inside
    narrow = Card(min_distance={"Cu-Cu": 3.5}, temperature=(100, 200))
    with pytest.warns(OutsideRangeWarning):
        outside = dynamics(toy_potential(card=narrow), lattice(), config).provenance
    assert outside["frames_outside"] == 3
    assert "Cu-Cu at" in outside["outside_training_data"][0]
    assert "reach 200 K" in outside["temperature_outside"]


def test_pair_distributions_of_a_run_are_those_of_the_indicator():
    config = MDConfig(equilibration=0, production=0.04, frame_every=20)
    run = run_md(lattice(), EMT(), config)
    shown = summary(EMT(), run, "copper", "id:copper").curves["rdf"]
    expected = radial(run.frames).curves()
    assert shown["r"] == expected.x.tolist()
    np.testing.assert_allclose(shown["g"][shown["main"]], expected.values["Cu-Cu"])


def test_relaxation_of_positions_and_cell():
    atoms = bulk("Cu", "fcc", a=3.75, cubic=True)
    atoms.rattle(0.1, seed=0)
    fixed = relax(atoms, EMT(), fmax=0.01)
    assert fixed.converged
    assert fixed.max_force < 0.01
    np.testing.assert_array_equal(fixed.atoms.cell, atoms.cell)
    free = relax(atoms, EMT(), fmax=0.01, cell=True)
    assert free.energy < fixed.energy
    assert free.atoms.get_volume() == pytest.approx(3.59**3, rel=0.02)
    assert not relax(atoms, EMT(), max_steps=1).converged


def test_cells_that_cannot_relax_are_refused():
    atoms = bulk("Cu", cubic=True)
    calculator = SiliforceCalculator(toy_potential(model=DirectMorse), device="cpu")
    with pytest.raises(ConfigError, match="directly"):
        relax(atoms, calculator, cell=True)
    atoms.pbc = False
    with pytest.raises(ConfigError, match="periodic"):
        relax(atoms, EMT(), cell=True)


def test_results_of_isotropic_runs_stay_valid_under_the_newer_option():
    """Campaigns and folders know their runs by a hash of the settings."""
    assert "coupling" not in MDConfig().model_dump()
    axes = MDConfig(ensemble="npt", coupling="axes")
    assert MDConfig(**axes.model_dump()) == axes
    assert axes.model_dump_json() != MDConfig(ensemble="npt").model_dump_json()
