"""One potential, or an ensemble, held against a reference: every indicator without a campaign."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from ase.calculators.calculator import Calculator

from siliforce.benchmark.config import FROM_DYNAMICS, INDICATORS, Simulation
from siliforce.benchmark.dynamics import dynamics_results, run_starts, structure_results
from siliforce.benchmark.estimate import over_seeds
from siliforce.benchmark.materials import check_contacts
from siliforce.data.reference import EnergyCurve, Reference
from siliforce.errors import ConfigError
from siliforce.indicators.base import Result
from siliforce.indicators.eos import equations_of_state
from siliforce.indicators.pec import potential_energy_curves
from siliforce.potential import Potential
from siliforce.simulation.batched import identity, potentials_of
from siliforce.simulation.md import Progress
from siliforce.training.adapted import fingerprint
from siliforce.training.options import did_you_mean

FROM_REFERENCE = [name for name in INDICATORS if name not in ("errors", "speed")]
"""Indicators that a reference and a potential are enough for."""


def hold_against(
    sources: Sequence[Potential | Calculator],
    reference: Reference,
    indicators: Iterable[str] = FROM_REFERENCE,
    md: Simulation | None = None,
    folder: Path = Path(),
    progress: Progress = lambda status: None,
) -> tuple[list[Result], list[str]]:
    """Measure what the reference allows.

    Args:
        sources: a potential or any ASE calculator; or the members of an ensemble, whose mean and
            95 % interval every metric then is.
        indicators: some of `FROM_REFERENCE`.
        md: dynamics of every start; its temperature is that of the start.
        folder: for trajectories; a run that was interrupted goes on there.
        progress: called at every logged step of the dynamics.

    Returns:
        A result for each indicator and structure, and remarks on what was left out or changed.

    Raises:
        ConfigError: unknown indicators, nothing to measure, or atoms on top of each other.
        DataError: elements that the potential does not know.
    """
    wanted, md = _checked(indicators, reference), md or Simulation()
    found: list[Result] = []
    notes: list[str] = []
    for number, source in enumerate(sources):
        own = _scans(source, reference, wanted)
        if reference.starts and wanted & FROM_DYNAMICS:
            place = folder / _name(reference, md, source, number)
            runs = run_starts(source, reference.starts, md, number, place, notes, progress)
            own += dynamics_results(source, runs)
            own += structure_results(source, runs, md, sorted(wanted), notes)
        found += own
    return pooled(found), list(dict.fromkeys(notes))


def pooled(results: Sequence[Result]) -> list[Result]:
    """One result for each indicator and structure: replicas and members of an ensemble together.

    A metric becomes the mean, with the Student interval of what was measured several times: their
    disagreement, which is not the error. The first one gives curves and tables.
    """
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.indicator, result.split), []).append(result)
    return [_mean(group) if len(group) > 1 else group[0] for group in groups.values()]


def _mean(group: Sequence[Result]) -> Result:
    mean = group[0].model_copy(deep=True)
    mean.arrays = {}
    for metric in mean.metrics:
        values = [v for r in group if (v := r.value(metric.name)) is not None]
        metric.note = f"{len(values)} of {len(group)} runs" if len(values) < len(group) else ""
        estimate = over_seeds(values) if values else None
        metric.value = estimate.mean if estimate else None
        metric.low, metric.high = (estimate.low, estimate.high) if estimate else (None, None)
    mean.provenance |= {"n_pooled": len(group), "intervals": "95 %, over runs (Student)"}
    failures = [r.failure for r in group if r.failure]
    if failures:
        mean.failure = f"{len(failures)} of {len(group)} runs: {failures[0]}"
    return mean


def _checked(indicators: Iterable[str], reference: Reference) -> set[str]:
    wanted = set(indicators)
    for name in wanted - set(FROM_REFERENCE):
        hint = did_you_mean(name, FROM_REFERENCE)
        raise ConfigError(f"no indicator '{name}'; {hint}there are {', '.join(FROM_REFERENCE)}")
    has = {"eos": bool(reference.eos), "pec": bool(reference.pec)}
    if not any(has.get(name, bool(reference.starts)) for name in wanted):
        raise ConfigError(f"{reference.name} holds nothing for {', '.join(sorted(wanted))}")
    for start in reference.starts if wanted & FROM_DYNAMICS else []:
        check_contacts(f"start {start.name}", start.atoms)
    return wanted


def _scans(source: Potential | Calculator, reference: Reference, wanted: set[str]) -> list[Result]:
    found = []
    if "eos" in wanted and reference.eos:
        found += equations_of_state(source, reference.eos, reference.bulk_modulus_noise)
    if "pec" in wanted and reference.pec:
        found += cluster_results(source, reference.pec)
    return found


def cluster_results(source: Potential | Calculator, curves: Sequence[EnergyCurve]) -> list[Result]:
    """Clusters in vacuum are like nothing in the training data: out of distribution."""
    results = potential_energy_curves(source, curves)
    for result in results:
        result.split = f"ood:{result.split}"
    return results


def _name(reference: Reference, md: Simulation, source: Potential | Calculator, number: int) -> str:
    """Of the folder of trajectories: other settings, starts, weights, parameters: another one."""
    starts = [start.name for start in reference.starts]
    members = potentials_of(source)
    model = "".join(map(fingerprint, members)) if members else identity(source)
    text = repr((md.model_dump_json(), starts, model, number))
    return f"{reference.name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
