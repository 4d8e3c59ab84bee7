"""Integrators against exact distributions, ASE's integrators and the 2023 benchmark's scheme."""

from __future__ import annotations

import ase.units
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.md.bussi import Bussi
from ase.md.nose_hoover_chain import NoseHooverChainNVT
from ase.md.verlet import VelocityVerlet
from scipy import stats

from siliforce.simulation.calculator import SiliforceCalculator
from siliforce.simulation.engine import initial_state
from siliforce.simulation.forces import PotentialForces
from siliforce.simulation.integrators import Evaluate, Integrator, State
from siliforce.simulation.md import MDConfig, prepared
from tests.springs import Network, lattice
from tests.toys import toy_potential

FS = ase.units.fs


def started(atoms: Atoms, config: MDConfig, count: int = 1) -> State:
    """`count` copies with velocities of their own."""
    configs = [config.model_copy(update={"seed": k}) for k in range(count)]
    ready = [prepared(atoms, c) for c in configs]
    return initial_state([a for a, _ in ready], [r for _, r in ready], configs, torch.device("cpu"))


def springs_at(state: State, matrix: np.ndarray, temperature: float) -> Evaluate:
    """Forces of springs between all atoms, and positions drawn from their canonical ensemble."""
    home, count = state.positions.clone(), state.n_systems
    stiffness, modes = np.linalg.eigh(matrix)
    width = np.sqrt(ase.units.kB * temperature / np.where(stiffness > 1e-9, stiffness, np.inf))
    drawn = np.random.default_rng(7).normal(size=(count, len(width))) * width @ modes.T
    state.positions = home + torch.from_numpy(drawn.reshape(-1, 3))

    def forces(state: State) -> None:
        shift = (state.positions - home).reshape(count, -1)
        force = -shift @ torch.from_numpy(matrix)
        state.energy, state.forces = -0.5 * (force * shift).sum(dim=1), force.reshape(-1, 3)

    forces(state)
    return forces


@pytest.mark.parametrize("thermostat", ["bussi", "nose-hoover", "langevin"])
def test_kinetic_energy_has_the_canonical_distribution(thermostat):
    atoms = lattice()[:8]
    config = MDConfig(thermostat=thermostat, timestep=5.0, tau=50.0)
    state = started(atoms, config, 48)
    springs = springs_at(state, Network(atoms.positions).matrix, 300)
    integrator = Integrator(config, state, production=True)
    origin, sample = integrator.conserved(state), []
    for step in range(900):
        integrator.step(state, springs)
        if step >= 150 and step % 25 == 0:
            sample.append(2 * state.kinetic().numpy() / (ase.units.kB * 300))
    found = np.concatenate(sample)
    assert stats.kstest(found, stats.chi2(21).cdf).statistic < 0.043  # the 1 % level
    assert found.mean() == pytest.approx(21, rel=0.02)
    assert found.var() == pytest.approx(42, rel=0.1)
    np.testing.assert_allclose(integrator.conserved(state), origin, atol=0.02)  # 3 meV/atom
    assert np.abs(state.total(state.momenta).numpy()).max() < 1e-9


def test_ideal_gas_has_its_volume_and_its_fluctuations():
    n, pressure = 10, 2.0
    atoms = Atoms("He" * n, positions=np.random.default_rng(0).random((n, 3)), pbc=True)
    expected = (n + 1) * ase.units.kB * 500 / (pressure * ase.units.GPa)
    atoms.set_cell(np.eye(3) * expected ** (1 / 3), scale_atoms=True)
    config = MDConfig(
        ensemble="npt", temperature=500, pressure=pressure, timestep=5.0, tau=25.0,
        tau_pressure=100.0, compressibility=1 / pressure,
    )  # fmt: skip
    state = started(atoms, config, 64)

    def nothing(state: State) -> None:
        state.energy, state.forces = torch.zeros(64), torch.zeros_like(state.positions)
        state.energy, state.stress = state.energy.double(), torch.zeros(64, 3, 3).double()

    nothing(state)
    integrator, sample = Integrator(config, state, production=True), []
    for step in range(900):
        integrator.step(state, nothing)
        if step >= 150:
            sample.append(state.volume.numpy())
    found = np.concatenate(sample)
    assert found.mean() == pytest.approx(expected, rel=0.02)
    assert found.std() == pytest.approx(expected / np.sqrt(n + 1), rel=0.05)


@pytest.mark.parametrize("kind", ["nve", "bussi", "nose-hoover"])
def test_steps_are_those_of_ase(kind):
    potential = toy_potential()
    config = MDConfig(
        ensemble="nve" if kind == "nve" else "nvt",
        thermostat="bussi" if kind == "nve" else kind,
        timestep=2.0,
        seed=3,
    )
    start = lattice()
    moving, rng = prepared(start, config)
    moving.calc = SiliforceCalculator(potential, device="cpu")
    freedom, step = 3 * len(moving) - 3, 2.0 * FS
    if kind == "nve":
        dynamics = VelocityVerlet(moving, step)
    elif kind == "bussi":
        dynamics = Bussi(moving, step, temperature_K=300, taut=100 * FS, rng=rng)
        dynamics.ndof = freedom
        dynamics.target_kinetic_energy = 0.5 * freedom * ase.units.kB * 300
    else:
        dynamics = NoseHooverChainNVT(moving, step, temperature_K=300, tdamp=100 * FS)
    ready = prepared(start, config)
    state = initial_state([ready[0]], [ready[1]], [config], torch.device("cpu"))
    forces = PotentialForces([potential])
    forces(state, stress=False)
    integrator = Integrator(config, state, production=True)
    if kind == "nose-hoover":  # ASE's chain counts 3N
        integrator.thermostat.mass[:, 0] *= 3 * len(moving) / freedom
        integrator.thermostat.freedom = np.array([3.0 * len(moving)])
    for _ in range(30):
        dynamics.run(1)
        integrator.step(state, lambda s: forces(s, stress=False))
        np.testing.assert_allclose(state.positions.numpy(), moving.positions, atol=1e-11)
        np.testing.assert_allclose(state.momenta.numpy(), moving.get_momenta(), atol=1e-11)


def test_paper_protocol_follows_the_scheme_of_the_benchmark():
    """Taylor step of positions, implicit friction, bath Q = 3N kT tau^2 driven by K - gkT/2."""
    atoms, config = lattice()[:8], MDConfig.paper(1200.0, timestep=0.1, seed=1)
    matrix = Network(atoms.positions).matrix
    state = started(atoms, config)

    def force(positions: np.ndarray) -> np.ndarray:
        return -((positions - atoms.positions).ravel() @ matrix).reshape(-1, 3)

    def springs(state: State) -> None:
        state.forces = torch.from_numpy(force(state.positions.numpy()))

    springs(state)
    integrator = Integrator(config, state, production=True)
    x, m = state.positions.numpy().copy(), atoms.get_masses()[:, None]
    v, bath, h, kT = state.momenta.numpy() / m, 0.0, 0.1 * FS, ase.units.kB * 1200
    q = 3 * len(atoms) * kT * (60 * FS) ** 2
    excess = lambda v: 0.5 * ((m * v**2).sum() - (3 * len(atoms) + 1) * kT)  # noqa: E731
    for _ in range(300):
        a = force(x) / m - bath * v
        x = x + h * v + 0.5 * h**2 * a
        half = v + 0.5 * h * a
        bath = bath + 0.5 * h * excess(v) / q + 0.5 * h * excess(half) / q
        v = (half + 0.5 * h * force(x) / m) / (1 + 0.5 * h * bath)
        integrator.step(state, springs)
    assert np.abs(x - atoms.positions).max() > 0.1
    np.testing.assert_allclose(state.positions.numpy(), x, atol=2e-4)
    assert state.own["chain_momentum"][0, 0] / integrator.thermostat.mass[0, 0] == pytest.approx(
        bath, rel=1e-2
    )


def test_paper_protocol_is_hotter_than_it_says_and_does_not_rotate():
    atoms, config = lattice()[:8], MDConfig.paper(300.0)
    state = started(atoms, config, 48)
    arms = state.positions[:8] - state.positions[:8].mean(dim=0)
    assert torch.linalg.cross(arms, state.momenta[:8]).sum(dim=0).abs().max() < 1e-9
    springs = springs_at(state, Network(atoms.positions).matrix, 300 * 25 / 21)
    integrator, sample = Integrator(config, state, production=True), []
    for step in range(1000):
        integrator.step(state, springs)
        if step >= 200:
            sample.append(2 * state.kinetic().numpy() / (ase.units.kB * 300))
    assert np.mean(sample) == pytest.approx(25, rel=0.02)  # 3N + 1, while 21 move
