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

    @property
    def half(self) -> float:
        """Half the width of the interval, 0 where there is none."""
        return 0.0 if self.low is None else self.mean - self.low

    def tied(self, other: Estimate) -> bool:
        """Whether the difference of two means can be chance, as far as their intervals tell."""
        return abs(self.mean - other.mean) <= float(np.hypot(self.half, other.half))


def over_seeds(values: Sequence[float]) -> Estimate:
    """Mean with a Student interval; the spread of seeds is all that it knows of."""
    array = np.asarray(values, dtype=float)
    mean, n = float(array.mean()), len(array)
    if n < 2:
        return Estimate(mean, None, None, n)
    half = float(t.ppf(0.975, n - 1) * array.std(ddof=1) / np.sqrt(n))
    return Estimate(mean, mean - half, mean + half, n)
