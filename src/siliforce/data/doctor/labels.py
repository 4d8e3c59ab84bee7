"""Labels one by one: missing, unusual, from several levels of theory."""

from __future__ import annotations

import numpy as np

from siliforce.data.dataset import Dataset
from siliforce.data.doctor.findings import Finding, Severity
from siliforce.data.read import NO_KEY
from siliforce.data.stats import reference_energies

LARGE_FORCE = 20.0
"""eV/Å; an optical phonon at its melting point makes a tenth of it."""
FEW = 0.05
"""Fraction of the frames below which they are outliers."""
NET_FORCE = 0.005
"""eV/Å per atom; plane-wave codes leave about a tenth of it."""
FUNCTIONALS = (
    *("PBEsol", "PBE0", "RPBE", "revPBE", "PBE", "LDA", "PW91", "r2SCAN", "SCAN", "HSE06"),
    *("B3LYP", "BLYP", "wB97"),
)
"""Longer names before those they contain."""


def check_labels(dataset: Dataset) -> list[Finding]:
    """Everything that single frames and their texts tell."""
    return [
        *_missing(dataset),
        *_keys(dataset),
        *_levels(dataset),
        *_flags(dataset),
        *_forces(dataset),
        *_energies(dataset),
        *_stresses(dataset),
    ]


def _missing(dataset: Dataset) -> list[Finding]:
    labelled = {
        "energy": np.isfinite(dataset.energies),
        "forces": np.array([frame.forces is not None for frame in dataset]),
        "stress": np.isfinite(dataset.records["stress"]).all(axis=(1, 2)),
    }
    findings = []
    for name, has in labelled.items():
        if has.all() or (name == "stress" and not has.any()):
            continue
        severity: Severity = "note" if name == "stress" else "warning"
        lacking = [dataset.sources[i] for i in np.flatnonzero(~has)]
        evidence = f"{len(lacking)} of {len(dataset)} frames have no {name}"
        advice = "they are masked in the loss; other keys: --energy-key, --forces-key, --stress-key"
        findings.append(Finding("missing", severity, f"{name} missing", evidence, advice, lacking))
    return findings


def _keys(dataset: Dataset) -> list[Finding]:
    """Energies that were read from different keys."""
    counts = dataset.label_keys.get("energy", {})
    keys = {key: n for key, n in counts.items() if key != NO_KEY}
    if len(keys) < 2:
        return []
    return [
        Finding(
            "energy-keys",
            "warning",
            "energies come from different keys",
            ", ".join(f"'{key}' in {n} frames" for key, n in keys.items()),
            "the free energy belongs to the forces, the energy without smearing does not: import "
            "again with --energy-key",
        )
    ]


def _levels(dataset: Dataset) -> list[Finding]:
    """Levels of theory as the frames state them."""
    levels = [str(t.get("level_of_theory", t.get("level", ""))) for t in dataset.all_tags]
    distinct = sorted(set(levels))
    if len(distinct) < 2:
        return []
    functionals = {next((f for f in FUNCTIONALS if f in level), "?") for level in distinct if level}
    if len(functionals) > 1:
        return [
            Finding(
                "levels",
                "error",
                "labels of several functionals are mixed",
                f"the frames state {', '.join(sorted(functionals))}",
                "train on one of them",
            )
        ]
    formulas: dict[str, set[str]] = {}
    for composition, level in zip(dataset.compositions, levels, strict=True):
        formulas.setdefault(composition, set()).add(level)
    per_composition = all(len(found) == 1 for found in formulas.values())
    evidence = f"{len(distinct)} different texts, e.g. '{distinct[0]}' and '{distinct[1]}'"
    if per_composition:
        title = "the stated level of theory differs between compositions"
        advice = "constant offsets per element are fitted away; differences in settings are not"
        return [Finding("levels", "note", title, evidence, advice)]
    title = "the stated level of theory differs within a composition"
    return [Finding("levels", "warning", title, evidence, "check that the settings are equal")]


def _flags(dataset: Dataset) -> list[Finding]:
    """Frames that say they are not converged."""
    bad = [
        dataset.sources[i]
        for i, tags in enumerate(dataset.all_tags)
        if str(tags.get("converged", True)).lower() in ("0.0", "false", "f", "no")
    ]
    if not bad:
        return []
    evidence = f"{len(bad)} frames carry converged=False"
    title = "unconverged calculations"
    return [Finding("unconverged", "error", title, evidence, "leave them out", bad)]


def _forces(dataset: Dataset) -> list[Finding]:
    largest, net, zero = (np.zeros(len(dataset)) for _ in range(3))
    for i, frame in enumerate(dataset):
        if frame.forces is not None:
            largest[i] = np.linalg.norm(frame.forces, axis=1).max()
            net[i] = np.linalg.norm(frame.forces.sum(axis=0)) / frame.n_atoms
            zero[i] = frame.n_atoms > 1 and not frame.forces.any()
    findings = []
    if (big := np.flatnonzero(largest > LARGE_FORCE)).size:
        evidence = f"{len(big)} of {len(dataset)} frames have forces above {LARGE_FORCE:g} eV/Å"
        evidence += f", the largest {largest.max():.3g}"
        advice = "wanted (collisions) or broken? They dominate a squared loss"
        named = [dataset.sources[i] for i in big]
        severity: Severity = "warning" if len(big) < FEW * len(dataset) else "note"
        title = "very large forces"
        findings.append(Finding("large-forces", severity, title, evidence, advice, named))
    if (drift := np.flatnonzero(net > NET_FORCE)).size:
        evidence = f"{len(drift)} frames, up to {1e3 * net.max():.3g} meV/Å per atom"
        advice = "loose grids or convergence, or fixed atoms: no potential can learn this part"
        named = [dataset.sources[i] for i in drift]
        title = "forces do not sum to zero"
        findings.append(Finding("net-force", "warning", title, evidence, advice, named))
    elif (largest > 0).any():
        evidence = f"net force at most {1e3 * net.max():.2g} meV/Å per atom"
        findings.append(Finding("net-force", "ok", "forces sum to zero", evidence))
    if zero.any():
        named = [dataset.sources[i] for i in np.flatnonzero(zero)]
        evidence = f"{len(named)} frames have all forces exactly zero"
        advice = "right in a perfect crystal; otherwise a missing label written as zero"
        findings.append(
            Finding("zero-forces", "note", "forces exactly zero", evidence, advice, named)
        )
    return findings


def _energies(dataset: Dataset) -> list[Finding]:
    """Energies far from those of their composition, after reference energies are removed."""
    known = np.isfinite(dataset.energies)
    if not known.any():
        return []
    elements, counts = dataset.counts
    e0 = reference_energies(dataset).energies
    rest = (dataset.energies - counts @ np.array([e0[z] for z in elements])) / dataset.n_atoms
    findings, compositions = [], np.array(dataset.compositions)
    for composition in np.unique(compositions):
        rows = np.flatnonzero(known & (compositions == composition))
        findings += _gap(dataset, rows, rest, composition)
        away = np.abs(rest[rows] - np.median(rest[rows]))
        scale = 1.4826 * np.median(away)
        out = rows[away > np.maximum(12 * scale, 0.5)]
        if 0 < len(out) <= FEW * len(rows):
            evidence = f"{len(out)} frames of {composition}, up to {away.max():.3g} eV/atom away"
            advice = "isolated atoms, clusters and surfaces lie so far; bulk should not"
            named = [dataset.sources[i] for i in out]
            title = "energies far from the others of their composition"
            findings.append(Finding("outliers", "note", title, evidence, advice, named))
    return findings


def _gap(dataset: Dataset, rows: np.ndarray, rest: np.ndarray, composition: str) -> list[Finding]:
    """An empty interval between two sets of energies that is far wider than either set."""
    order = rows[np.argsort(rest[rows])]
    steps = np.diff(rest[order])
    if len(order) < 10:
        return []
    at = int(steps.argmax()) + 1
    low, high = order[:at], order[at:]
    if min(len(low), len(high)) < 5:
        return []
    spread = max(np.ptp(rest[low]), np.ptp(rest[high]))
    if not (steps.max() > 0.1 and steps.max() > 3 * spread):
        return []
    smaller = low if len(low) < len(high) else high
    return [
        Finding(
            "energy-gap",
            "warning",
            f"two separate sets of energies of {composition}",
            f"{len(low)} and {len(high)} frames, {steps.max():.3g} eV/atom apart, each within "
            f"{spread:.2g} eV/atom",
            "two energy zeros or functionals, unless these are very different phases",
            [dataset.sources[i] for i in smaller],
        )
    ]


def _stresses(dataset: Dataset) -> list[Finding]:
    stress = dataset.records["stress"]
    has = np.isfinite(stress).all(axis=(1, 2))
    zero = has & ~np.nan_to_num(stress).any(axis=(1, 2))
    findings = []
    if zero.any():
        named = [dataset.sources[i] for i in np.flatnonzero(zero)]
        evidence = f"{len(named)} frames have a stress of exactly zero"
        advice = "a missing label written as zero would be learned: remove it"
        findings.append(Finding("zero-stress", "warning", "zero stress", evidence, advice, named))
    huge = has & (np.abs(np.nan_to_num(stress)).max(axis=(1, 2)) > 3)
    if huge.any():
        named = [dataset.sources[i] for i in np.flatnonzero(huge)]
        evidence = f"{len(named)} frames exceed 3 eV/Å³ (480 GPa)"
        advice = "probably GPa, kbar or a virial: give --stress-unit"
        findings.append(Finding("huge-stress", "error", "huge stress", evidence, advice, named))
    return findings
