"""The equation of state: an exact fit, and agreement with ASE on a real potential."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.eos import EquationOfState, birchmurnaghan

from siliforce.errors import DataError
from siliforce.indicators.eos import SCALES, equation_of_state, fit_birch_murnaghan
from siliforce.indicators.speed import speed, speed_of_set
from siliforce.potential import Card
from siliforce.simulation.calculator import SiliforceCalculator
from siliforce.units import EV_PER_A3_IN_GPA
from tests.toys import DirectMorse, Morse, toy_potential


def test_scales_are_those_of_the_protocol():
    assert len(SCALES) == 17
    assert SCALES[0] == 0.97
    assert SCALES[-1] == 1.05


def test_fit_returns_what_made_the_points():
    volumes = 40 * SCALES**3
    energies = birchmurnaghan(volumes, -10.0, 0.6, 4.7, 40.5)
    fit = fit_birch_murnaghan(volumes, energies)
    assert fit.volume == pytest.approx(40.5, rel=1e-9)
    assert fit.bulk_modulus == pytest.approx(0.6, rel=1e-7)
    assert fit.derivative == pytest.approx(4.7, rel=1e-5)
    assert fit.energy == pytest.approx(-10.0, rel=1e-10)
    assert fit.residual < 1e-10
    np.testing.assert_allclose(fit(volumes), energies, atol=1e-9)


def test_fit_needs_points_and_a_minimum():
    volumes = np.linspace(30, 40, 9)
    with pytest.raises(DataError, match="no minimum"):
        fit_birch_murnaghan(volumes, 0.1 * volumes)
    with pytest.raises(DataError, match="at least 5"):
        fit_birch_murnaghan(volumes[:4], volumes[:4])


def test_agrees_with_ase_on_copper():
    atoms = bulk("Cu", "fcc", a=3.6, cubic=True)
    result = equation_of_state(EMT(), atoms)
    eos = EquationOfState(result.curves["volume"], result.curves["energy"], "birchmurnaghan")
    volume, _, bulk_modulus = eos.fit()
    assert result.value("V0") == pytest.approx(volume, rel=1e-4)
    assert result.value("B0") == pytest.approx(bulk_modulus * EV_PER_A3_IN_GPA, rel=1e-3)
    assert 100 < result.value("B0") < 180  # copper is 137 GPa
    assert result.value("V0_per_atom") == pytest.approx(volume / 4, rel=1e-4)


def test_batch_agrees_with_the_calculator():
    atoms = bulk("Cu", "fcc", a=3.6).repeat((2, 1, 1))
    atoms.rattle(0.02, seed=0)
    batch = equation_of_state(toy_potential(), atoms)
    single = equation_of_state(SiliforceCalculator(toy_potential(), device="cpu"), atoms)
    np.testing.assert_allclose(batch.curves["energy"], single.curves["energy"], atol=1e-10)
    assert batch.value("B0") == pytest.approx(single.value("B0"))


def test_reference_is_refitted_on_the_common_window():
    atoms = bulk("Cu", "fcc", a=3.75, cubic=True)
    truth = equation_of_state(toy_potential(), atoms).curves
    rows = np.stack([truth[k] for k in ("scale", "volume", "energy")], axis=1)
    short = rows[(rows[:, 0] < 1.0325)]  # a reference that stops early
    short = np.vstack([short, [1.2, 80.0, 99.0]])  # and has a point that nobody asked for
    result = equation_of_state(toy_potential(depth=0.36), atoms, reference=short)
    assert result.value("V0_error") == pytest.approx(0, abs=0.01)  # depth moves no minimum
    assert result.value("B0_error") == pytest.approx(100 * (0.36 / 0.3429 - 1), abs=0.02)
    assert result.provenance["window"] == [0.97, 1.03]
    falling = rows[rows[:, 0] < 0.9925]
    result = equation_of_state(toy_potential(), atoms, reference=falling)
    assert result.value("B0_error") is None
    assert "no minimum" in result.provenance["reference_fit"]
    with pytest.raises(DataError, match="five are needed"):
        equation_of_state(toy_potential(), atoms, reference=rows[:3])


def test_no_minimum_is_a_result_with_a_reason():
    atoms = bulk("Cu", "fcc", a=4.4, cubic=True)
    result = equation_of_state(toy_potential(), atoms)
    assert "no minimum" in result.failure
    assert result.value("B0") is None
    assert "no minimum" in result.metric("B0").note


def test_scales_outside_the_training_density_are_named():
    atoms = bulk("Cu", "fcc", a=3.6, cubic=True)
    density = 4 / 3.6**3
    card = Card(atoms_per_volume=(density / 1.04**3, density / 0.98**3 + 1e-9))
    found = equation_of_state(toy_potential(card=card), atoms).provenance
    assert found["scales_outside_training_density"] == [0.97, 0.975, 1.045, 1.05]


def test_clusters_are_refused():
    atoms = bulk("Cu", "fcc", a=3.6)
    atoms.pbc = (True, True, False)
    with pytest.raises(DataError, match="three periodic directions"):
        equation_of_state(toy_potential(), atoms)


@pytest.mark.parametrize("model", [Morse, DirectMorse])
def test_speed_asks_as_dynamics_does(model, monkeypatch):
    """Without autograd, which gradient models switch on for themselves."""
    seen, potential = [], toy_potential(model=model)
    forward = type(potential).forward

    def watched(self, graph, **options):
        seen.append(torch.is_grad_enabled())
        found = forward(self, graph, **options)
        assert not found.forces.requires_grad
        return found

    monkeypatch.setattr(type(potential), "forward", watched)
    atoms = bulk("Cu", "fcc", a=3.6, cubic=True)
    speed(potential, atoms, repeats=1, warmup=1)
    speed_of_set(potential, [atoms], passes=1)
    assert seen == [False] * 4


def test_speed_is_positive_and_stamped():
    atoms = bulk("Cu", "fcc", a=3.6, cubic=True)
    result = speed(toy_potential(), atoms, repeats=3, warmup=1)
    metric = result.metric("energy_forces")
    assert 0 < metric.low <= metric.value <= metric.high
    assert metric.unit == "µs/atom"
    assert result.hardware["cpu"]
    assert result.provenance["n_atoms"] == 4
    with pytest.raises(DataError, match="not Si"):
        speed(toy_potential(), bulk("Si"))
