"""Errors as scores between 0 and 1, with anchors that no model can move.

`score = (baseline - error) / (baseline - floor)`, held between 0 and 1. The *floor* is the noise
of the reference itself: nothing can be told apart below it. The *baseline* is what a featureless
answer gets: an ideal gas for g(r), sin θ for angles, the best constant per composition for
energies, no forces at all, a flat energy curve. Both follow from the reference alone, before any
model is scored. A failed run scores 0; replicas are scored one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from siliforce.benchmark.collect import Entry
from siliforce.benchmark.config import FROM_DYNAMICS
from siliforce.benchmark.materials import Material
from siliforce.data import Dataset
from siliforce.data.reference import EnergyCurve, EnergyVolume, Start
from siliforce.errors import DataError
from siliforce.indicators.base import Result
from siliforce.indicators.eos import SCALES, TOLERANCE, fit_birch_murnaghan

MEV = 1e3
MIN_SPARE = 3
"""Frames beyond one per element, or the best constants leave nothing to be explained."""
PEC = "pec_energy_rmse"
MIN_POINTS = 6
"""Of an equation of state, so that its fit can do without one of them."""
SHOWN = ("energy", "forces", "rdf", "adf", "V0", "B0", "pec", "pressure", "survival")
"""What is scored, in the order it is shown."""
KIND = {"energy": "errors", "forces": "errors", "V0": "eos", "B0": "eos", "pec": "pec"}
"""Quantity -> kind of job and indicator, where they have another name; the rest is dynamics."""


@dataclass(frozen=True)
class Anchor:
    """The two fixed points of a score.

    Attributes:
        quantity: what is scored, of `SHOWN`.
        split: `test`, `id:NAME` or `ood:NAME`.
        metric: whose magnitude is the error.
        floor: error that cannot be told from the reference; score 1.
        baseline: error of a featureless answer; score 0.
        why: both in words.
    """

    quantity: str
    split: str
    metric: str
    unit: str
    floor: float
    baseline: float
    why: str

    @property
    def indicator(self) -> str:
        """Name of the results it applies to."""
        return KIND.get(self.quantity, self.quantity)

    @property
    def kind(self) -> str:
        """Kind of the job that measures it."""
        return "md" if self.indicator in FROM_DYNAMICS else self.indicator

    def score(self, error: float) -> float:
        """Between 0 and 1."""
        room = self.baseline - self.floor
        return float(np.clip((self.baseline - abs(error)) / room, 0.0, 1.0)) + 0.0 if room else 0.0


@dataclass(frozen=True)
class Score:
    """One score of one potential.

    Attributes:
        domain: `id` or `ood`.
        error: value of the metric; None if there is none.
        score: None if the quantity does not apply to this model.
        note: why there is no error, or none of some replicas: a failure, or not applicable.
    """

    label: str
    material: str
    seed: int
    quantity: str
    domain: str
    split: str
    error: float | None
    score: float | None
    note: str = ""


def domain(split: str) -> str:
    """`id`, `ood`, or nothing for sets that are not scored (`train`, `valid`)."""
    if split.startswith("ood"):
        return "ood"
    return "id" if split == "test" or split.startswith("id:") else ""


def anchors(material: Material) -> list[Anchor]:
    """All anchors of a material: a function of its data and reference alone."""
    found: list[Anchor] = []
    noise = material.config.label_noise
    for name, part in material.held_out.items():
        if domain(name):
            found += _error_anchors(name, part, noise.energy, noise.forces)
    for start in material.starts:
        found += _start_anchors(start)
    margin = material.reference.bulk_modulus_noise if material.reference else None
    for volume in material.eos:
        found += _volume_anchors(volume, margin)
    found += [_curve_anchor(curve) for curve in material.pec]
    return found


def _error_anchors(split: str, part: Dataset, energy: float, forces: float) -> Iterator[Anchor]:
    """Energies against the best constant per element, forces against none."""
    sizes, counts = part.n_atoms, part.counts[1]
    known = np.isfinite(part.energies)
    if known.sum() >= counts.shape[1] + MIN_SPARE:
        per_atom = (part.energies / sizes)[known]
        shares = (counts / sizes[:, None])[known]
        answer = np.linalg.lstsq(shares, per_atom, rcond=None)[0]
        rest = MEV * float(np.sqrt(np.mean((per_atom - shares @ answer) ** 2)))
        why = "floor: stated noise of the labels; baseline: best constant per element"
        yield Anchor("energy", split, "energy_rmse", "meV/atom", energy, rest, why)
    squares = [np.square(f.forces).mean() * len(f.forces) for f in part if f.forces is not None]
    atoms = sum(len(f.forces) for f in part if f.forces is not None)
    if atoms:
        typical = MEV * float(np.sqrt(sum(squares) / atoms))
        why = "floor: stated noise of the labels; baseline: no forces at all"
        yield Anchor("forces", split, "forces_rmse", "meV/Å", forces, typical, why)


def _start_anchors(start: Start) -> Iterator[Anchor]:
    def floor(metric: str) -> tuple[float, str]:
        if metric in start.noise:
            return start.noise[metric], "sampling noise of the reference's trajectory"
        return 0.0, "0, since only the reference's curves are known, not their noise"

    if start.rdf is not None:
        gas = [np.abs(ideal_gas(start.rdf.x) - g).mean() for g in start.rdf.values.values()]
        low, why = floor("rdf_mae")
        why = f"floor: {why}; baseline: ideal gas, g(r) = 1"
        yield Anchor("rdf", start.split, "rdf_mae", "1", low, float(np.mean(gas)), why)
    if start.adf is not None:
        flat = [np.abs(random_angles(start.adf.x) - g).mean() for g in start.adf.values.values()]
        low, why = floor("adf_mae")
        why = f"floor: {why}; baseline: directions at random, sin θ"
        yield Anchor("adf", start.split, "adf_mae", "1", low, float(np.mean(flat)), why)
    why = "floor: every run reaches its end; baseline: none does"
    yield Anchor("survival", start.split, "survived_fraction", "1", 1.0, 0.0, why)


def ideal_gas(x: np.ndarray) -> np.ndarray:
    """g(r) of uncorrelated atoms on the reference's bins, the first of which is 0 by definition."""
    found = np.ones(len(x))
    found[0] = 0.0
    return found


def random_angles(x: np.ndarray) -> np.ndarray:
    """Angular distribution of random directions, mean 1; bins end at `x` (degree)."""
    edges = np.concatenate([[0.0], np.asarray(x, dtype=float)])
    found = -np.diff(np.cos(np.radians(edges)))
    return found / found.mean()


def _volume_anchors(volume: EnergyVolume, margin: float | None) -> Iterator[Anchor]:
    """V0 against the nearer end of the window, B0 against no stiffness."""
    near = np.abs(volume.points[:, :1] - SCALES).min(axis=1, initial=np.inf) < TOLERANCE
    points = volume.points[near] if near.sum() >= MIN_POINTS else volume.points
    if len(points) < MIN_POINTS:
        return
    try:
        spread = reference_noise(points)
        middle = fit_birch_murnaghan(points[:, 1], points[:, 2]).volume
    except DataError:
        return
    ends = 100 * np.abs(points[[0, -1], 1] / middle - 1)
    why = "floor: change of the DFT fit when a point is left out, or its stated noise; baseline: "
    yield Anchor(
        "V0", volume.split, "V0_error", "%", spread[0], float(ends.min()),
        f"{why}an end of the window of volumes",
    )  # fmt: skip
    yield Anchor(
        "B0", volume.split, "B0_error", "%", max(spread[1], margin or 0.0), 100.0,
        f"{why}no stiffness at all",
    )  # fmt: skip


def reference_noise(points: np.ndarray) -> tuple[float, float]:
    """Root mean square change, in per cent, of V0 and B0 when one DFT point is left out."""
    whole = fit_birch_murnaghan(points[:, 1], points[:, 2])
    changes = []
    for k in range(len(points)):
        rest = np.delete(points, k, axis=0)
        try:
            fit = fit_birch_murnaghan(rest[:, 1], rest[:, 2])
        except DataError:
            continue
        changes.append((fit.volume / whole.volume - 1, fit.bulk_modulus / whole.bulk_modulus - 1))
    found = 100 * np.sqrt(np.mean(np.square(changes or [(0.0, 0.0)]), axis=0))
    return float(found[0]), float(found[1])


def _curve_anchor(curve: EnergyCurve) -> Anchor:
    bound = curve.energy <= 0
    chosen, metric = (bound, f"{PEC}_attractive") if bound.any() else (~bound, PEC)
    flat = float(np.sqrt(np.mean((curve.energy - curve.energy[-1])[chosen] ** 2)))
    why = "floor: 0; baseline: a flat curve; where the DFT energy is not positive"
    return Anchor("pec", f"ood:{curve.name}", metric, "eV", 0.0, flat, why)


def scores(entry: Entry, fixed: Sequence[Anchor]) -> list[Score]:
    """All scores of one potential; depends on it and the anchors alone."""
    found = []
    for anchor in fixed:
        matching = [r for r in entry.of(anchor.indicator) if r.split == anchor.split]
        lost = entry.failures.get(anchor.kind) or entry.failures.get("train", "")
        if matching:
            error, score, note = _of_replicas(matching, anchor, entry.trained)
        elif lost:
            error, score, note = None, 0.0, f"failed: {lost}"
        else:
            continue
        found.append(
            Score(
                entry.label, entry.material, entry.seed, anchor.quantity, domain(anchor.split),
                anchor.split, error, score, note,
            )
        )  # fmt: skip
    return found


def _of_replicas(
    results: Sequence[Result], anchor: Anchor, trained: bool
) -> tuple[float | None, float | None, str]:
    """Error, score and note: means over replicas, of which failed ones score 0.

    Foreign potentials have another energy zero: a constant is removed.
    """
    metric = anchor.metric
    if metric == "energy_rmse" and not trained:
        metric = "energy_rmse_shifted"
    failures = [r.failure for r in results if r.failure]
    errors = [v for r in results if not r.failure and (v := r.value(metric)) is not None]
    values = [anchor.score(error) for error in errors] + [0.0] * len(failures)
    if not values:
        return None, None, "not applicable"
    note = f"failed: {failures[0]}" if failures else ""
    if errors and failures:
        note = f"{len(failures)} of {len(values)} {note}"
    return float(np.mean(errors)) if errors else None, float(np.mean(values)), note
