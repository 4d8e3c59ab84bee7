"""Molecular dynamics of every start as one batch, and what the frames say."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase.calculators.calculator import Calculator

from siliforce.benchmark.batches import halving
from siliforce.benchmark.config import Simulation
from siliforce.data.reference import Start
from siliforce.errors import DataError
from siliforce.indicators.adf import adf
from siliforce.indicators.base import Result
from siliforce.indicators.dynamics import summary
from siliforce.indicators.pressure import pressure
from siliforce.indicators.rdf import rdf
from siliforce.indicators.survival import survival
from siliforce.indicators.vdos import vdos
from siliforce.potential import Potential
from siliforce.simulation.batched import run_batch
from siliforce.simulation.domain import OutsideRangeWarning
from siliforce.simulation.md import MDRun, Progress

SLOWEST_SAMPLING = 12.0
"""fs between frames beyond which vibrations of light atoms appear at wrong frequencies."""


@dataclass(frozen=True)
class Simulated:
    """One run of a start."""

    start: Start
    replica: int
    run: MDRun


def run_starts(
    source: Potential | Calculator,
    starts: Sequence[Start],
    config: Simulation,
    seed: int,
    folder: Path,
    notes: list[str],
    progress: Progress = lambda status: None,
) -> list[Simulated]:
    """Run every start and replica, side by side; what is done already is read.

    Args:
        seed: of the variant; each start and replica has its own, derived from it.
        folder: for trajectories and the state from which an interrupted batch goes on.
        notes: told if the batch was made smaller.
        progress: called at every logged step.
    """
    plan = [(s, r, n) for n, s in enumerate(starts) for r in range(config.replicas)]
    atoms = [start.atoms.repeat(config.supercell) for start, _, _ in plan]
    configs = [config.dynamics(s.temperature, _seed(seed, n, r)) for s, r, n in plan]
    names = [re.sub(r"[^A-Za-z0-9._-]+", "_", f"{s.name}-r{r}") for s, r, _ in plan]

    def attempt(size: int) -> list[MDRun]:
        runs: list[MDRun] = []
        for first in range(0, len(plan), size):
            part, out = slice(first, first + size), folder / f"{first}-{size}"
            runs += run_batch(source, atoms[part], configs[part], out, progress, names[part])
        return runs

    with warnings.catch_warnings():  # the results say which frames left the training data
        warnings.simplefilter("ignore", OutsideRangeWarning)
        runs = halving(attempt, len(plan), "runs", source, notes)
    return [Simulated(s, r, run) for (s, r, _), run in zip(plan, runs, strict=True)]


def dynamics_results(
    source: Potential | Calculator, simulated: Sequence[Simulated]
) -> list[Result]:
    """How every run went."""
    results = []
    for one in simulated:
        result = summary(source, one.run, one.start.name, one.start.split)
        result.provenance["replica"] = one.replica
        results.append(result)
    return results


def structure_results(
    source: Potential | Calculator,
    simulated: Sequence[Simulated],
    config: Simulation,
    wanted: Sequence[str],
    notes: list[str],
) -> list[Result]:
    """What the frames say, against the reference's curves; survival over the replicas.

    Args:
        wanted: names of indicators.
        notes: told what was left out.
    """
    interval = config.timestep * config.frame_every
    if "vdos" in wanted and interval > SLOWEST_SAMPLING:
        notes.append(f"vdos left out: a frame every {interval:g} fs is too seldom for vibrations")
    found = []
    for one in simulated:
        start, run = one.start, one.run
        failure = str(run.failure) if run.failure else ""
        frames = run.frames[config.analysed(len(run.frames))]
        own = []
        if "rdf" in wanted and start.rdf is not None:
            own.append(rdf(source, frames, start, failure=failure))
        if "adf" in wanted and start.adf is not None:
            own.append(adf(source, frames, start, failure=failure))
        if "pressure" in wanted:
            own.append(
                pressure(
                    source, frames, start.temperature,
                    start.pressure.mean if start.pressure else None,
                    name=start.name, split=start.split, failure=failure,
                )
            )  # fmt: skip
        if "vdos" in wanted and interval <= SLOWEST_SAMPLING:
            try:
                own.append(
                    vdos(
                        source, frames, interval, start.vdos,
                        float(start.vdos.x[1]) if start.vdos else None,  # both alike blurred
                        name=start.name, split=start.split, failure=failure,
                    )
                )  # fmt: skip
            except DataError as error:
                notes.append(f"vdos of {start.name} left out: {error}")
        for result in own:
            result.provenance["replica"] = one.replica
        found += own
    if "survival" in wanted:
        for start in {one.start.split: one.start for one in simulated}.values():
            runs = [one.run for one in simulated if one.start is start]
            found.append(survival(source, runs, start.name, start.split))
    return found


def _seed(*parts: int) -> int:
    """A seed of its own for every run."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])
