"""A mean over seeds, members of an ensemble or replicas, and how far it can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and its 95 % interval; no interval from one seed.

    Attributes:
        n: number of seeds.
    """

    mean: float
    low: float | None
    high: float | None
    n: int

    def tied(self, other: Estimate) -> bool:
        """Whether the difference of two means can be chance; unknown counts as not tied."""
        if self.low is None or other.low is None:
            return self.mean == other.mean
        halves = (self.mean - self.low, other.mean - other.low)
        return abs(self.mean - other.mean) <= float(np.hypot(*halves))


def over_seeds(values: Sequence[float]) -> Estimate:
    """Mean with a Student interval; the spread of seeds is all that it knows of."""
    array = np.asarray(values, dtype=float)
    mean, n = float(array.mean()), len(array)
    if n < 2:
        return Estimate(mean, None, None, n)
    half = float(t.ppf(0.975, n - 1) * array.std(ddof=1) / np.sqrt(n))
    return Estimate(mean, mean - half, mean + half, n)
