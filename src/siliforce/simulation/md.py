"""What a run of molecular dynamics is: its settings, its record, and when it has failed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import ase.units
import numpy as np
from ase import Atoms
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary, ZeroRotation
from pydantic import BaseModel, ConfigDict, Field, model_validator

from siliforce.errors import ConfigError
from siliforce.units import EV_PER_A3_IN_GPA

DRIFT = "energy drift"
CLOSEST_START = 0.5
"""Two atoms closer than this (Å) at the start are an error of the input."""


SHOWN_AS = {
    "time": ("ps", 1.0),
    "temperature": ("K", 1.0),
    **dict.fromkeys(("potential", "kinetic", "conserved"), ("eV", 1.0)),
    **dict.fromkeys(("min_distance", "a", "b", "c"), ("Å", 1.0)),
    "pressure": ("GPa", EV_PER_A3_IN_GPA),
    "volume": ("Å³", 1.0),
    "spread": ("eV/Å", 1.0),
}
"""Unit in which a column of a log is shown, and the factor to it; what is not here has none."""


def _is_default(coupling: str) -> bool:
    return coupling == "isotropic"


class MDConfig(BaseModel):
    """One run: an equilibration with thermostat (and barostat), then production.

    With the protocol `paper` the thermostat is a single Nosé-Hoover one for 3N+1 degrees of
    freedom and the angular momentum is removed at the start, as in the 2023 benchmark; `paper()`
    gives the other settings too.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    protocol: Literal["siliforce", "paper"] = "siliforce"
    ensemble: Literal["nvt", "nve", "npt"] = "nvt"
    thermostat: Literal["bussi", "nose-hoover", "langevin"] = "bussi"
    temperature: float = Field(300.0, gt=0, description="K")
    pressure: float = Field(0.0, description="GPa, npt only")
    coupling: Literal["isotropic", "axes", "z", "free"] = Field(
        "isotropic",
        description="how an npt cell may change: its size, along x, y, z, along z, all",
        exclude_if=_is_default,  # results that were kept before it was an option stay valid
    )
    timestep: float = Field(1.0, gt=0, description="fs")
    equilibration: float = Field(0.5, ge=0, description="ps, always with the thermostat")
    production: float = Field(1.0, gt=0, description="ps")
    tau: float = Field(100.0, gt=0, description="time constant of the thermostat, fs")
    chain: int = Field(3, ge=1, description="length of the Nose-Hoover chain")
    tau_pressure: float = Field(1000.0, gt=0, description="time constant of the barostat, fs")
    compressibility: float = Field(0.01, gt=0, description="1/GPa; sets the barostat's speed")
    log_every: int = Field(10, ge=1, description="steps")
    frame_every: int = Field(20, ge=1, description="steps; frames of production are kept")
    seed: int = 0
    max_heating: float = Field(3.0, gt=1, description="times the temperature: runaway")
    min_contact: float = Field(0.5, ge=0, description="of the sum of covalent radii: contact")
    max_drift: float = Field(
        100.0, gt=0, description="meV/atom of the conserved energy, without a thermostat (nve)"
    )

    @model_validator(mode="after")
    def _consistent(self) -> MDConfig:
        if self.protocol == "paper" and (self.ensemble, self.thermostat) != ("nvt", "nose-hoover"):
            raise ValueError("protocol paper is ensemble nvt with thermostat nose-hoover")
        if self.ensemble != "npt":
            for name, default in (("coupling", "isotropic"), ("pressure", 0.0)):
                if (given := getattr(self, name)) != default:
                    raise ValueError(f"{name} {given} is for ensemble npt, not {self.ensemble}")
        return self

    @classmethod
    def paper(cls, temperature: float, **changes: Any) -> MDConfig:
        """9 ps at 3 fs, a frame every 60 fs from 3 ps on, tau 60 fs."""
        settings: dict[str, Any] = {
            "protocol": "paper",
            "thermostat": "nose-hoover",
            "timestep": 3.0,
            "tau": 60.0,
            "equilibration": 3.0,
            "production": 6.0,
            "frame_every": 20,
        }
        return cls(temperature=temperature, **(settings | changes))

    def judges_drift(self, time: float) -> bool:
        """Whether the conserved energy decides at this time, ps: where no thermostat acts.

        A thermostat takes up what forces that are no gradient put in; the drift is reported.
        """
        step = round(time * 1e3 / self.timestep)
        return self.ensemble == "nve" and step > self.equilibration_steps

    @property
    def equilibration_steps(self) -> int:
        return round(self.equilibration * 1e3 / self.timestep)

    @property
    def total_steps(self) -> int:
        return self.equilibration_steps + round(self.production * 1e3 / self.timestep)


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

    def holds(self, config: MDConfig) -> bool:
        """Whether it still is one; a drift under a thermostat once was."""
        return self.reason != DRIFT or config.judges_drift(self.time)

    def __str__(self) -> str:
        return f"{self.reason} after {self.time:.3f} ps: {self.detail}"


@dataclass
class MDRun:
    """What happened; `log` holds one entry per logged step, equilibration included.

    The log's file has the units of `SHOWN_AS`, the log itself those of siliforce.

    Attributes:
        log: `time` (ps), `temperature` (K, over 3N-3 degrees of freedom), `potential`,
            `kinetic`, `conserved` (eV), `min_distance` (Å; NaN if beyond the search),
            `production` (0 or 1); where there is a stress `pressure` (eV/Å³, with the kinetic
            part) and `volume` (Å³), of npt runs that are not isotropic `a`, `b`, `c` (Å); of
            ensembles `spread` (largest over the atoms, eV/Å); where the training environments are
            known `novelty` (largest over the atoms, 1 at their edge).
        frames: during production, with momenta.
        failure: None if the run reached its end.
        wall: s; of a batch each run carries the share of its atoms.
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


@dataclass(frozen=True)
class Status:
    """Where a batch of runs stands.

    Attributes:
        done, total: steps.
        running, failed: runs.
        ns_per_day: simulated time of all runs together since this process started.
        alarm: what lies outside of the training data at present, or empty.
    """

    done: int
    total: int
    running: int
    failed: int
    ns_per_day: float
    alarm: str = ""


Progress = Callable[[Status], None]


class Speed:
    """Simulated nanoseconds per day, all runs together."""

    def __init__(self, timestep: float) -> None:
        self.start, self.simulated, self.timestep = time.perf_counter(), 0.0, timestep

    def add(self, runs: int) -> None:
        """One step of so many runs."""
        self.simulated += runs * self.timestep * 1e-6

    def ns_per_day(self) -> float:
        """So far."""
        return 86400 * self.simulated / max(time.perf_counter() - self.start, 1e-9)


def judged(
    config: MDConfig, row: dict[str, float], drift: float, contact: float
) -> tuple[str, str] | None:
    """Reason and detail if this state is one from which nothing sensible follows.

    Args:
        row: of the log.
        drift: of the conserved energy since the phase began, meV/atom.
        contact: shortest distance over the sum of the covalent radii.
    """
    temperature = row["temperature"]
    if not np.isfinite([temperature, row["potential"]]).all():
        return "not a number", "the energy or the velocities are not finite"
    if contact < config.min_contact:
        return "close contact", f"two atoms {row['min_distance']:.2f} Å apart"
    if temperature > config.max_heating * config.temperature:
        target = f"{config.temperature:g}"
        return "temperature runaway", f"{temperature:.0f} K at a target of {target}"
    if config.judges_drift(row["time"]) and abs(drift) > config.max_drift:
        return DRIFT, f"the conserved energy moved by {drift:.0f} meV/atom"
    return None


def temperature_of(atoms: Atoms) -> float:
    """Kinetic temperature over 3N-3 degrees of freedom, K."""
    return 2 * atoms.get_kinetic_energy() / ((3 * len(atoms) - 3) * ase.units.kB)


def prepared(atoms: Atoms, config: MDConfig) -> tuple[Atoms, np.random.Generator]:
    """A copy with Maxwell-Boltzmann velocities, the centre of mass at rest, and its generator.

    At exactly the temperature; with the protocol `paper` only drawn from it, and the angular
    momentum is removed.

    Raises:
        ConfigError: fewer than two atoms, or a barostat without a cell.
    """
    if len(atoms) < 2:
        raise ConfigError("dynamics needs at least two atoms: a single one has no temperature")
    if config.ensemble == "npt" and not atoms.pbc.all():
        raise ConfigError(
            f"ensemble npt needs a cell that is periodic in three directions; pbc is "
            f"{atoms.pbc.tolist()}"
        )
    moving, rng = atoms.copy(), np.random.default_rng(config.seed)
    moving.set_constraint()
    MaxwellBoltzmannDistribution(moving, temperature_K=config.temperature, rng=rng)
    if config.protocol == "paper":
        Stationary(moving)
        ZeroRotation(moving)
    else:
        Stationary(moving, preserve_temperature=False)
        scale = np.sqrt(config.temperature / temperature_of(moving))
        moving.set_momenta(moving.get_momenta() * scale)
    return moving, rng
