"""Samplers: molecular dynamics through a list of stages, resumable, the same frames every time.

A trajectory is cut into segments, one per kept frame. The random numbers of a segment are seeded
by (seed, stage, segment) and everything else is in positions, velocities and cell, so that a run
killed and resumed gives the very frames of a run left alone.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator, all_changes
from ase.md.langevin import Langevin
from ase.md.nptberendsen import NPTBerendsen
from ase.md.velocitydistribution import Stationary, thermalize_momenta
from ase.md.verlet import VelocityVerlet
from ase.optimize import LBFGS
from pydantic import BaseModel, ConfigDict, Field

from siliforce.files import write_atomic
from siliforce.generate.engines import Engine
from siliforce.generate.frames import canonical, to_extxyz
from siliforce.generate.structures import closest_approach
from siliforce.jobs import JobFailed

CHECKPOINT_SECONDS = 10.0
HOTTEST = 6.0  # times the target temperature: the sampler ran away
CLOSEST = 0.35  # sums of covalent radii: atoms on top of each other


class Stage(BaseModel):
    """One stage of a trajectory.

    Attributes:
        temperature: [K]; two numbers are a ramp; None is the temperature of the start.
        fs: length.
        every_fs: time between kept frames.
        keep: whether its frames are kept.
        condition: what it is counted as; stages of one trajectory with the same condition count
            once.
        friction: of the Langevin thermostat [1/fs].
        pressure_gpa: of the `npt` ensemble.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    ensemble: Literal["nvt", "nve", "npt", "relax"] = "nvt"
    temperature: float | tuple[float, float] | None = None
    fs: float = Field(gt=0)
    every_fs: float = Field(gt=0)
    keep: bool = True
    condition: str | None = None
    friction: float = 0.02
    pressure_gpa: float = 0.0

    @property
    def n_segments(self) -> int:
        """How many frames it yields."""
        return max(1, round(self.fs / self.every_fs))

    def target(self, segment: int, start_temperature: float) -> float:
        """Temperature at the middle of a segment [K]."""
        if self.temperature is None:
            return start_temperature
        if isinstance(self.temperature, tuple):
            first, last = self.temperature
            return first + (last - first) * (segment + 0.5) / self.n_segments
        return self.temperature


class EngineCalculator(Calculator):
    """Any engine as an ASE calculator, for dynamics driven by it."""

    implemented_properties: ClassVar[list[str]] = ["energy", "forces", "stress"]

    def __init__(self, engine: Engine, safer: bool = False) -> None:
        super().__init__()
        self.engine, self.safer, self.version = engine, safer, ""
        self.parameters = {**engine.identity(), "safer": safer}

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """See ASE's `Calculator.calculate`."""
        super().calculate(atoms, properties, system_changes)
        with tempfile.TemporaryDirectory() as folder:
            labels = self.engine.label(self.atoms, Path(folder), self.safer)
        self.version = labels.version
        self.results = {"energy": labels.energy, "forces": labels.forces}
        self.results["free_energy"] = labels.energy
        if labels.stress is not None:
            self.results["stress"] = labels.stress


class Checkpoint:
    """Frames so far and the state to go on from; a torn tail of the frames is cut off."""

    def __init__(self, folder: Path) -> None:
        self.frames_path = folder / "frames.extxyz"
        self.state_path = folder / "state.json"
        folder.mkdir(parents=True, exist_ok=True)
        self.pending: list[Atoms] = []
        self.saved_at = time.monotonic()

    def load(self, atoms: Atoms) -> tuple[int, int]:
        """Put the stored state into `atoms`; returns the stage and segment to do next."""
        if not self.state_path.is_file():
            self.frames_path.unlink(missing_ok=True)
            return 0, 0
        state = json.loads(self.state_path.read_text())
        atoms.set_cell(np.array(state["cell"]))
        atoms.positions = np.array(state["positions"])
        atoms.set_momenta(np.array(state["momenta"]))
        if self.frames_path.is_file():
            with self.frames_path.open("r+") as file:
                file.truncate(state["bytes"])
        return state["stage"], state["segment"]

    def add(self, frame: Atoms | None, atoms: Atoms, stage: int, segment: int) -> None:
        """A segment is done; written at most every few seconds."""
        if frame is not None:
            self.pending.append(frame)
        if time.monotonic() - self.saved_at > CHECKPOINT_SECONDS:
            self.save(atoms, stage, segment)

    def save(self, atoms: Atoms, stage: int, segment: int) -> None:
        """Write everything; the state counts only the bytes that are safely there."""
        with self.frames_path.open("a") as file:
            if self.pending:
                file.write(to_extxyz(self.pending))
            file.flush()
            size = file.tell()
        self.pending = []
        state = {
            "stage": stage,
            "segment": segment,
            "bytes": size,
            "cell": atoms.cell.array.tolist(),
            "positions": atoms.positions.tolist(),
            "momenta": atoms.get_momenta().tolist(),
        }
        write_atomic(self.state_path, json.dumps(state))
        self.saved_at = time.monotonic()


def sample(
    start: Atoms,
    stages: list[Stage],
    engine: Engine,
    folder: Path,
    *,
    temperature: float = 300.0,
    timestep: float = 1.0,
    seed: int = 0,
    safer: bool = False,
    keep_labels: bool = False,
) -> Path:
    """Run (or go on with) one trajectory; returns the file of its frames.

    Args:
        temperature: of stages that name none [K].
        timestep: [fs]; the safer second try takes half.
        keep_labels: the sampler is the labelling engine: keep its energies and forces.

    Raises:
        JobFailed: the dynamics ran away, or the engine failed.
    """
    atoms = start.copy()
    atoms.calc = EngineCalculator(engine, safer)
    checkpoint = Checkpoint(folder)
    first_stage, first_segment = checkpoint.load(atoms)
    step = timestep / 2 if safer else timestep
    for number in range(first_stage, len(stages)):
        stage = stages[number]
        begin = first_segment if number == first_stage else 0
        for segment in range(begin, stage.n_segments):
            rng = np.random.default_rng([seed, number, segment])
            target = stage.target(segment, temperature)
            if number == 0 and segment == 0:
                thermalize_momenta(atoms, temperature_K=target, rng=rng)
                Stationary(atoms)
            _advance(atoms, stage, target, step, rng)
            frame = _keep(atoms, stage, target, start.info, keep_labels)
            checkpoint.add(frame if stage.keep else None, atoms, number, segment + 1)
    checkpoint.save(atoms, len(stages), 0)
    return checkpoint.frames_path


def _advance(
    atoms: Atoms, stage: Stage, target: float, timestep: float, rng: np.random.Generator
) -> None:
    """One segment."""
    steps = max(1, round(stage.every_fs / timestep))
    dt = timestep * units.fs
    if stage.ensemble == "relax":
        LBFGS(atoms, logfile=None).run(fmax=0.02, steps=steps)
        return
    dynamics: Any
    if stage.ensemble == "nve":
        dynamics = VelocityVerlet(atoms, dt)
    elif stage.ensemble == "npt":
        dynamics = NPTBerendsen(
            atoms,
            dt,
            temperature_K=target,
            pressure_au=stage.pressure_gpa * units.GPa,
            taut=100 * units.fs,
            taup=1000 * units.fs,
            compressibility_au=0.01 / units.GPa,
        )
    else:
        friction = stage.friction / units.fs
        dynamics = Langevin(
            atoms, dt, temperature_K=target, friction=friction, fixcm=False, rng=rng
        )
    dynamics.run(steps)
    hot = atoms.get_temperature()
    if not np.isfinite(hot) or hot > HOTTEST * max(target, 300.0):
        raise JobFailed(f"the sampler ran away in stage '{stage.name}' ({hot:.0f} K)")
    if closest_approach(atoms) < CLOSEST:
        raise JobFailed(f"the sampler put atoms on top of each other in stage '{stage.name}'")


def _keep(atoms: Atoms, stage: Stage, target: float, info: dict[str, Any], labels: bool) -> Atoms:
    """The frame as it is stored: wrapped into the cell, with what it was sampled at."""
    frame = canonical(atoms)
    frame.wrap()
    frame.info = info | {"stage": stage.name, "T": round(target)}
    if labels:
        from ase.calculators.singlepoint import SinglePointCalculator

        results = {k: v for k, v in atoms.calc.results.items() if k != "free_energy"}
        frame.calc = SinglePointCalculator(frame, **results)
        frame.info["level"] = atoms.calc.engine.level(frame, atoms.calc.version)
    return frame
