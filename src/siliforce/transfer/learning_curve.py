"""Learning curves of independent draws, read at equal error: how many samples are saved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

N_BOOTSTRAP = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Curve:
    """Error against samples.

    Attributes:
        sizes: samples, increasing.
        errors: one row per size, one column per draw of the samples, (n_sizes, n_draws).
    """

    sizes: tuple[int, ...]
    errors: np.ndarray

    def mean(self) -> np.ndarray:
        """Geometric, since errors are compared by ratios; (n_sizes,)."""
        return _mean(self.errors)

    def interval(self, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """95 % interval of the mean by drawing the draws again, (n_sizes,) each."""
        means = _mean(_resampled(self.errors, np.random.default_rng(seed)))
        low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
        return low, high


@dataclass(frozen=True)
class Saving:
    """How many times more samples the control needs for the same error.

    Attributes:
        factor: samples of the control over those of the transfer; a bound where `beyond` says so.
        low, high: 95 % interval, bounds likewise.
        beyond: `>` if the control never reaches the error, `<` if its fewest samples do already.
    """

    factor: float
    low: float
    high: float
    beyond: str = ""

    def sentence(self) -> str:
        """`12× [8, 19]`, or `> 40×`."""
        if self.beyond:
            return f"{self.beyond} {self.factor:.3g}×"
        return f"{self.factor:.3g}× [{self.low:.3g}, {self.high:.3g}]"


def samples_saved(transfer: Curve, control: Curve, size: int, seed: int = 0) -> Saving:
    """Samples of the control at the error that the transfer has with `size` samples, over `size`.

    Errors are interpolated between sizes on logarithmic scales and never extrapolated.

    Args:
        size: one of the transfer's.
    """
    row = transfer.sizes.index(size)
    needed, beyond = samples_for(control.sizes, control.mean(), float(transfer.mean()[row]))
    rng = np.random.default_rng(seed)
    targets = _mean(_resampled(transfer.errors[row : row + 1], rng))[:, 0]
    means = _mean(_resampled(control.errors, rng))
    pairs = zip(means, targets, strict=True)
    spread = [samples_for(control.sizes, mean, target)[0] for mean, target in pairs]
    low, high = np.quantile(spread, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Saving(needed / size, float(low) / size, float(high) / size, beyond)


def samples_for(sizes: Sequence[int], errors: np.ndarray, target: float) -> tuple[float, str]:
    """Samples at which an error curve first falls to a target.

    Returns:
        The number, and `>` if the curve ends above the target or `<` if it begins below.
    """
    x, y, goal = np.log(np.asarray(sizes, float)), np.log(errors), np.log(target)
    below = np.flatnonzero(y <= goal)
    if len(below) == 0:
        return float(sizes[-1]), ">"
    k = int(below[0])
    if k == 0:
        return float(sizes[0]), "" if y[0] == goal else "<"
    share = (y[k - 1] - goal) / (y[k - 1] - y[k])
    return float(np.exp(x[k - 1] + share * (x[k] - x[k - 1]))), ""


def _mean(errors: np.ndarray) -> np.ndarray:
    return np.exp(np.log(errors).mean(axis=-1))


def _resampled(errors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draws drawn again with replacement, (N_BOOTSTRAP, n_sizes, n_draws); the same for all sizes
    would assume that draws of different sizes belong together, and they do not."""
    n_sizes, n_draws = errors.shape
    chosen = rng.integers(n_draws, size=(N_BOOTSTRAP, n_sizes, n_draws))
    return np.take_along_axis(np.broadcast_to(errors, chosen.shape), chosen, axis=2)
