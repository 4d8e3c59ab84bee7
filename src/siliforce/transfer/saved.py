"""How many frames transfer saves: two learning curves compared at equal error.

Errors are geometric means over the draws. They are compared at the lowest error that both curves
reached, one of them at a measured point, the other interpolated between two, linear in log n and
log error. Where training from scratch never comes down to what transfer has with the fewest frames,
it is asked for that error, and the answer is "more than". Nothing is extrapolated.

The interval holds every number of frames at which the difference of the two log errors is zero
within Student's t over the draws (Fieller's way for ratios). So it holds for few draws too, where
it is wide: with two or three it often has an open end, and the text says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.stats import t as student

from siliforce.indicators.base import Metric

LEVEL = 0.95
GRID = 500
"""Numbers of frames that are tested for the interval."""

Bound = Literal["", ">", "<"]
Curve = Mapping[int, Sequence[float]]
"""Number of frames -> error of every draw; draw k is paired with draw k of every other number."""

INVERSE: dict[Bound, Bound] = {"": "", ">": "<", "<": ">"}


@dataclass(frozen=True)
class Number:
    """A number, or only a bound of it."""

    value: float
    bound: Bound = ""

    def __truediv__(self, other: Number) -> Number:
        return Number(self.value / other.value, self.bound or INVERSE[other.bound])

    def __str__(self) -> str:
        return f"{self.bound} {self.value:.2g}".strip()


@dataclass(frozen=True)
class Amount:
    """A number with its 95 % interval, each end of which may be a bound; None for a single draw."""

    value: Number
    low: Number | None = None
    high: Number | None = None

    def __truediv__(self, other: Amount) -> Amount:
        """Of two of which one at most is uncertain."""
        value = self.value / other.value
        if self.low is None and other.low is None:
            return Amount(value)
        low = (self.low or self.value) / (other.high or other.value)
        return Amount(value, low, (self.high or self.value) / (other.low or other.value))

    def text(self, unit: str = "×") -> str:
        """`> 10× [< 1, > 10]`."""
        between = "" if self.low is None else f" [{self.low}, {self.high}]"
        return f"{self.value}{unit}{between}"

    def metric(self, name: str, note: str, unit: str = "×") -> Metric:
        """As a metric; an open end of the interval has no number there."""
        ends = [None if end is None or end.bound else end.value for end in (self.low, self.high)]
        return Metric(
            name=name, value=self.value.value, unit="", better="higher", low=ends[0], high=ends[1],
            note=f"{self.text(unit)}, {note}",
        )  # fmt: skip


@dataclass(frozen=True)
class Saved:
    """Frames from scratch and with transfer for the same error.

    Attributes:
        error: at which they are compared.
        draws: of the frames.
    """

    scratch: Amount
    transfer: Amount
    error: float
    draws: int

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Saved:
        """From what `asdict` made of one, other keys aside."""

        def amount(ends: Mapping[str, Any]) -> Amount:
            low, high = (None if ends[k] is None else Number(**ends[k]) for k in ("low", "high"))
            return Amount(Number(**ends["value"]), low, high)

        scratch, transfer = (amount(plain[name]) for name in ("scratch", "transfer"))
        return cls(scratch, transfer, plain["error"], plain["draws"])

    @property
    def ratio(self) -> Amount:
        """Above one where transfer saves frames."""
        return self.scratch / self.transfer

    def where(self) -> str:
        """Error and draws, in words."""
        ratio = self.ratio
        if ratio.low is None or ratio.high is None:
            draws = "one draw, so without an interval"
        elif (ratio.low.bound, ratio.high.bound) == ("<", ">"):
            draws = f"95 %: {self.draws} draws are too few to bound it on either side"
        else:
            draws = f"95 % over {self.draws} draws"
        return f"at {self.error:.3g} meV/Å; {draws}"

    def sentence(self) -> str:
        """For people."""
        return f"DFT frames saved at equal force error: {self.ratio.text()} ({self.where()})"

    def metric(self, name: str) -> Metric:
        """The factor."""
        return self.ratio.metric(name, self.where())


def frames_saved(transfer: Curve, scratch: Curve) -> Saved:
    """Compare two learning curves at the lowest error that both reached, errors in meV/Å."""
    counts = sorted(transfer.keys() & scratch.keys())
    transfer, scratch = ({n: curve[n] for n in counts} for curve in (transfer, scratch))
    mine, other = ({n: middle(draws) for n, draws in c.items()} for c in (transfer, scratch))
    best, control_best = min(mine, key=mine.__getitem__), min(other, key=other.__getitem__)
    if mine[counts[0]] < other[control_best]:
        return saved_at(transfer, scratch, counts[0])
    if mine[best] > other[control_best]:
        return saved_at(transfer, scratch, best)
    goal = scratch[control_best]
    return Saved(
        _exactly(control_best), frames_needed(transfer, goal), other[control_best], len(goal)
    )


def saved_at(transfer: Curve, scratch: Curve, n: int) -> Saved:
    """Compare two learning curves at the error of transfer with n frames."""
    goal = transfer[n]
    return Saved(frames_needed(scratch, goal), _exactly(n), middle(goal), len(goal))


def frames_needed(curve: Curve, goal: Sequence[float]) -> Amount:
    """Frames after which a curve has first come down to an error.

    Args:
        goal: the error, for every draw.
    """
    counts = sorted(curve)
    gaps = np.log([curve[n] for n in counts]) - np.log(goal)
    value = _first_crossing(counts, gaps.mean(axis=1))
    n_draws = gaps.shape[1]
    if n_draws < 2:
        return Amount(value)
    knots = np.log(counts)
    grid = np.union1d(knots, np.linspace(knots[0], knots[-1], GRID))
    gap = np.stack([np.interp(grid, knots, draw) for draw in gaps.T])
    mean = gap.mean(axis=0)
    quantile = student.ppf((1 + LEVEL) / 2, n_draws - 1)
    half = quantile * gap.std(axis=0, ddof=1) / np.sqrt(n_draws)
    possible = np.exp(grid[np.abs(mean) <= half])
    bound = value.bound if len(possible) == 0 else ""
    low = Number(float(min([value.value, *possible])), bound)
    high = Number(float(max([value.value, *possible])), bound)
    if mean[0] < half[0]:
        low = Number(float(counts[0]), "<")
    if mean[-1] > -half[-1]:
        high = Number(float(counts[-1]), ">")
    return Amount(value, low, high)


def middle(errors: Sequence[float]) -> float:
    """Geometric mean over draws: errors are compared by ratios."""
    return float(np.exp(np.log(errors).mean()))


def shared_draws(counts: Sequence[int], n_pool: int | None) -> list[str]:
    """Says where draws of the frames share more than half of them, as sentences."""
    many = [n for n in counts if n_pool is not None and n > n_pool / 2]
    if not many:
        return []
    return [
        f"Draws of {', '.join(map(str, many))} frames from a pool of {n_pool} share most of their "
        "frames: the draws differ too little there, and the intervals are too narrow"
    ]


def _exactly(n: int) -> Amount:
    return Amount(Number(float(n)))


def _first_crossing(counts: Sequence[int], gaps: np.ndarray) -> Number:
    """Where the difference of log errors comes down to zero, linear in log n."""
    below = np.flatnonzero(gaps <= 0)
    if len(below) == 0:
        return Number(float(counts[-1]), ">")
    k = int(below[0])
    if k == 0:
        return Number(float(counts[0]), "" if gaps[0] == 0 else "<")
    x, share = np.log(counts), gaps[k - 1] / (gaps[k - 1] - gaps[k])
    return Number(float(np.exp(x[k - 1] + share * (x[k] - x[k - 1]))))
