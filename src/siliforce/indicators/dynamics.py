"""Whether a run of molecular dynamics holds: temperature, drift, contacts, structure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms

from siliforce.data.reference import group_name
from siliforce.indicators.base import Metric, Result, model_name, stamp
from siliforce.indicators.rdf import radial
from siliforce.potential import Potential
from siliforce.simulation.batched import Source, potentials_of, run_batch, run_configs
from siliforce.simulation.calculator import SiliforceCalculator
from siliforce.simulation.domain import (
    outside_range,
    spread_limit,
    temperature_outside,
)
from siliforce.simulation.md import SHOWN_AS, MDConfig, MDRun, Progress
from siliforce.simulation.neighbors import SkinList

AVERAGED = ("pressure", "volume", "a", "b", "c")
"""Columns of the log whose mean is a metric, where they are there."""
SHOWN = (*AVERAGED, "spread", "novelty")
"""Columns that are drawn, where they are there."""


def dynamics(
    source: Source,
    atoms: Atoms,
    config: MDConfig | None = None,
    out: str | Path | None = None,
    name: str = "",
    progress: Progress = lambda status: None,
) -> Result:
    """Run one structure and sum up what happened; see `dynamics_batch`."""
    return dynamics_batch(source, [atoms], config, out, [name] if name else None, progress)[0]


def dynamics_batch(
    source: Source,
    starts: Sequence[Atoms],
    config: MDConfig | Sequence[MDConfig] | None = None,
    out: str | Path | None = None,
    names: Sequence[str] | None = None,
    progress: Progress = lambda status: None,
) -> list[Result]:
    """Run structures side by side and sum up what happened to each.

    Args:
        source: a potential, several (an ensemble), or any ASE calculator.
        starts: left as they are.
        config: of all runs, or one for each; see `run_batch`.
        out: folder for trajectories and logs, named after the results.
        names: of the structures; their formulas if not given.
        progress: called at every logged step.

    Raises:
        ConfigError, DataError: input that cannot be run at all. A run that fails on its way is
            a result: `failure` says why and when.
    """
    configs = run_configs(config, len(starts))
    structures = list(names) if names else [a.get_chemical_formula() for a in starts]
    labels = [f"{n}-{c.temperature:g}K" for n, c in zip(structures, configs, strict=True)]
    if len(set(labels)) < len(labels):
        labels = [f"{label}-{k}" for k, label in enumerate(labels)]
    runs = run_batch(source, starts, configs, out, progress, labels)
    return [
        summary(source, run, structure, label)
        for run, structure, label in zip(runs, structures, labels, strict=True)
    ]


def summary(source: Source, run: MDRun, name: str, split: str) -> Result:
    """One run as a result."""
    members = potentials_of(source)
    measured: Any = source
    if members is not None:
        measured = (
            members[0]
            if len(members) == 1
            else SiliforceCalculator(members, str(members[0].device))
        )
    hardware, provenance = stamp(measured)
    provenance |= {
        "config": run.config.model_dump(mode="json"),
        "n_atoms": run.n_atoms,
        "degrees_of_freedom": 3 * run.n_atoms - 3,
        "steps": run.steps,
        "wall_s": run.wall,
    }
    if members is not None:
        provenance |= _range_notes(members[0], run)
    return Result(
        indicator="dynamics",
        model=model_name(measured),
        dataset=name,
        split=split,
        protocol=run.config.protocol,
        metrics=_metrics(run) + _alarms(run, members),
        curves=_curves(run),
        failure=str(run.failure) if run.failure else "",
        hardware=hardware,
        provenance=provenance,
    )


def _metrics(run: MDRun) -> list[Metric]:
    distances = np.array(run.log["min_distance"])
    shortest = distances[np.isfinite(distances)].min(initial=np.inf)
    planned = run.config.equilibration + run.config.production
    wall = 1e6 * run.wall / (max(run.steps, 1) * run.n_atoms)
    return [
        Metric(name="survived", value=run.survived, unit="ps", better="higher"),
        Metric(name="planned", value=planned, unit="ps"),
        *_averages(run),
        Metric(name="min_distance", value=shortest, unit="Å"),
        Metric(name="md_speed", value=wall, unit="µs/atom/step", better="lower"),
    ]


def _alarms(run: MDRun, members: Sequence[Potential] | None) -> list[Metric]:
    """How far the run went from the training data, and how much of it lay beyond."""
    limits = {"novelty": 1.0, "spread": spread_limit(members[0].card) if members else np.inf}
    units, found, beyond = {"novelty": "1", "spread": "eV/Å"}, [], np.zeros(0, dtype=bool)
    for name, limit in limits.items():
        if name not in run.log:
            continue
        values = np.array(run.log[name])
        note = f"beyond {limit:.3g} outside of the training data"
        metric = Metric(name=f"{name}_max", value=values.max(), unit=units[name], note=note)
        found.append(metric.model_copy(update={"better": "lower"}))
        beyond = values > limit if len(beyond) == 0 else beyond | (values > limit)
    if len(beyond):
        found.append(Metric(name="outside_fraction", value=beyond.mean(), unit="1", better="lower"))
    return found


def _averages(run: MDRun) -> list[Metric]:
    """Averages over production; a failed run has none, only the reason."""
    temperature = run.production("temperature") if run.failure is None else np.zeros(0)
    enough = len(temperature) > 2
    values = {
        "temperature_mean": (temperature.mean() if enough else np.nan, "K"),
        "temperature_std": (temperature.std(ddof=1) if enough else np.nan, "K"),
        "energy_drift": (run.drift() if enough else np.nan, "meV/atom/ps"),
    }
    for name in AVERAGED:
        if name in run.log:
            unit, factor = SHOWN_AS[name]
            mean = factor * run.production(name).mean() if enough else np.nan
            values[f"{name}_mean"] = (mean, unit)
    why = str(run.failure) if run.failure else "too short"
    return [
        Metric(
            name=name,
            value=value,
            unit=unit,
            better="lower" if name == "energy_drift" else None,
            note="" if enough else why,
        )
        for name, (value, unit) in values.items()
    ]


def _curves(run: MDRun) -> dict[str, Any]:
    """What is plotted; energies per atom from their first value, meV."""

    def relative(name: str) -> list[float]:
        values = np.array(run.log[name])
        return (1e3 * (values - values[0]) / run.n_atoms).tolist()

    # The thermostat of the production has a conserved energy of its own: start it at zero.
    conserved, production = np.array(run.log["conserved"]), np.array(run.log["production"])
    for phase in (0, 1):
        own = production == phase
        if own.any():
            conserved[own] -= conserved[own][0]
    return {
        "time": run.log["time"],
        "temperature": run.log["temperature"],
        "target_temperature": run.config.temperature,
        "potential": relative("potential"),
        "drift": (1e3 * conserved / run.n_atoms).tolist(),
        "min_distance": run.log["min_distance"],
        "production_start": run.config.equilibration,
        "rdf": _pair_distribution(run.frames),
        **{name: run.log[name] for name in SHOWN if name in run.log},
    }


def _range_notes(potential: Potential, run: MDRun) -> dict[str, Any]:
    """Whether the temperature, or frames of the run, lay far outside the training data."""
    notes: dict[str, Any] = {}
    above = temperature_outside(potential.card, run.config.temperature)
    if above:
        notes["temperature_outside"] = above
    skin = SkinList(potential.cutoff, 0.0, torch.device("cpu"))
    reasons = [outside_range(potential.card, frame, skin.update(frame)) for frame in run.frames]
    outside = [r for r in reasons if r]
    notes["frames"], notes["frames_outside"] = len(run.frames), len(outside)
    if outside:
        notes["outside_training_data"] = outside[-1]
    return notes


def _pair_distribution(frames: Sequence[Atoms]) -> dict[str, Any]:
    """g(r) of every pair of elements as the indicator has it; `main` is the most frequent's.

    Empty where there are no frames or no periodic ones.
    """
    if not frames or not frames[0].pbc.all():
        return {}
    found = radial(frames)
    elements, counts = np.unique(frames[0].numbers, return_counts=True)
    most = int(elements[counts.argmax()])
    means = {pair: g.mean(axis=0).tolist() for pair, g in found.values.items()}
    return {"r": found.x.tolist(), "g": means, "main": group_name([most, most])}
