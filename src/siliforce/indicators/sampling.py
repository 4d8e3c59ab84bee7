"""Sums of errors over independent units, and what resampling them says of the noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from siliforce.indicators.predictions import Predictions

RESAMPLES = 1000
MIN_UNITS = 5
"""With fewer independent groups than this, frames are resampled; with fewer frames, nothing is."""


@dataclass(frozen=True)
class Sums:
    """Sums of errors over independent units (frames or groups): all averages follow from them.

    Attributes:
        energy: number, sum, sum of magnitudes, sum of squares of per-atom errors; (n_units, 4).
        forces, stress: the same over components.
        reference: sum of squares of the reference forces, (n_units, 1).
    """

    energy: np.ndarray
    forces: np.ndarray
    stress: np.ndarray
    reference: np.ndarray

    def weighted(self, weights: np.ndarray) -> Sums:
        """Resampled: every row of `weights`, (n_samples, n_units), becomes one unit."""
        parts = (self.energy, self.forces, self.stress, self.reference)
        return Sums(*(weights @ part for part in parts))

    def resampled(self, seed: int = 0) -> Sums:
        """`RESAMPLES` draws of as many units, with replacement."""
        n = len(self.energy)
        rng = np.random.default_rng(seed)
        return self.weighted(rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(float))


def unit_sums(predictions: Predictions, unit: np.ndarray) -> Sums:
    """Sums over the frames of each unit; `unit` is the unit of every frame, (n_frames,)."""
    n_units = int(unit.max()) + 1
    energy = (predictions.energy - predictions.energy_ref) / predictions.n_atoms
    forces = predictions.forces - predictions.forces_ref
    stress = predictions.stress - predictions.stress_ref
    of_atom = unit[predictions.frame_of_atom]
    labelled = np.isfinite(forces)
    reference = np.where(labelled, predictions.forces_ref, 0.0)
    return Sums(
        _sums(energy, unit, n_units),
        _sums(forces.ravel(), np.repeat(of_atom, 3), n_units),
        _sums(stress.ravel(), np.repeat(unit, 9), n_units),
        np.bincount(of_atom, np.square(reference).sum(axis=1), n_units)[:, None],
    )


def _sums(errors: np.ndarray, unit: np.ndarray, n_units: int) -> np.ndarray:
    """Number, sum, sum of magnitudes and sum of squares per unit, over what is finite."""
    good = np.isfinite(errors)
    errors, unit = errors[good], unit[good]
    parts = (np.ones_like(errors), errors, np.abs(errors), errors**2)
    return np.stack([np.bincount(unit, p, n_units) for p in parts], axis=1)


def independent_units(predictions: Predictions) -> tuple[str, int]:
    """What is resampled, and how many there are: groups if there are enough, else frames."""
    groups = len(np.unique(predictions.labels["group"]))
    frames = len(predictions.n_atoms)
    if MIN_UNITS <= groups < frames:
        return "groups", groups
    return "frames", frames if frames >= MIN_UNITS else 1


def unit_index(predictions: Predictions) -> np.ndarray:
    """Unit of every frame, (n_frames,)."""
    if independent_units(predictions)[0] == "groups":
        return np.unique(predictions.labels["group"], return_inverse=True)[1]
    return np.arange(len(predictions.n_atoms))


def interval_95(values: np.ndarray) -> tuple[float | None, float | None]:
    """Between which 95 % of the values lie; None if there are none."""
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return None, None
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
