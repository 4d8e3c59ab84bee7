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


class ElasticBox:
    """A gas in a box whose walls cost `kT/2 sum K_ij eta_ij^2`, eta the Green-Lagrange strain."""

    n, temperature, side = 6, 500.0, 10.0
    stiffness = torch.tensor([[150.0, 90, 60], [90, 200, 120], [60, 120, 260]]).double()

    def __init__(self, coupling: str, steps: int) -> None:
        random = np.random.default_rng(0).random((self.n, 3))
        atoms = Atoms("He" * self.n, positions=self.side * random, pbc=True)
        atoms.set_cell(np.eye(3) * self.side)
        self.kT = ase.units.kB * self.temperature
        self.p0 = (self.n + 1) * self.kT / self.side**3
        config = MDConfig(
            ensemble="npt", coupling=coupling, temperature=self.temperature, timestep=5.0, tau=25.0,
            pressure=self.p0 / ase.units.GPa, tau_pressure=100.0, compressibility=1.0,
        )  # fmt: skip
        state = started(atoms, config, 96)
        self(state)
        integrator, origin, seen = Integrator(config, state, production=True), None, []
        for step in range(steps):
            integrator.step(state, self)
            origin = integrator.conserved(state) if origin is None else origin
            if step >= 200 and step % 4 == 0:
                seen.append((state.cell / self.side).numpy())
        self.cells = np.stack(seen)
        self.drift = np.abs(integrator.conserved(state) - origin).max()

    def walls(self, deformation: torch.Tensor) -> torch.Tensor:
        """Energy over kT, (..., 3, 3) -> (...)."""
        eta = 0.5 * (deformation @ deformation.mT - torch.eye(3).double())
        return 0.5 * (self.stiffness * eta.square()).sum((-1, -2))

    def __call__(self, state: State) -> None:
        strain = torch.zeros_like(state.cell, requires_grad=True)
        energy = self.kT * self.walls(state.cell / self.side @ (torch.eye(3).double() + strain))
        (slope,) = torch.autograd.grad(energy.sum(), strain)
        state.stress = 0.5 * (slope + slope.mT) / state.volume[:, None, None]
        state.energy, state.forces = energy.detach(), torch.zeros_like(state.positions)

    def weight(self, deformation: torch.Tensor) -> torch.Tensor:
        """Log of the density at fixed pressure, over the lengths of the box."""
        volume = torch.linalg.det(deformation)
        gas = self.n * volume.log() - self.p0 * self.side**3 / self.kT * volume
        return gas - self.walls(deformation)


@pytest.mark.parametrize("coupling", ["axes", "z"])
def test_lengths_of_the_box_have_their_distribution(coupling):
    box = ElasticBox(coupling, 1400)
    points = torch.linspace(0.6, 1.4, 121).double()
    one = torch.ones(1).double()
    axes = (one, one, points) if coupling == "z" else (points, points, points)
    lengths = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    weight = torch.softmax(box.weight(torch.diag_embed(lengths)), 0)[:, None]
    mean = (weight * lengths).sum(0)
    width = (weight * (lengths - mean).square()).sum(0).sqrt()
    found = np.diagonal(box.cells, axis1=2, axis2=3)
    assert np.abs(box.cells[..., ~np.eye(3, dtype=bool)]).max() == 0
    np.testing.assert_allclose(found.mean((0, 1)), mean, atol=0.005)
    np.testing.assert_allclose(found.std((0, 1)), width, rtol=0.06, atol=1e-12)
    assert box.drift < 0.1 * box.kT * box.n


def test_a_free_box_has_its_distribution_of_lengths_and_angles():
    box = ElasticBox("free", 1400)
    # Up to a rotation a cell is a lower triangle T. The density over its nine components is
    # weight det^-2, and taking the rotation out has the Jacobian T_11^2 T_22.
    rng = np.random.default_rng(1)
    lower = np.tril_indices(3)
    drawn = rng.normal(scale=0.17, size=(400_000, 6))
    triangle = np.zeros((len(drawn), 3, 3))
    triangle[:, lower[0], lower[1]] = drawn
    triangle += np.eye(3)
    diagonal = np.diagonal(triangle, axis1=1, axis2=2)
    keep = (diagonal > 0.1).all(1)
    drawn, triangle, diagonal = drawn[keep], triangle[keep], diagonal[keep]
    measure = 2 * np.log(diagonal[:, 0]) + np.log(diagonal[:, 1]) - 2 * np.log(diagonal).sum(1)
    log = box.weight(torch.from_numpy(triangle)).numpy() + measure
    log += 0.5 * np.square(drawn / 0.17).sum(1)
    weight = np.exp(log - log.max())
    weight /= weight.sum()
    metric = triangle @ triangle.transpose(0, 2, 1)
    found = box.cells @ np.swapaxes(box.cells, -1, -2)
    for i, j in zip(*lower, strict=True):
        mean = weight @ metric[:, i, j]
        width = np.sqrt(weight @ (metric[:, i, j] - mean) ** 2)
        assert found[..., i, j].mean() == pytest.approx(mean, abs=0.012)
        assert found[..., i, j].std() == pytest.approx(width, rel=0.06)
    assert box.drift < 0.1 * box.kT * box.n


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
