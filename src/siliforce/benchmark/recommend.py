"""From a campaign's results and what a person needs to a ranked choice, with reasons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from siliforce.benchmark.collect import Entry
from siliforce.benchmark.findings import Findings
from siliforce.benchmark.ranking import standings
from siliforce.benchmark.studies import FOREIGN_TIME
from siliforce.errors import DataError
from siliforce.indicators.base import Result
from siliforce.training.options import show_seconds

FIXED_GIB = 0.35
"""Memory of a process that has loaded PyTorch and siliforce and nothing else: measured, 0.33."""
TOO_LONG = 30 * 86400.0
"""s; a simulation that takes longer than a month is not one."""


@dataclass(frozen=True)
class Needs:
    """What somebody wants to simulate.

    Attributes:
        atoms: of the structure.
        time: ns.
        temperature: K.
        timestep: fs.
        conserve: whether energy has to be conserved (NVE, heat transport, long runs).
        memory: GiB that there are; None if it does not matter.
        material: of the campaign; empty for all of them.
        ood: whether the structures differ from the training data.
    """

    atoms: int
    time: float
    temperature: float
    timestep: float = 1.0
    conserve: bool = False
    memory: float | None = None
    material: str = ""
    ood: bool = False

    @property
    def steps(self) -> float:
        """Of molecular dynamics."""
        return self.time * 1e6 / self.timestep


@dataclass(frozen=True)
class Choice:
    """One model's suitability.

    Attributes:
        rank: 1 is the first choice; None if it does not meet the needs. Models whose scores
            cannot be told apart are ordered by time.
        seconds: that the simulation would take on the hardware that was measured on.
        reasons: for and against it, in plain words.
    """

    label: str
    rank: int | None
    score: float
    seconds: float | None
    reasons: list[str]


def recommend(found: Findings, needs: Needs) -> list[Choice]:
    """Every model, suitable ones first and best first.

    Raises:
        DataError: nothing is scored, or no such material.
    """
    if needs.material and needs.material not in found.materials:
        raise DataError(f"no material '{needs.material}'; there are {', '.join(found.materials)}")
    scores = [s for s in found.scores if s.material == (needs.material or s.material)]
    if needs.ood:
        scores = [s for s in scores if s.domain == "ood"]
    placed = standings(scores, found.unfinished)
    if not placed:
        raise DataError("nothing is scored yet: run the campaign first (siliforce benchmark)")
    judged = []
    for standing in placed:
        entries = found.of(standing.label, needs.material)
        against, reasons, seconds = _judge(entries, needs)
        where = " out of distribution" if needs.ood else ""
        between = ""
        if standing.total.low is not None and standing.total.high is not None:
            low, high = max(standing.total.low, 0.0), min(standing.total.high, 1.0)
            between = f" ({low:.2f} to {high:.2f} over seeds)"
        tied = [s.label for s in placed if s.rank == standing.rank and s is not standing]
        if standing.rank is None:
            against.append("its measurements are not finished (siliforce benchmark goes on)")
        elif tied:
            reasons.append(f"its score cannot be told from that of {', '.join(tied)}")
        reasons.insert(0, f"score {standing.total.mean:.2f}{between}{where}")
        order = len(placed) if standing.rank is None else standing.rank
        judged.append((bool(against), order, seconds, standing, against + reasons))
    judged.sort(key=lambda j: (j[0], j[1], j[2] if j[2] is not None else np.inf))
    choices = []
    for place, (unfit, _, seconds, standing, reasons) in enumerate(judged, start=1):
        rank = None if unfit else place
        choices.append(Choice(standing.label, rank, standing.total.mean, seconds, reasons))
    return choices


def _judge(entries: Sequence[Entry], needs: Needs) -> tuple[list[str], list[str], float | None]:
    """What rules a model out, what else is to be said, and its time."""
    against: list[str] = []
    reasons: list[str] = []
    if any(entry.failures for entry in entries):
        first = next(reason for entry in entries for reason in entry.failures.values())
        reasons.append(f"part of its measurements failed ({first})")
    if any(entry.direct for entry in entries):
        text = "its forces are predicted directly and conserve no energy"
        (against if needs.conserve else reasons).append(text)
    _stability(entries, needs, against, reasons)
    seconds = _time(entries, needs, against, reasons)
    _memory(entries, needs, against, reasons)
    return against, reasons, seconds


def _stability(
    entries: Sequence[Entry], needs: Needs, against: list[str], reasons: list[str]
) -> None:
    """Whether runs that are at least as hot, or the hottest there are, reached their end."""
    runs = [r for e in entries for r in e.of("dynamics")]
    runs = [r for r in runs if r.split.startswith("ood") == needs.ood] or runs
    if not runs:
        reasons.append("no dynamics was run: whether it is stable is not known")
        return
    relevant = [r for r in runs if _temperature(r) >= needs.temperature]
    if not relevant:
        hottest = max(_temperature(r) for r in runs)
        relevant = [r for r in runs if _temperature(r) == hottest]
        reasons.append(f"tested to {hottest:g} K only, not at {needs.temperature:g} K")
    failed = [r for r in relevant if r.failure]
    tested = sum(r.value("survived") or 0.0 for r in relevant)
    several = len(relevant) > 1
    if failed:
        why = failed[0].failure.partition(":")[0]
        which = f"{len(failed)} of {len(relevant)} runs" if several else "the one run"
        against.append(f"{which} as hot as this failed ({why})")
    else:
        which, together = (
            (f"all {len(relevant)} runs", " together") if several else ("the one run", "")
        )
        reasons.append(f"{which} as hot as this held, {tested:.3g} ps{together}")
        if needs.time * 1e3 > 100 * tested:
            reasons.append(f"which says little about {needs.time:g} ns: watch the run")


def _temperature(result: Result) -> float:
    return float(result.provenance.get("config", {}).get("temperature", 0.0))


def _time(
    entries: Sequence[Entry], needs: Needs, against: list[str], reasons: list[str]
) -> float | None:
    """Time of the simulation, from µs per atom and step."""
    rates = [v for e in entries if (v := e.value_of("speed", "energy_forces")) is not None]
    if not rates:
        reasons.append("its speed was not measured")
        return None
    rate = float(np.mean(rates))
    seconds = 1e-6 * rate * needs.atoms * needs.steps
    kind = "" if all(entry.trained for entry in entries) else f" ({FOREIGN_TIME})"
    text = f"{rate:.3g} µs/atom/step{kind}: {_long(seconds)} for {needs.time:g} ns"
    text += " on the tested machine"
    (against if seconds > TOO_LONG else reasons).append(text)
    return seconds


def _long(seconds: float) -> str:
    """Days from two days on."""
    return f"{seconds / 86400:,.0f} days" if seconds > 2 * 86400 else show_seconds(seconds)


def _memory(entries: Sequence[Entry], needs: Needs, against: list[str], reasons: list[str]) -> None:
    """Memory grows with the atoms, beyond what the process takes anyway.

    That of a calculator is not known: it works in a process of its own.
    """
    if needs.memory is None:
        return
    sizes = []
    for entry in entries:
        for result in entry.of("speed") if entry.trained else []:
            peak, atoms = result.value("peak_memory"), result.provenance.get("n_atoms")
            if peak is not None and atoms:
                sizes.append(FIXED_GIB + peak * needs.atoms / atoms)
    if not sizes:
        reasons.append("its memory was not measured")
        return
    size = float(np.mean(sizes))
    text = f"about {size:.2g} GiB for {needs.atoms} atoms (scaled from the measured structure)"
    (against if size > needs.memory else reasons).append(text)
