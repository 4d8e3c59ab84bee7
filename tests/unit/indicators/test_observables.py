"""Pressure, survival, vibrations and the benchmark's timing: against what is known."""

from __future__ import annotations

from typing import ClassVar

import ase.units
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from scipy.signal import lfilter

from siliforce.data.reference import Curves
from siliforce.errors import DataError
from siliforce.indicators.base import Result
from siliforce.indicators.pressure import pressure
from siliforce.indicators.speed import speed_of_set
from siliforce.indicators.survival import Lifetime, kaplan_meier, survival
from siliforce.indicators.vdos import (
    density_of_states,
    distance,
    noise,
    undamped,
    vdos,
    with_velocities,
)
from siliforce.simulation.batched import run_md
from siliforce.simulation.calculator import SiliforceCalculator
from siliforce.simulation.md import MDConfig
from siliforce.units import EV_PER_A3_IN_GPA
from tests.toys import DirectMorse, toy_potential

# -- pressure -------------------------------------------------------------------------------------


def copper(scale: float = 1.0) -> Atoms:
    atoms = bulk("Cu", "fcc", a=3.6 * scale, cubic=True)
    atoms.rattle(0.05, seed=1)
    return atoms


def test_pressure_is_minus_the_slope_of_the_energy() -> None:
    """At rest: -dE/dV under scaling of the cell, for a batch and for a calculator."""
    for source in (toy_potential(), EMT()):
        calculator = SiliforceCalculator(source) if not isinstance(source, EMT) else source
        energies, volumes = [], []
        for scale in (1 - 1e-3, 1 + 1e-3):
            image = copper()
            image.set_cell(image.cell * scale, scale_atoms=True)
            image.calc = calculator
            energies.append(image.get_potential_energy())
            volumes.append(image.get_volume())
        slope = -(energies[1] - energies[0]) / (volumes[1] - volumes[0]) * EV_PER_A3_IN_GPA
        result = pressure(source, [copper()])
        assert result.value("pressure") == pytest.approx(slope, rel=2e-3)
        assert result.provenance["kinetic"] == "none: atoms at rest"


class Ideal(Calculator):
    """Atoms that do not interact."""

    implemented_properties: ClassVar = ["energy", "forces", "stress"]

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.results = {"energy": 0.0, "forces": np.zeros((len(atoms), 3)), "stress": np.zeros(6)}


def test_kinetic_part() -> None:
    """ASE adds it to the stress by itself; a gas that does not interact has N k T / V."""
    atoms = copper()
    MaxwellBoltzmannDistribution(atoms, temperature_K=600, rng=np.random.default_rng(0))
    result = pressure(EMT(), [atoms])
    atoms.calc = EMT()
    whole = atoms.get_stress(include_ideal_gas=True)
    assert result.value("pressure") == pytest.approx(-whole[:3].mean() * EV_PER_A3_IN_GPA)
    assert result.provenance["kinetic"] == "velocities"
    gas = Atoms("Ar5", np.eye(5, 3) * 7, cell=[30, 30, 30], pbc=True)
    found = pressure(Ideal(), [gas], temperature=300)
    expected = 4 * ase.units.kB * 300 / 27000 * EV_PER_A3_IN_GPA  # the centre of mass rests
    assert found.value("pressure") == pytest.approx(expected)
    assert found.provenance["kinetic"] == "300 K"


def test_pressure_against_a_reference_and_its_noise() -> None:
    frames = [copper(1 + 0.002 * k) for k in range(8)]
    result = pressure(toy_potential(), frames, reference=1.0, name="cu", split="id:cu-300K")
    metric = result.metric("pressure")
    assert metric.low < metric.value < metric.high
    assert result.value("pressure_error") == pytest.approx(metric.value - 1.0)
    assert metric.value == pytest.approx(np.mean(result.curves["pressure"]))


def test_a_direct_model_has_no_pressure() -> None:
    result = pressure(toy_potential(model=DirectMorse), [copper()], reference=0.0)
    for name in ("pressure", "pressure_error"):
        metric = result.metric(name)
        assert metric.value is None
        assert "predicts forces directly" in metric.note
    assert result.failure == ""
    broken = pressure(toy_potential(model=DirectMorse), [], failure="energy drift")
    assert "predicts forces directly" in broken.metric("pressure").note
    assert broken.failure == "", "that its run failed stands with the run"
    failed = pressure(toy_potential(), [copper()], failure="energy drift")
    assert failed.value("pressure") is None
    with pytest.raises(DataError, match="periodic in three"):
        pressure(EMT(), [Atoms("Cu2", [[0, 0, 0], [2.5, 0, 0]])])
    with pytest.raises(DataError, match="no frames"):
        pressure(EMT(), [])


# -- survival -------------------------------------------------------------------------------------


def test_kaplan_meier_against_a_worked_example() -> None:
    """Freireich's remission times (6-MP arm), as in every textbook of survival analysis."""
    times = [6, 6, 6, 6, 7, 9, 10, 10, 11, 13, 16, 17, 19, 20, 22, 23, 25, 32, 32, 34, 35]
    failed = [1, 1, 1, 0, 1, 0, 1, 0, 0, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0]
    runs = [Lifetime(t, "relapse" if f else "") for t, f in zip(times, failed, strict=True)]
    found = kaplan_meier(runs)
    assert found.time.tolist() == [0, 6, 7, 10, 13, 16, 22, 23, 35]
    expected = [1, 0.857, 0.807, 0.753, 0.690, 0.627, 0.538, 0.448, 0.448]
    np.testing.assert_allclose(found.survived, expected, atol=5e-4)
    # The log-log interval at t = 10 as survival packages print it.
    assert found.low[3] == pytest.approx(0.503, abs=2e-3)
    assert found.high[3] == pytest.approx(0.889, abs=2e-3)
    area = np.trapezoid(np.repeat(expected[:-1], 2), np.repeat(found.time, 2)[1:-1])
    assert found.mean_lifetime() == pytest.approx(area, abs=0.02)


def test_all_or_none_survive() -> None:
    whole = survival("m", [Lifetime(2.0)] * 8).metric("survived_fraction")
    assert (whole.value, whole.high) == (1, 1)
    assert whole.low == pytest.approx(0.025 ** (1 / 8))  # exact: p^8 = 2.5 %
    none = survival("m", [Lifetime(0.5, "close contact")] * 8)
    assert none.value("survived_fraction") == 0
    assert none.metric("survived_fraction").high == pytest.approx(1 - 0.025 ** (1 / 8))
    assert none.value("mean_lifetime") == 0.5
    with pytest.raises(DataError, match="survival needs runs"):
        survival("m", [])


def test_intervals_cover() -> None:
    """The 95 % interval at 1 ps of exponential lifetimes, censored at 2 ps, over 150 samples."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(150):
        times = rng.exponential(2.0, size=20)
        runs = [Lifetime(min(t, 2.0), "drift" if t < 2 else "") for t in times]
        found = kaplan_meier(runs)
        step = np.searchsorted(found.time, 1.0, side="right") - 1
        hits += found.low[step] <= np.exp(-0.5) <= found.high[step]
    assert 0.9 < hits / 150 <= 0.99


def test_survival_of_simulations() -> None:
    """Argon that is thrown together fails; argon at rest does not."""
    config = MDConfig(temperature=20, timestep=5, equilibration=0, production=0.1, log_every=2)
    argon = bulk("Ar", "fcc", a=5.3, cubic=True)
    lj = LennardJones(sigma=3.4, epsilon=0.0104, rc=8, smooth=True)
    good = run_md(argon, lj, config)
    squeezed = argon.copy()
    squeezed.set_cell(argon.cell * 0.6, scale_atoms=True)
    hot = config.model_copy(update={"temperature": 60.0})
    bad = run_md(squeezed, lj, hot)
    result = survival(lj, [good, good, bad], name="argon", split="id:argon")
    assert result.value("survived_fraction") == pytest.approx(2 / 3)
    assert result.value("n_failed") == 1
    (row,) = result.tables["reasons"]
    assert (row["failed"], row["runs"], row["temperature"]) == (1, 1, 60)
    assert row["label"] == bad.failure.reason
    assert set(result.curves) == {"all", "20 K", "60 K"}
    assert Result.model_validate(result.model_dump()).curves["20 K"]["survived"] == [1, 1]


# -- vibrations -----------------------------------------------------------------------------------


def harmonic_trajectory(n_frames: int, interval: float) -> tuple[list[Atoms], np.ndarray, dict]:
    """A chain of three pairs of Si and Ge on springs, every mode with the same energy.

    Returns frames, frequencies of the modes (THz), and the share of Ge in each mode.
    """
    numbers = np.array([14, 32] * 3)
    masses = Atoms(numbers).get_masses()
    stiffness = np.diag([4.0, 9.0, 5.0, 11.0, 6.0, 8.0])
    for i in range(5):
        stiffness[i, i + 1] = stiffness[i + 1, i] = -2.0
    dynamical = stiffness / np.sqrt(np.outer(masses, masses))
    squares, modes = np.linalg.eigh(dynamical)
    omega = np.sqrt(squares)  # per ASE's unit of time
    phases = np.random.default_rng(3).uniform(0, 2 * np.pi, 6)
    frames = []
    for k in range(n_frames):
        time = k * interval * ase.units.fs
        amplitude = np.cos(omega * time + phases)
        atoms = Atoms(numbers, np.zeros((6, 3)), cell=[9, 9, 9], pbc=True)
        velocities = np.zeros((6, 3))
        velocities[:, 0] = modes @ amplitude / np.sqrt(masses)
        atoms.set_velocities(velocities)
        frames.append(atoms)
    thz = omega / (2 * np.pi) * ase.units.fs * 1e3
    return frames, thz, {"Ge": (modes[1::2] ** 2).sum(axis=0), "Si": (modes[::2] ** 2).sum(axis=0)}


def test_density_of_states_of_coupled_oscillators() -> None:
    """Every mode is a peak at its frequency, with the share of each element as its area."""
    frames, frequencies, shares = harmonic_trajectory(4096, 4.0)
    found = density_of_states(frames, 4.0, resolution=0.09)
    step = found.x[1]
    assert np.diff(np.sort(frequencies)).min() > 5 * step
    for element, share in shares.items():
        assert found.values[element].sum() * step == pytest.approx(1)
        for frequency, part in zip(frequencies, share, strict=True):
            near = np.abs(found.x - frequency) < 2.5 * step
            expected = part / share.sum()
            assert found.values[element][near].sum() * step == pytest.approx(expected, abs=0.01)
    result = vdos("chain", frames, 4.0, found, resolution=0.09)
    assert result.value("mean_frequency") == pytest.approx(frequencies.mean(), rel=0.01)
    assert result.value("vdos_wasserstein") == pytest.approx(0, abs=1e-12)


def test_distance_of_densities_of_states() -> None:
    """The same velocities at another interval: all frequencies are scaled."""
    frames, frequencies, shares = harmonic_trajectory(4096, 4.0)
    faster = density_of_states(frames, 3.8, resolution=0.2)
    result = vdos("m", frames, 4.0, faster, resolution=0.2, name="chain", split="id:chain")
    means = [np.average(frequencies, weights=share) for share in shares.values()]
    expected = np.mean(means) * (4.0 / 3.8 - 1)
    assert result.value("vdos_wasserstein") == pytest.approx(expected, rel=0.05)
    failed = vdos("m", [], 4.0, faster, failure="energy drift")
    assert failed.value("vdos_wasserstein") is None


def damped_noise(seed: int, n_frames: int) -> list[Atoms]:
    """Velocities of independent, damped, randomly driven oscillators: spectra with a width."""
    rng = np.random.default_rng(seed)
    kicks = rng.normal(size=(n_frames + 100, 4, 3))
    motion = lfilter([1.0], [1.0, -1.6, 0.9], kicks, axis=0)[100:]
    frames = []
    for velocities in motion:
        atoms = Atoms("SiSiGeGe", np.zeros((4, 3)), cell=[9, 9, 9], pbc=True)
        atoms.set_velocities(velocities)
        frames.append(atoms)
    return frames


def test_the_noise_of_vibrations_is_what_two_trajectories_differ_by() -> None:
    runs = [damped_noise(k, 256) for k in range(24)]
    densities = [density_of_states(run, 4.0) for run in runs]
    pairs = zip(densities[::2], densities[1::2], strict=True)
    true = np.mean([distance(a, b) for a, b in pairs])
    estimates = [noise(run, 4.0)["vdos_wasserstein"] for run in runs]
    assert np.mean(estimates) == pytest.approx(true, rel=0.25)
    assert noise(runs[0][:40], 4.0) == {}


def test_positions_give_the_velocities() -> None:
    """Differences damp a vibration of 20 THz to 0.76 of its power at 10 fs, which is undone."""
    interval, frames = 10.0, []
    for k in range(400):
        time = k * interval
        x = [0.1 * np.sin(2 * np.pi * 5e-3 * time), 0.1 / 4 * np.cos(2 * np.pi * 20e-3 * time)]
        frames.append(Atoms("Si2", [[x[0], 0, 0], [x[1], 4, 0]], cell=[8, 8, 8], pbc=True))
        frames[-1].wrap()
    moving = with_velocities(frames, interval)
    middle = 2 * np.pi * 5e-3 * 0.1 * np.cos(2 * np.pi * 5e-3 * 10.5 * interval)
    assert moving[10].get_velocities()[0, 0] * ase.units.fs == pytest.approx(middle, rel=0.01)
    damped = density_of_states(moving, interval)
    step = damped.x[1]

    def part(curves: Curves) -> float:
        return curves.values["all"][curves.x > 12].sum() * step

    ratio = np.sinc(0.2) ** 2 / np.sinc(0.05) ** 2
    assert part(damped) == pytest.approx(ratio / (1 + ratio), rel=0.01)
    assert part(undamped(damped, interval)) == pytest.approx(0.5, rel=0.01)


def test_what_has_no_density_of_states() -> None:
    frames = harmonic_trajectory(40, 4.0)[0]
    with pytest.raises(DataError, match="without velocities"):
        density_of_states([Atoms("Si")] * 40, 4.0)
    with pytest.raises(DataError, match="16 frames at least"):
        density_of_states(frames[:5], 4.0)
    with pytest.raises(DataError, match=r"resolution of 0\.1 THz cannot be had"):
        density_of_states(frames, 4.0, resolution=0.1)
    with pytest.raises(DataError, match="must be positive"):
        density_of_states(frames, 0.0)
    with pytest.raises(DataError, match="not the same elements"):
        vdos("m", frames, 4.0, density_of_states([a[[0, 2, 4]] for a in frames], 4.0))


# -- timing ---------------------------------------------------------------------------------------


def test_the_speed_of_a_test_set() -> None:
    frames = [copper(), copper(1.02), copper().repeat((2, 1, 1))]
    for source in (toy_potential(), EMT()):
        result = speed_of_set(source, frames, passes=2, name="cu")
        assert result.protocol == "paper"
        metric = result.metric("energy_forces")
        assert 0 < metric.low <= metric.value <= metric.high
        per_frame = result.value("frame_time") * 1e-3 * 3
        assert per_frame == pytest.approx(metric.value * 1e-6 * 16)
        assert result.value("peak_memory") > 0
        assert result.provenance["n_atoms"] == 16
    with pytest.raises(DataError, match="nothing to time"):
        speed_of_set(EMT(), [])
