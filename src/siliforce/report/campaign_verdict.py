"""What a campaign says of each model, in plain sentences, by fixed rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
"""Scores from which a model is called good and fair; a structure below fair is wrong."""


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
            likeness = _likeness(found, standing.label, material)
            parts = [p for p in (*_dynamics(own, likeness), *_volumes(own), _gap(own)) if p]
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


def _likeness(found: Findings, label: str, material: str) -> dict[str, float]:
    """How like the reference's each start's frames are: mean score of RDF and ADF over seeds."""
    scores: dict[str, list[float]] = {}
    for s in found.scores:
        own = (s.label, s.material) == (label, material) and s.quantity in ("rdf", "adf")
        if own and s.score is not None:
            scores.setdefault(s.split, []).append(s.score)
    return {split: float(np.mean(values)) for split, values in scores.items()}


def _dynamics(entries: Sequence[Entry], likeness: Mapping[str, float]) -> list[str]:
    """To what temperature runs can be used, in and out of distribution."""
    found = []
    for name, where in (("id", ""), ("ood", " out of distribution")):
        runs = [r for e in entries for r in e.of("dynamics") if domain(r.split) == name]
        if runs:
            found.append(_held(runs, likeness, where))
    if len(found) == 2 and found[1] == found[0] + " out of distribution":
        return [f"{found[0]}, out of distribution too"]
    return found


def _held(runs: Sequence[Result], likeness: Mapping[str, float], where: str) -> str:
    """One sentence about runs that belong together: usable if all held and look like DFT's."""
    by_temperature: dict[float, list[Result]] = {}
    for run in runs:
        temperature = float(run.provenance.get("config", {}).get("temperature", 0.0))
        by_temperature.setdefault(temperature, []).append(run)
    held, wrong = [], ""
    for temperature in sorted(by_temperature):
        hotter = [r for t in by_temperature if t >= temperature for r in by_temperature[t]]
        wrong = _wrong(by_temperature[temperature], hotter, likeness)
        if wrong:
            break
        held.append(temperature)
    if not held:
        return f"not to be relied on in dynamics{where}: {wrong}"
    longest = max((v for r in runs if (v := r.value("planned"))), default=0.0)
    compared = all(r.split in likeness for t in held for r in by_temperature[t])
    what = "usable for NVT" if compared else "runs hold, structure not compared,"
    text = f"{what} to {held[-1]:g} K ({shown(longest, 2)} ps){where}"
    return text + (f", above that {wrong}" if wrong else "")


def _wrong(runs: Sequence[Result], hotter: Sequence[Result], likeness: Mapping[str, float]) -> str:
    """Why runs of one temperature cannot be used; failures are counted in all that are hotter."""
    if any(r.failure for r in runs):
        failed = [r.failure for r in hotter if r.failure]
        return f"{len(failed)} of {len(hotter)} runs failed ({failed[0].partition(':')[0]})"
    splits = list(dict.fromkeys(r.split for r in runs))
    unlike = [s for s in splits if likeness.get(s, 1.0) < FAIR]
    if not unlike:
        return ""
    worst = min(unlike, key=lambda s: likeness[s])
    told = f"{worst.partition(':')[2]} scores {likeness[worst]:.2f} in RDF and ADF"
    return f"wrong structure in {len(unlike)} of {len(splits)} starts ({told})"


def _volumes(entries: Sequence[Entry]) -> list[str]:
    """Volume and bulk modulus, where a structure's is off by more than is worth a word."""
    found = []
    for name, where in (("id", "in distribution"), ("ood", "out of distribution")):
        curves = [r for e in entries for r in e.of("eos") if domain(r.split) == name]
        for metric, limit, what, more, less in (
            ("V0_error", VOLUME, "volume", "too large", "too small"),
            ("B0_error", STIFFNESS, "bulk modulus", "too high", "too low"),
        ):
            by_split: dict[str, list[float]] = {}
            for r in curves:
                if (value := r.value(metric)) is not None:
                    by_split.setdefault(r.split, []).append(value)
            sizes = {split: float(np.abs(v).mean()) for split, v in by_split.items()}
            if not sizes or max(sizes.values()) < limit:
                continue
            signs = {v > 0 for values in by_split.values() for v in values}
            way = "off" if len(signs) > 1 else more if signs == {True} else less
            text = f"{what} {shown(float(np.mean(list(sizes.values()))), 2)} % {way} {where}"
            worst = max(sizes, key=lambda s: sizes[s])
            if len(sizes) > 1:
                text += f" (at most {shown(sizes[worst], 2)} %, {worst.partition(':')[2]})"
            found.append(text)
        if failed := [r for r in curves if r.failure]:
            found.append(f"no equation of state for {len(failed)} of {len(curves)} curves {where}")
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
