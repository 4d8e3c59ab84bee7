"""Molecular dynamics of every start, kept start by start, and what its frames say."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.io import read

from siliforce.benchmark.config import Simulation
from siliforce.data.reference import Start
from siliforce.indicators.adf import adf
from siliforce.indicators.base import Result
from siliforce.indicators.dynamics import dynamics
from siliforce.indicators.rdf import rdf
from siliforce.potential import Potential


def run_starts(
    source: Potential | Calculator,
    starts: Sequence[Start],
    config: Simulation,
    seed: int,
    folder: Path,
    notes: list[str],
) -> list[Result]:
    """Run every start and replica; finished ones are kept in `folder` and not run again.

    Args:
        seed: of the variant; each start and replica has its own, derived from it.
        folder: for frames and results.
        notes: told if a batch was made smaller.
    """
    results = []
    for number, start in enumerate(starts):
        for replica in range(config.replicas):
            stem = file_stem(start, replica)
            path = folder / stem
            own = config.dynamics(start.temperature, int(_seed(seed, number, replica)))
            if not (path / "dynamics.json").is_file():
                atoms = start.atoms.repeat(config.supercell)
                result = dynamics(source, atoms, own, path / "frames.traj", start.name)
                result.split = "dynamics"
                result.save(path).rename(path / "dynamics.json")
            result = Result.load(path / "dynamics.json")
            result.split = start.split
            result.provenance |= {"replica": replica, "frames_file": stem}
            results.append(result)
    return results


def structure_results(
    runs: Sequence[Result],
    starts: Sequence[Start],
    config: Simulation,
    folder: Path,
    wanted: Sequence[str],
) -> list[Result]:
    """What the frames of finished runs say, against the reference's curves.

    Args:
        runs: results of `run_starts`.
        folder: where it kept its frames.
        wanted: names of indicators.
    """
    by_split = {start.split: start for start in starts}
    found = []
    for run in runs:
        start = by_split[run.split]
        frames = _frames(folder / run.provenance["frames_file"])
        frames = frames[config.analysed(len(frames))]
        for name, measure, curves in (("rdf", rdf, start.rdf), ("adf", adf, start.adf)):
            if name in wanted and curves is not None:
                result = measure(run.model, frames, start, failure=run.failure)
                result.provenance["replica"] = run.provenance["replica"]
                found.append(result)
    return found


def _frames(folder: Path) -> list[Atoms]:
    """Frames of production that a run left."""
    path = folder / "frames.traj"
    return list(read(path, ":")) if path.is_file() and path.stat().st_size else []


def file_stem(start: Start, replica: int) -> str:
    """Name of a run's files."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", f"{start.name}-r{replica}")


def _seed(*parts: int) -> np.uint32:
    """A seed of its own for every run."""
    return np.random.SeedSequence(parts).generate_state(1)[0]
