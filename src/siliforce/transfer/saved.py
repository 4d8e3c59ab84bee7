"""How many frames transfer saves: two learning curves compared at equal error.

The yardstick is the lowest error that training from scratch reached. Where transfer reaches it is
interpolated between measured points, linear in log n and log error; nothing is extrapolated: if
transfer is below it with the fewest frames that were tried, the answer is "more than".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from siliforce.transfer.learning_curve import samples_for

RESAMPLES = 1000
Bound = Literal["", ">", "<"]


@dataclass(frozen=True)
class Saved:
    """Frames from scratch over frames with transfer, at equal error.

    Attributes:
        ratio: above one where transfer saves frames.
        bound: `>` or `<` where only that much is known from what was measured.
        low, high: 95 % interval over the draws of the frames; None for a single draw.
        high_open, low_open: whether an end of the interval is such a bound.
        error: at which they are compared, meV/Å.
    """

    ratio: float
    bound: Bound
    error: float
    low: float | None = None
    high: float | None = None
    low_open: bool = False
    high_open: bool = False

    def sentence(self) -> str:
        """For people."""
        sign = {"": "", ">": "> ", "<": "< "}[self.bound]
        text = f"DFT frames saved at equal force error: {sign}{self.ratio:.2g}×"
        if self.low is not None and self.high is not None:
            low, high = ("< " * self.low_open, "> " * self.high_open)
            text += f" [{low}{self.low:.2g}, {high}{self.high:.2g}]"
        return text


def frames_needed(counts: Sequence[float], errors: Sequence[float], error: float) -> float | None:
    """Frames after which a curve has fallen to an error; None if it never does.

    The fewest that were tried where the curve begins below the error.
    """
    needed, beyond = samples_for([int(n) for n in counts], np.asarray(errors, float), error)
    return None if beyond == ">" else needed


def saved_once(
    counts: Sequence[float], transfer: Sequence[float], scratch: Sequence[float]
) -> tuple[float, Bound, float]:
    """Ratio, bound and error of one pair of curves over the same numbers of frames."""
    error = float(np.min(scratch))
    from_scratch = frames_needed(counts, scratch, error)
    assert from_scratch is not None
    with_transfer = frames_needed(counts, transfer, error)
    if with_transfer is not None:
        begins_below = transfer[0] < error
        return from_scratch / with_transfer, ">" if begins_below else "", error
    best = float(np.min(transfer))
    transfer_at = frames_needed(counts, transfer, best)
    scratch_at = frames_needed(counts, scratch, best)
    assert transfer_at is not None
    assert scratch_at is not None  # scratch went below it
    return scratch_at / transfer_at, "<" if scratch[0] < best else "", best


def frames_saved(
    transfer: Mapping[int, Sequence[float]], scratch: Mapping[int, Sequence[float]], seed: int = 0
) -> Saved:
    """Compare two learning curves.

    Args:
        transfer, scratch: number of frames -> error of every draw, meV/Å; draw k is the same frames
            in both and is part of draw k of any larger number.
    """
    counts = sorted(transfer.keys() & scratch.keys())
    one = np.array([transfer[n] for n in counts], dtype=float)
    other = np.array([scratch[n] for n in counts], dtype=float)
    ratio, bound, error = saved_once(counts, _middle(one), _middle(other))
    n_draws = one.shape[1]
    if n_draws < 2:
        return Saved(ratio, bound, error)
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(RESAMPLES):
        rows = rng.integers(n_draws, size=n_draws)
        found.append(saved_once(counts, _middle(one[:, rows]), _middle(other[:, rows]))[:2])
    order = sorted(found, key=lambda pair: pair[0])
    low, high = order[int(0.025 * RESAMPLES)], order[int(0.975 * RESAMPLES) - 1]
    return Saved(ratio, bound, error, low[0], high[0], low[1] == "<", high[1] == ">")


def equivalent_frames(
    counts: Sequence[float], transfer: Sequence[float], scratch: Sequence[float]
) -> list[tuple[int, float, Bound]]:
    """For every number of frames with transfer, how many from scratch give the same error."""
    rows: list[tuple[int, float, Bound]] = []
    for n, error in zip(counts, transfer, strict=True):
        needed = frames_needed(counts, scratch, error)
        if needed is None:
            rows.append((int(n), float(counts[-1]), ">"))
        else:
            rows.append((int(n), needed, "<" if scratch[0] < error else ""))
    return rows


def _middle(errors: np.ndarray) -> list[float]:
    """Geometric mean over draws: errors are compared by ratios."""
    return np.exp(np.log(errors).mean(axis=1)).tolist()
