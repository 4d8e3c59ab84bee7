"""The loop of batched dynamics: who is still running, what is logged, kept and judged."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import ase.units
import numpy as np
import torch
from ase import Atoms

from siliforce.errors import ConfigError, DataError
from siliforce.simulation.archive import Archive
from siliforce.simulation.domain import OutsideRangeWarning, alarm_text
from siliforce.simulation.forces import Forces
from siliforce.simulation.integrators import Integrator, State, virial_pressure
from siliforce.simulation.md import (
    CLOSEST_START,
    Failure,
    MDConfig,
    MDRun,
    Progress,
    Speed,
    Status,
    judged,
    prepared,
)
from siliforce.simulation.neighbors import CollapsedError

MOVING = ("positions", "momenta", "cell")
"""What is kept of a state, beside the variables of thermostat and barostat."""


class Batch:
    """The runs of one batch: who is still running, at which step, and what is written."""

    def __init__(
        self,
        forces: Forces,
        starts: Sequence[Atoms],
        configs: Sequence[MDConfig],
        archive: Archive | None,
        progress: Progress,
        checkpoint_every: float,
    ) -> None:
        self.forces, self.archive, self.progress = forces, archive, progress
        self.config, self.checkpoint_every = configs[0], checkpoint_every
        if self.config.ensemble == "npt" and not forces.has_stress:
            raise ConfigError(
                "ensemble npt needs the stress, which this source does not give (direct models "
                "have none); choose nvt or nve, or a gradient model"
            )
        ready = [prepared(a, c) for a, c in zip(starts, configs, strict=True)]
        self.starts = [atoms for atoms, _ in ready]
        self.runs = [MDRun(c, len(a)) for c, a in zip(configs, starts, strict=True)]
        self.alive = list(range(len(starts)))
        self.state = initial_state(self.starts, [rng for _, rng in ready], configs, forces.device)
        self.step, self.production = 0, False
        self.origin: dict[int, float] = {}  # conserved energy at the start of the phase
        self.broken: dict[int, tuple[str, str]] = {}
        self.warned, self.speed = False, Speed(self.config.timestep)
        self.charged = self.saved = time.perf_counter()

    # -- the loop -----------------------------------------------------------------------------

    def run(self) -> list[MDRun]:
        """To the end of the last run."""
        fresh = not self._resumed()
        if self.archive is not None and fresh:
            self.archive.begin()
        try:
            if fresh or (self.alive and self.step < self.config.total_steps):
                self._first()
            if fresh:
                self._begin(production=self.config.equilibration_steps == 0)
            else:
                self.integrator = Integrator(self.config, self.state, self.production)
            while self.alive and self.step < self.config.total_steps:
                if not self.production and self.step == self.config.equilibration_steps:
                    self._begin(production=True)
                    continue
                self._advance()
                if time.perf_counter() - self.saved > self.checkpoint_every:
                    self._save()
            self._save()
        finally:
            if self.archive is not None:
                self.archive.close()
        return self.runs

    def _first(self) -> None:
        """Forces of the start; input that cannot be used is an error, not a failed run."""
        self.forces(self.state, self.forces.has_stress)
        distances, _ = self.forces.contacts(self.state)
        for run, distance in zip(self.alive, distances, strict=True):
            if self.step == 0 and distance < CLOSEST_START:
                raise DataError(
                    f"start {run} ({self.starts[run].get_chemical_formula()}) has atoms "
                    f"{distance:.2f} Å apart; at least {CLOSEST_START} Å are needed. Check the "
                    "cell, or relax the structure first"
                )
        if self.step == 0:
            self._warn(0.0, self.forces.outside(self.starts))

    def _begin(self, production: bool) -> None:
        """Start a phase: its integrator, its zero of energy, its first entries."""
        self.production, self.phase = production, self.step
        self.integrator = Integrator(self.config, self.state, production)
        conserved = self.integrator.conserved(self.state).tolist()
        self.origin = dict(zip(self.alive, conserved, strict=True))
        self._log()
        if production:
            self._keep_frames()
        self._take_out()

    def _advance(self) -> None:
        """One step, and what is due after it."""
        steps = self.config.total_steps if self.production else self.config.equilibration_steps
        since = self.step + 1 - self.phase
        logged = since % self.config.log_every == 0 or self.step + 1 == steps
        self.want_stress = self.integrator.needs_stress or (logged and self.forces.has_stress)
        self.before = (self.state.positions, self.state.cell)
        self.integrator.step(self.state, self._evaluate)
        self.step += 1
        self.speed.add(len(self.alive))
        for place, run in enumerate(self.alive):
            self.runs[run].steps = self.step - (place in self.broken)
        self._take_out()
        if not self.alive:
            return
        if logged:
            self._log()
        if self.production and since % self.config.frame_every == 0:
            self._keep_frames()
        self._take_out()

    def _evaluate(self, state: State) -> None:
        """Forces; systems that have none are put back to where they were, and noted."""
        while len(self.broken) < state.n_systems:
            try:
                self.forces(state, self.want_stress)
                return
            except CollapsedError as error:
                state.positions, state.cell = state.positions.clone(), state.cell.clone()
                for place, detail in error.systems.items():
                    if place in self.broken:
                        raise
                    own = state.system_index == place
                    sound = bool(torch.isfinite(state.positions[own]).all())
                    self.broken[place] = "close contact" if sound else "not a number", detail
                    state.positions[own] = self.before[0][own]
                    state.cell[place] = self.before[1][place]

    def _take_out(self) -> None:
        """End the runs that were found broken; the others go on."""
        if not self.broken:
            return
        for place, (reason, detail) in self.broken.items():
            run = self.runs[self.alive[place]]
            run.failure = Failure(reason, run.survived, detail)
        left = [i for i in range(len(self.alive)) if i not in self.broken]
        self.alive, self.broken = [self.alive[i] for i in left], {}
        if left:
            self.state = self.state.select(left)
            self.forces.select(left)
            self.integrator.select(left)

    # -- records ------------------------------------------------------------------------------

    def _log(self) -> None:
        """One entry for every run, and the judgement on it."""
        self._charge()
        columns, contacts = self._columns()
        for place, run in enumerate(self.alive):
            record = self.runs[run]
            row = {"time": record.survived}
            row |= {name: float(values[place]) for name, values in columns.items()}
            row["production"] = float(self.production)
            for name, value in row.items():
                record.log.setdefault(name, []).append(value)
            if self.archive is not None:
                self.archive.add_row(run, row)
            drift = 1e3 * (row["conserved"] - self.origin[run]) / record.n_atoms
            found = judged(record.config, row, drift, contacts[place])
            if found:
                self.broken[place] = found
        alarm = alarm_text(self.forces.spread_limit, self.alive, columns)
        self._warn(self.step * self.config.timestep / 1e3, alarm)
        self._report(alarm)

    def _warn(self, time_ps: float, alarm: str) -> None:
        if not alarm or self.warned:
            return
        self.warned = True
        warnings.warn(
            f"outside of the training data at {time_ps:.3f} ps: {alarm}. Said once; the log has "
            "the rest",
            OutsideRangeWarning,
            stacklevel=2,
        )

    def _report(self, alarm: str) -> None:
        failed = sum(run.failure is not None for run in self.runs) + len(self.broken)
        self.progress(
            Status(
                done=self.step,
                total=self.config.total_steps,
                running=len(self.alive) - len(self.broken),
                failed=failed,
                ns_per_day=self.speed.ns_per_day(),
                alarm=alarm,
            )
        )

    def _columns(self) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Of the log by name, and the closest contact, each (b,)."""
        state = self.state
        distance, contact = self.forces.contacts(state)
        kinetic = state.kinetic()
        freedom = 3 * state.sizes - 3
        found = {
            "temperature": 2 * kinetic / (freedom * ase.units.kB),
            "potential": state.energy,
            "kinetic": kinetic,
        }
        columns = {name: value.cpu().numpy() for name, value in found.items()}
        columns["conserved"] = self.integrator.conserved(state)
        columns["min_distance"] = np.where(np.isfinite(distance), distance, np.nan)
        if state.stress is not None:
            pressure = virial_pressure(state) + 2 * kinetic / (3 * state.volume)
            columns["pressure"] = pressure.cpu().numpy()
            columns["volume"] = state.volume.cpu().numpy()
            if self.config.coupling != "isotropic":
                lengths = torch.linalg.vector_norm(state.cell, dim=2).cpu().numpy()
                columns |= dict(zip("abc", lengths.T, strict=True))
        if state.spread is not None:
            columns["spread"] = state.spread.cpu().numpy()
        novelty = self.forces.novelty(state)
        if novelty is not None:
            columns["novelty"] = novelty
        return columns, contact

    def _keep_frames(self) -> None:
        state = self.state
        ends = torch.cumsum(state.sizes, 0).tolist()
        positions, momenta = state.positions.cpu().numpy(), state.momenta.cpu().numpy()
        cells = state.cell.cpu().numpy()
        for place, run in enumerate(self.alive):
            own = slice(ends[place] - self.runs[run].n_atoms, ends[place])
            start = self.starts[run]
            frame = Atoms(start.numbers, positions[own], cell=cells[place], pbc=start.pbc)
            frame.set_masses(start.get_masses())
            frame.set_momenta(momenta[own])
            frame.info["time"] = self.runs[run].survived
            self.runs[run].frames.append(frame)
            if self.archive is not None:
                self.archive.add_frame(run, frame)

    def _charge(self) -> None:
        """Share the time that has passed among the runs, by their atoms."""
        now = time.perf_counter()
        atoms = sum(self.runs[run].n_atoms for run in self.alive)
        for run in self.alive:
            self.runs[run].wall += (now - self.charged) * self.runs[run].n_atoms / atoms
        self.charged = now

    # -- interruption -------------------------------------------------------------------------

    def _save(self) -> None:
        if self.archive is None:
            return
        facts = {
            "step": self.step,
            "production": self.production,
            "phase": self.phase,
            "alive": self.alive,
            "origin": [self.origin[run] for run in self.alive],
            "rng": [rng.bit_generator.state for rng in self.state.rng],
        }
        state = self.state
        arrays = {name: getattr(state, name).cpu().numpy() for name in MOVING}
        arrays |= {f"own.{name}": value for name, value in state.own.items()}
        self.archive.save(self.runs, facts, arrays)
        self.saved = time.perf_counter()

    def _resumed(self) -> bool:
        """Take up the state on disk, if there is one."""
        found = None if self.archive is None else self.archive.resume(self.runs)
        if found is None:
            return False
        facts, arrays = found
        self.step, self.production = facts["step"], facts["production"]
        self.phase, self.alive = facts["phase"], facts["alive"]
        self.origin = dict(zip(self.alive, facts["origin"], strict=True))
        if not self.alive:
            return True
        state = self.state.select(self.alive)
        for rng, content in zip(state.rng, facts["rng"], strict=True):
            rng.bit_generator.state = content
        for name in MOVING:
            setattr(state, name, torch.from_numpy(arrays.pop(name)).to(self.forces.device))
        state.own = {name.removeprefix("own."): array for name, array in arrays.items()}
        self.state = state
        return True


def initial_state(
    moving: Sequence[Atoms],
    rng: list[np.random.Generator],
    configs: Sequence[MDConfig],
    device: torch.device,
) -> State:
    """The batch at its start."""

    def joined(value: Callable[[Atoms], np.ndarray], kind: torch.dtype) -> torch.Tensor:
        return torch.as_tensor(np.concatenate([value(a) for a in moving])).to(device, kind)

    def stacked(values: Sequence[Any], kind: torch.dtype) -> torch.Tensor:
        return torch.as_tensor(np.array(values)).to(device, kind)

    real = torch.float64
    positions = joined(lambda a: a.positions, real)
    return State(
        numbers=joined(lambda a: a.numbers, torch.int64),
        masses=joined(lambda a: a.get_masses(), real),
        sizes=stacked([len(a) for a in moving], torch.int64),
        positions=positions,
        momenta=joined(lambda a: a.get_momenta(), real),
        forces=torch.zeros_like(positions),
        cell=stacked([a.cell.array for a in moving], real),
        pbc=stacked([a.pbc for a in moving], torch.bool),
        temperature=stacked([c.temperature for c in configs], real),
        pressure=stacked([c.pressure * ase.units.GPa for c in configs], real),
        energy=torch.zeros(len(moving), dtype=real, device=device),
        rng=rng,
    )
