"""What a campaign says of each model, in plain sentences, by fixed rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from siliforce.benchmark.collect import Entry
from siliforce.benchmark.findings import Findings
from siliforce.benchmark.scores import domain
from siliforce.indicators.base import Result
from siliforce.report.numbers import listed, shown

VOLUME, STIFFNESS = 1.0, 10.0
"""Errors in per cent of V0 and B0 that are worth a word."""
WIDE_GAP = 1.5
"""OOD force error over ID force error that is worth a word."""
GOOD, FAIR = 0.9, 0.7
"""Scores from which a model is called good and fair."""


@dataclass(frozen=True)
class ModelVerdict:
    """Sentences about one model, and how good it is: `good`, `fair`, `poor`."""

    label: str
    grade: str
    sentences: list[str]


def verdicts(found: Findings) -> list[ModelVerdict]:
    """One for each model, best first."""
    judged = []
    for standing in found.standings:
        score = standing.total.mean
        grade = "good" if score >= GOOD else "fair" if score >= FAIR else "poor"
        sentences = [] if standing.rank else ["Not ranked: parts of its measurements are to come."]
        for material in found.materials:
            own = found.of(standing.label, material)
            parts = [p for p in (*_dynamics(own), *_volumes(own), _gap(own)) if p]
            broken = dict.fromkeys(r for e in own for r in e.failures.values())
            parts += [f"failed: {reason}" for reason in broken]
            if parts:
                prefix = f"{material}: " if len(found.materials) > 1 else ""
                sentences.append(f"{prefix}{'; '.join(parts)}.")
        if any(entry.direct for entry in found.of(standing.label)):
            sentences.append("Conserves no energy: not for NVE, and it has no stress.")
        if standing.missing:
            sentences.append(f"Without a score in {listed(standing.missing, 4)}.")
        judged.append(ModelVerdict(standing.label, grade, sentences))
    return judged


def _dynamics(entries: Sequence[Entry]) -> list[str]:
    """To what temperature every run reached its end, in and out of distribution."""
    found = []
    for name, where in (("id", ""), ("ood", " out of distribution")):
        runs = [r for e in entries for r in e.of("dynamics") if domain(r.split) == name]
        if runs:
            found.append(_held(runs, where))
    if len(found) == 2 and found[1] == found[0] + " out of distribution":
        return [f"{found[0]}, out of distribution too"]
    return found


def _held(runs: Sequence[Result], where: str) -> str:
    """One sentence about runs that belong together."""
    by_temperature: dict[float, list[bool]] = {}
    for run in runs:
        temperature = float(run.provenance.get("config", {}).get("temperature", 0.0))
        by_temperature.setdefault(temperature, []).append(bool(run.failure))
    held = []
    for temperature in sorted(by_temperature):
        if any(by_temperature[temperature]):
            break
        held.append(temperature)
    longest = max((v for r in runs if (v := r.value("planned"))), default=0.0)
    failed = [r for r in runs if r.failure]
    hotter = sum(len(by_temperature[t]) for t in by_temperature if t not in held)
    broken = f"{len(failed)} of {hotter} runs failed"
    if not held:
        return f"not to be relied on in dynamics{where}: {broken} ({_first(failed[0].failure)})"
    text = f"usable for NVT to {held[-1]:g} K ({shown(longest, 2)} ps){where}"
    return text + (f", above that {broken} ({_first(failed[0].failure)})" if failed else "")


def _first(failure: str) -> str:
    return failure.partition(":")[0]


def _volumes(entries: Sequence[Entry]) -> list[str]:
    """Volume and bulk modulus, where they are off by more than is worth a word."""
    found = []
    for metric, limit, what, more, less in (
        ("V0_error", VOLUME, "volume", "too large", "too small"),
        ("B0_error", STIFFNESS, "bulk modulus", "too high", "too low"),
    ):
        for name, where in (("id", "in"), ("ood", "out of")):
            values = [
                v
                for e in entries
                for r in e.of("eos")
                if domain(r.split) == name and (v := r.value(metric)) is not None
            ]
            if values and abs(np.mean(values)) >= limit:
                mean = float(np.mean(values))
                size = shown(abs(mean), 2)
                found.append(f"{what} {size} % {more if mean > 0 else less} {where} distribution")
    return found


def _gap(entries: Sequence[Entry]) -> str:
    ratios = []
    for entry in entries:
        inside = entry.value_of("errors", "forces_rmse", "test")
        outside = [
            v
            for r in entry.of("errors")
            if r.split.startswith("ood") and (v := r.value("forces_rmse")) is not None
        ]
        if inside and outside:
            ratios.append(float(np.mean(outside)) / inside)
    if not ratios or np.mean(ratios) < WIDE_GAP:
        return ""
    return f"forces {shown(float(np.mean(ratios)), 2)} times worse out of distribution"
