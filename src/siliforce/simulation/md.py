"""Molecular dynamics of one structure through ASE, with an end that always has a reason."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import ase.units
import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError
from ase.data import covalent_radii
from ase.io.trajectory import Trajectory
from ase.md.bussi import Bussi
from ase.md.md import MolecularDynamics
from ase.md.nose_hoover_chain import NoseHooverChainNVT
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary
from ase.md.verlet import VelocityVerlet
from pydantic import BaseModel, ConfigDict, Field

from siliforce.errors import ConfigError, DataError
from siliforce.graph import neighbor_list

CONTACT_SEARCH = 4.0
"""Pairs beyond this (Å) are never a close contact."""

Progress = Callable[[int, int], None]


class MDConfig(BaseModel):
    """One run: a thermostatted equilibration, then the production that averages count."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ensemble: Literal["nvt", "nve"] = "nvt"
    thermostat: Literal["bussi", "nose-hoover"] = "bussi"
    temperature: float = Field(300.0, gt=0, description="K")
    timestep: float = Field(1.0, gt=0, description="fs")
    equilibration: float = Field(0.5, ge=0, description="ps, always with the thermostat")
    production: float = Field(1.0, gt=0, description="ps")
    tau: float = Field(100.0, gt=0, description="time constant of the thermostat, fs")
    log_every: int = Field(10, ge=1, description="steps")
    frame_every: int = Field(20, ge=1, description="steps; frames of production are kept")
    seed: int = 0
    max_heating: float = Field(3.0, gt=1, description="times the temperature: runaway")
    min_contact: float = Field(0.5, ge=0, description="of the sum of covalent radii: contact")
    max_drift: float = Field(100.0, gt=0, description="meV/atom of the conserved energy")


@dataclass(frozen=True)
class Failure:
    """Why and when a run ended early.

    Attributes:
        reason: `close contact`, `temperature runaway`, `energy drift` or `not a number`.
        time: ps since the start of the run.
        detail: what was seen.
    """

    reason: str
    time: float
    detail: str

    def __str__(self) -> str:
        return f"{self.reason} after {self.time:.3f} ps: {self.detail}"


@dataclass
class MDRun:
    """What happened; `log` holds one entry per logged step, equilibration included.

    Attributes:
        log: `time` (ps), `temperature` (K, over 3N-3 degrees of freedom), `potential`,
            `kinetic`, `conserved` (eV), `min_distance` (Å; NaN if beyond the search),
            `production` (0 or 1).
        frames: positions during production.
        failure: None if the run reached its end.
        wall: s.
        steps: done.
    """

    config: MDConfig
    n_atoms: int
    log: dict[str, list[float]] = field(default_factory=dict)
    frames: list[Atoms] = field(default_factory=list)
    failure: Failure | None = None
    wall: float = 0.0
    steps: int = 0

    def production(self, name: str) -> np.ndarray:
        """A column of the log during production."""
        chosen = np.array(self.log["production"], dtype=bool)
        return np.array(self.log[name])[chosen]

    @property
    def survived(self) -> float:
        """Time reached, ps."""
        return self.steps * self.config.timestep / 1e3

    def drift(self) -> float:
        """Slope of the conserved energy during production, meV/atom/ps; NaN if too short."""
        time_ps, energy = self.production("time"), self.production("conserved")
        if len(time_ps) < 3:
            return float("nan")
        return float(1e3 / self.n_atoms * np.polyfit(time_ps, energy, 1)[0])


class _Ended(Exception):
    """The run has failed; carries why."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def run_md(
    atoms: Atoms,
    calculator: Calculator,
    config: MDConfig | None = None,
    trajectory: str | Path | None = None,
    progress: Progress = lambda done, total: None,
) -> MDRun:
    """Equilibrate with a thermostat, then run NVT or NVE; a failure ends the run and is kept.

    The centre of mass rests and takes no part in the temperature: 3N-3 degrees of freedom.

    Args:
        atoms: the start; left as it is. At least two atoms.
        calculator: any of ASE's.
        config: of the run.
        trajectory: file for the frames of production, in ASE's format, written as they come.
        progress: called with steps done and steps in all, at every logged step.

    Raises:
        ConfigError: fewer than two atoms, or elements unknown at the first step.
    """
    config = config or MDConfig()
    if len(atoms) < 2:
        raise ConfigError("dynamics needs at least two atoms: a single one has no temperature")
    moving = atoms.copy()
    moving.calc = calculator
    moving.get_forces()  # input that cannot be used is an error, not a failed run
    rng = np.random.default_rng(config.seed)
    _start_velocities(moving, config.temperature, rng)
    run = MDRun(config, len(moving))
    recorder = _Recorder(run, moving, trajectory, progress)
    start = time.perf_counter()
    try:
        for production, duration in ((False, config.equilibration), (True, config.production)):
            steps = round(duration * 1e3 / config.timestep)
            if steps:
                dynamics = _dynamics(moving, config, production, rng)
                recorder.follow(dynamics, production, steps)
    except _Ended as end:
        run.failure = Failure(end.reason, run.survived, end.detail)
    finally:
        recorder.close()
        run.wall = time.perf_counter() - start
    return run


def temperature_of(atoms: Atoms) -> float:
    """Kinetic temperature over 3N-3 degrees of freedom, K."""
    return 2 * atoms.get_kinetic_energy() / ((3 * len(atoms) - 3) * ase.units.kB)


def _start_velocities(atoms: Atoms, temperature: float, rng: np.random.Generator) -> None:
    """Maxwell-Boltzmann velocities at exactly this temperature, centre of mass at rest."""
    MaxwellBoltzmannDistribution(atoms, temperature_K=temperature, rng=rng)
    Stationary(atoms, preserve_temperature=False)
    atoms.set_momenta(atoms.get_momenta() * np.sqrt(temperature / temperature_of(atoms)))


def _dynamics(
    atoms: Atoms, config: MDConfig, production: bool, rng: np.random.Generator
) -> MolecularDynamics:
    step, tau = config.timestep * ase.units.fs, config.tau * ase.units.fs
    if production and config.ensemble == "nve":
        return VelocityVerlet(atoms, step)
    freedom = 3 * len(atoms) - 3
    if config.thermostat == "nose-hoover":
        # ASE's chain counts 3N; asked for this much less it holds 3N-3 at the temperature.
        target = config.temperature * freedom / (3 * len(atoms))
        return NoseHooverChainNVT(atoms, step, temperature_K=target, tdamp=tau)
    dynamics = Bussi(atoms, step, temperature_K=config.temperature, taut=tau, rng=rng)
    dynamics.ndof = freedom
    dynamics.target_kinetic_energy = 0.5 * freedom * ase.units.kB * config.temperature
    return dynamics


def _conserved(dynamics: MolecularDynamics, atoms: Atoms) -> float:
    """The quantity that exact integration would keep constant, eV."""
    if isinstance(dynamics, NoseHooverChainNVT):
        try:
            return dynamics.get_conserved_energy()
        except PropertyNotImplementedError as error:
            raise ConfigError(
                "the Nose-Hoover chain needs a calculator that gives free_energy; "
                "use thermostat bussi"
            ) from error
    total = atoms.get_potential_energy() + atoms.get_kinetic_energy()
    return total - getattr(dynamics, "transferred_energy", 0.0)


class _Recorder:
    """Takes the dynamics forward, writes the log and the frames, and watches for failures."""

    def __init__(
        self, run: MDRun, atoms: Atoms, trajectory: str | Path | None, progress: Progress
    ) -> None:
        self.run, self.atoms, self.progress = run, atoms, progress
        self.radii = covalent_radii[atoms.numbers]
        config = run.config
        self.total = round((config.equilibration + config.production) * 1e3 / config.timestep)
        self.writer: Any = None
        if trajectory is not None:
            Path(trajectory).parent.mkdir(parents=True, exist_ok=True)
            self.writer = Trajectory(str(trajectory), "w")

    def close(self) -> None:
        """Finish the trajectory file."""
        if self.writer is not None:
            self.writer.close()

    def follow(self, dynamics: MolecularDynamics, production: bool, steps: int) -> None:
        """Run `steps`, logging the first state too."""
        config, origin = self.run.config, _conserved(dynamics, self.atoms)
        for step in range(steps + 1):
            if step:
                self._advance(dynamics)
            if step % config.log_every == 0 or step == steps:
                self._log(_conserved(dynamics, self.atoms), origin, production)
            if production and step % config.frame_every == 0:
                self._keep_frame()

    def _advance(self, dynamics: MolecularDynamics) -> None:
        try:
            dynamics.step()
            self.atoms.get_forces()
        except DataError as error:
            sound = np.isfinite(self.atoms.positions).all()
            raise _Ended("close contact" if sound else "not a number", str(error)) from error
        except (FloatingPointError, OverflowError, ValueError) as error:
            raise _Ended("not a number", str(error)) from error
        dynamics.nsteps += 1
        self.run.steps += 1

    def _log(self, conserved: float, origin: float, production: bool) -> None:
        atoms, n_atoms = self.atoms, self.run.n_atoms
        distance, contact = self._closest()
        row = {
            "time": self.run.survived,
            "temperature": temperature_of(atoms),
            "potential": atoms.get_potential_energy(),
            "kinetic": atoms.get_kinetic_energy(),
            "conserved": conserved,
            "min_distance": distance,
            "production": float(production),
        }
        for name, value in row.items():
            self.run.log.setdefault(name, []).append(float(value))
        self.progress(self.run.steps, self.total)
        self._judge(row, 1e3 * (conserved - origin) / n_atoms, contact)

    def _judge(self, row: dict[str, float], drift: float, contact: float) -> None:
        """End the run if this state is one from which nothing sensible follows."""
        config, temperature = self.run.config, row["temperature"]
        if not np.isfinite([temperature, row["potential"]]).all():
            raise _Ended("not a number", "the energy or the velocities are not finite")
        if contact < config.min_contact:
            raise _Ended("close contact", f"two atoms {row['min_distance']:.2f} Å apart")
        if temperature > config.max_heating * config.temperature:
            raise _Ended(
                "temperature runaway", f"{temperature:.0f} K at a target of {config.temperature:g}"
            )
        if abs(drift) > config.max_drift:
            raise _Ended("energy drift", f"the conserved energy moved by {drift:.0f} meV/atom")

    def _closest(self) -> tuple[float, float]:
        """Shortest distance, Å, and the shortest one relative to the sum of covalent radii."""
        atoms = self.atoms
        try:
            pairs = neighbor_list(atoms.positions, atoms.cell.array, atoms.pbc, CONTACT_SEARCH)
        except DataError as error:
            raise _Ended("not a number", str(error)) from error
        if pairs.n_edges == 0:
            return float("nan"), np.inf
        vectors = atoms.positions[pairs.neighbor] - atoms.positions[pairs.center]
        lengths = np.linalg.norm(vectors + pairs.cell_shifts @ atoms.cell.array, axis=1)
        reach = self.radii[pairs.center] + self.radii[pairs.neighbor]
        return float(lengths.min()), float((lengths / reach).min())

    def _keep_frame(self) -> None:
        frame = self.atoms.copy()
        self.run.frames.append(frame)
        if self.writer is not None:
            self.writer.write(self.atoms)
