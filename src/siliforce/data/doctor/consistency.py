"""Do energies, forces and stress belong together, and do all energies share one zero?"""

from __future__ import annotations

from dataclasses import dataclass

import ase.units
import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from siliforce.data.dataset import Dataset
from siliforce.data.doctor.findings import Finding, Severity
from siliforce.data.doctor.pairs import Pairs

MIN_PAIRS = 10
NEAR = 0.3
"""Å. Over longer steps the trapezoidal rule is off by 10 % and more, always to one side."""
TOLERANCE = 1.25
FORCE_FACTORS = {
    "the energies are in Hartree": 1 / ase.units.Ha,
    "the energies are in Rydberg": 1 / ase.units.Ry,
    "the energies are in kcal/mol": ase.units.mol / ase.units.kcal,
    "the energies are in kJ/mol": ase.units.mol / ase.units.kJ,
    "the energies are in meV": 1e3,
    "the forces are in Hartree/Bohr": ase.units.Ha / ase.units.Bohr,
    "the forces are in Rydberg/Bohr": ase.units.Ry / ase.units.Bohr,
    "the forces are in kcal/mol/Å": ase.units.kcal / ase.units.mol,
    "the forces are in kJ/mol/Å": ase.units.kJ / ase.units.mol,
    "the forces are in meV/Å": 1e-3,
}
STRESS_FACTORS = {
    "the stress is in GPa": ase.units.GPa,
    "the stress is in kbar": 0.1 * ase.units.GPa,
}
STRESS_TOLERANCE = 2.0
"""Cells change little between frames, so errors of the forces' work show here."""
MAX_ERROR = 0.2
"""Largest relative error of a slope that is judged."""
JUMP = 0.01
"""Smallest offset between energies that counts as another zero, eV/atom."""


@dataclass(frozen=True)
class Fit:
    """Slopes of the energy difference with the works, and the rest of each pair, eV/atom."""

    force: float
    force_error: float
    stress: float
    stress_error: float
    rest: np.ndarray
    pairs: Pairs


def fit_work(pairs: Pairs) -> Fit | None:
    """Robust fit of dE = a W_F + b W_S; None where pairs are too few or too different.

    Where stress is missing and cells differ, a smooth energy of the volume takes the place of W_S.
    """
    has_stress = np.isfinite(pairs.stress_work).sum() >= MIN_PAIRS
    pairs = pairs[np.isfinite(pairs.stress_work) == has_stress]
    if len(pairs) < MIN_PAIRS:
        return None
    swelling = pairs.swelling / pairs.n_atoms
    second = (
        [pairs.stress_work / pairs.n_atoms]
        if has_stress
        else [swelling, swelling * pairs.volume / pairs.n_atoms]
    )
    matrix = np.stack([pairs.force_work / pairs.n_atoms, *second], axis=1)
    target = pairs.energy / pairs.n_atoms
    # Third-order errors: near pairs count more.
    weight = 1 / (pairs.move + 0.1 * np.median(pairs.move) + 1e-9) ** 2
    every = np.ones(len(pairs), dtype=bool)
    near = pairs.move <= min(NEAR, np.quantile(pairs.move, 1 / 3))

    def fit(used: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        if used.sum() < MIN_PAIRS:
            return None
        values, errors = _robust(matrix[used], target[used], weight[used])
        return (values, errors) if errors[0] < MAX_ERROR * abs(values[0]) else None

    # Half of the pairs may join different energy zeros: then those that do not must decide.
    found = fit(every) or fit(np.abs(target - matrix.sum(axis=1)) < JUMP)
    if found is None:
        return None
    values, errors = found
    rest = target - matrix @ values
    stress = (float(values[1]), float(errors[1])) if has_stress else (np.nan, np.inf)
    # Where they suffice, near pairs that share a zero decide on the forces.
    values, errors = fit(near & (np.abs(rest) < JUMP)) or found
    return Fit(float(values[0]), float(errors[0]), *stress, rest=rest, pairs=pairs)


def _robust(
    matrix: np.ndarray, target: np.ndarray, weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Least absolute deviations by reweighting; values and standard errors.

    A column of zeros gives zero with an infinite error.
    """
    scale = np.sqrt((matrix**2).mean(axis=0))
    used = scale > 1e-12
    x = matrix[:, used] / scale[used]
    root = np.sqrt(weight / weight.mean())
    values = np.zeros(used.sum())
    factor = root
    for _ in range(50):
        values = np.linalg.lstsq(x * factor[:, None], target * factor, rcond=None)[0]
        rest = np.abs(target - x @ values) * root
        factor = root / np.sqrt(rest + 1e-6 + 1e-3 * np.median(rest))
    spread = 1.4826 * np.median(rest)
    covariance = np.linalg.pinv((x * root[:, None]).T @ (x * root[:, None])) * spread**2
    answer, errors = np.zeros(matrix.shape[1]), np.full(matrix.shape[1], np.inf)
    answer[used], errors[used] = values / scale[used], np.sqrt(np.diag(covariance)) / scale[used]
    return answer, errors


def check_work(dataset: Dataset, pairs: Pairs) -> list[Finding]:
    """Units and signs, energy zeros, frames that do not fit their neighbours."""
    fit = fit_work(pairs)
    if fit is None:
        text = f"{len(pairs)} pairs of frames are near each other: no verdict"
        return [Finding("work", "note", "energies could not be checked against forces", text)]
    findings = [_forces(fit)]
    forces_are_known = _near(abs(fit.force), 1, TOLERANCE)
    if forces_are_known and fit.stress_error < MAX_ERROR * abs(fit.stress):
        findings.append(_stress(fit))
    if findings[0].severity == "ok":
        findings += check_zeros(dataset, fit)
    return findings


def _forces(fit: Fit) -> Finding:
    evidence = (
        f"energy difference against work of the forces over {len(fit.pairs)} pairs of frames "
        f"(median {np.median(fit.pairs.move):.2g} Å apart): slope {fit.force:.4g} "
        f"± {fit.force_error:.1g}, 1 expected"
    )
    if _near(fit.force, 1, TOLERANCE):
        return Finding("force-units", "ok", "energies and forces belong together", evidence)
    if _near(fit.force, -1, TOLERANCE):
        advice = "forces are minus the gradient: change the sign of the labels"
        return Finding("force-units", "error", "the forces have the wrong sign", evidence, advice)
    factors = {"the energies are per atom": 1 / float(np.median(fit.pairs.n_atoms))}
    cause = _cause(fit.force, FORCE_FACTORS | factors)
    title = "energies and forces do not belong together"
    advice = "give the units at import (--energy-unit, --forces-unit), or read the right keys"
    severity: Severity = "error" if cause else "warning"
    evidence += f": as if {cause}" if cause else ""
    return Finding("force-units", severity, title, evidence, advice)


def _stress(fit: Fit) -> Finding:
    evidence = (
        "energy difference against work of the stress over pairs of strained frames: slope "
        f"{fit.stress:.4g} ± {fit.stress_error:.1g}, 1 expected"
    )
    if _near(fit.stress, 1, STRESS_TOLERANCE):
        return Finding("stress-units", "ok", "the stress has the right sign and unit", evidence)
    volume = {
        "it is a virial, not divided by the volume": 1 / float(np.nanmedian(fit.pairs.volume))
    }
    right = {"only the sign differed": 1.0} if fit.stress < 0 else {}
    cause = _cause(fit.stress, STRESS_FACTORS | volume | right)
    return Finding(
        "stress-units",
        "error" if cause else "warning",
        f"the stress has the wrong {'sign' if fit.stress < 0 else 'unit'}",
        evidence + (f": as if {cause}" if cause else ""),
        "give --stress-unit (GPa, kbar; with a minus where compression is positive, as in VASP)",
    )


def _near(value: float, expected: float, tolerance: float) -> bool:
    ratio = value / expected
    return 1 / tolerance < ratio < tolerance


def _cause(slope: float, factors: dict[str, float]) -> str:
    """The unit whose factor is nearest to the slope, sign aside; empty if none is near."""
    distance = {name: abs(np.log(abs(slope) / factor)) for name, factor in factors.items()}
    best = min(distance, key=distance.__getitem__)
    return best if distance[best] < np.log(STRESS_TOLERANCE) else ""


def check_zeros(dataset: Dataset, fit: Fit) -> list[Finding]:
    """Sets of frames whose energies differ by a constant, and single frames that do not fit."""
    pairs, rest = fit.pairs, fit.rest
    wrong = np.abs(rest) > np.maximum(JUMP, 30 * _local_scale(pairs.move, np.abs(rest)))
    n = len(dataset)
    good = coo_matrix(
        (np.ones((~wrong).sum()), (pairs.first[~wrong], pairs.second[~wrong])), shape=(n, n)
    )
    component = connected_components(good, directed=False)[1]
    size = np.bincount(component)
    a, b = component[pairs.first[wrong]], component[pairs.second[wrong]]
    jump = np.where(a < b, rest[wrong], -rest[wrong])
    findings, single = [], set()
    for low, high in sorted({(min(x, y), max(x, y)) for x, y in zip(a, b, strict=True) if x != y}):
        between = jump[(np.minimum(a, b) == low) & (np.maximum(a, b) == high)]
        if len(between) < 2:
            continue
        offset = float(np.median(between))
        if min(size[low], size[high]) < 3:
            smaller = low if size[low] < size[high] else high
            single |= set(np.flatnonzero(component == smaller).tolist())
        elif np.median(np.abs(between - offset)) < 0.2 * abs(offset):
            findings.append(_two_zeros(dataset, component, (low, high), offset, len(between)))
    if single:
        findings.append(_misfits(dataset, sorted(single)))
    return findings or [
        Finding(
            "energy-zero",
            "ok",
            "similar frames share one energy zero",
            f"energy minus work: median {1e3 * np.median(np.abs(rest)):.2g}, "
            f"largest {1e3 * np.abs(rest).max():.2g} meV/atom over {len(rest)} pairs",
        )
    ]


def _local_scale(move: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """What is usual for this displacement or a larger one, (n_pairs,).

    The lower quartile among the 50 pairs of most similar displacement, so that it holds where most
    pairs join different energy zeros; never more than for larger displacements.
    """
    order = np.argsort(move)
    window = min(51, len(move))
    starts = np.clip(np.arange(len(move)) - window // 2, 0, len(move) - window)
    quartile = np.array([np.quantile(rest[order[s : s + window]], 0.25) for s in starts])
    scale = np.empty(len(move))
    scale[order] = np.minimum.accumulate(quartile[::-1])[::-1]
    return scale


def _two_zeros(
    dataset: Dataset, component: np.ndarray, sides: tuple[int, int], offset: float, links: int
) -> Finding:
    members = [np.flatnonzero(component == side) for side in sides]
    names = [f"{len(m)} frames like {dataset.sources[m[0]]}" for m in members]
    return Finding(
        "energy-zero",
        "error",
        "labels of different functionals or energy zeros are mixed",
        f"{names[0]} and {names[1]}: {links} pairs of nearly equal structures differ by "
        f"{1e3 * offset:.4g} meV/atom that neither forces nor stress account for",
        "train on one of them, or label one again with the other's settings",
        [dataset.sources[i] for i in members[int(len(members[1]) < len(members[0]))]],
    )


def _misfits(dataset: Dataset, rows: list[int]) -> Finding:
    return Finding(
        "misfit",
        "warning",
        "frames whose energy does not fit their neighbours' energies and forces",
        f"{len(rows)} frames; an unconverged calculation looks like this",
        "look at their output files; label again or leave out",
        [dataset.sources[i] for i in rows],
    )
