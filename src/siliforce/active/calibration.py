"""From the spread of an ensemble to a force error in eV/Å, learned on held-out frames.

The predicted error of an atom is a multiple of its spread (`scale`), the one whose mean square is
that of the errors; or, where a multiple is not enough, a monotone curve through the mean squares of
equally filled bins (`isotonic`). Which of the two is decided by the likelihood of frames left out.
Errors and spreads are root mean squares over the three components: the predicted error of many
atoms is to be compared with a force RMSE.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import isotonic_regression
from scipy.stats import chi2, spearmanr
from scipy.stats import t as student

from siliforce.active.spread import Answers, frame_rms
from siliforce.errors import DataError

LEVEL = 0.95
MIN_FRAMES = 2
"""Held-out frames without which nothing is said of how sure the calibration is."""
BIN_ATOMS = 50
MAX_BINS = 20
GAIN = 0.02
"""Log-likelihood per atom by which a curve must beat a multiple."""
FOLDS = 10
TINY = 1e-12


@dataclass(frozen=True)
class Map:
    """Spread -> predicted error.

    Attributes:
        scale: error over spread of all held-out atoms together; all that there is to a multiple.
        spreads, errors: knots of a curve, rising, eV/Å; empty for a multiple.
    """

    scale: float
    spreads: tuple[float, ...] = ()
    errors: tuple[float, ...] = ()

    @property
    def kind(self) -> str:
        return "scale" if not self.spreads else "isotonic" if self.scale else "constant"

    def __call__(self, spread: np.ndarray) -> np.ndarray:
        """Predicted RMS error of each atom, eV/Å; off the curve's ends in proportion to the spread.

        Below as well: atoms that symmetry keeps free of forces have neither spread nor error.
        """
        if not self.spreads:
            return self.scale * spread
        if not self.scale:
            return np.full_like(spread, self.errors[0])
        inside = np.interp(spread, (0.0, *self.spreads), (0.0, *self.errors))
        return inside * np.maximum(spread / self.spreads[-1], 1.0)


@dataclass(frozen=True)
class Calibration:
    """What held-out frames taught, and how sure that is.

    Attributes:
        map: spread -> predicted error.
        true, predicted: sums of squared errors of every held-out frame, (eV/Å)^2; each was
            predicted without it.
        n_atoms: held out.
    """

    map: Map
    true: tuple[float, ...]
    predicted: tuple[float, ...]
    n_atoms: int

    @property
    def n_frames(self) -> int:
        """Held out."""
        return len(self.true)

    def factor(self, n_frames: int) -> float | None:
        """The predicted error of a set of frames times this is its upper bound (95 %, one-sided).

        Held-out frames and the set are taken for draws from one distribution. What is bounded is
        the mean of squared errors, which the worst frames decide: the larger of the bounds that
        follow from the variance of the frames' part in it (linearised ratio of sums), and from
        normally distributed logarithms of the frames' ratios (Cox's method; Zhou and Gao,
        Stat. Med. 16, 783 (1997)), which holds with few frames too. At least 1; None where a single
        frame was held out.
        """
        n = self.n_frames
        if n < MIN_FRAMES:
            return None
        true, predicted = (np.maximum(v, TINY) for v in (self.true, self.predicted))
        both = 1 / n + 1 / max(n_frames, 1)  # the set itself is finite, too
        width = student.ppf(LEVEL, n - 1)
        ratio = true.sum() / predicted.sum()
        parts = (true / ratio - predicted) / predicted.mean()
        sums = np.log(ratio) + width * np.sqrt(both) * parts.std(ddof=1)
        logs = np.log(true / predicted)
        variance = logs.var(ddof=1)
        spread = np.sqrt(both * variance + variance**2 / (2 * (n - 1)))
        normal = logs.mean() + variance / 2 + width * spread
        return float(np.exp(max(sums, normal, 0.0) / 2))

    def to_json(self) -> dict[str, Any]:
        """Plain types."""
        return {
            "kind": self.map.kind,
            "scale": self.map.scale,
            "spreads": list(self.map.spreads),
            "errors": list(self.map.errors),
            "true": list(self.true),
            "predicted": list(self.predicted),
            "n_atoms": self.n_atoms,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Calibration:
        """The inverse of `to_json`."""
        curve = Map(content["scale"], tuple(content["spreads"]), tuple(content["errors"]))
        true, predicted = tuple(content["true"]), tuple(content["predicted"])
        return cls(curve, true, predicted, content["n_atoms"])


def calibrate(held: Answers) -> Calibration:
    """Learn predicted errors from frames that no member was trained on.

    Members that are all the same (no training made the source better, say) predict one error for
    everything.

    Raises:
        DataError: no frame has forces.
    """
    held = labelled(held)
    spread, error = held.spread, held.error
    chosen = _multiple(spread, error)
    if not spread.max() > 0:
        chosen = _constant(spread, error)
    elif _likelihood(held, _curve) > _likelihood(held, _multiple) + GAIN:
        chosen = _curve(spread, error)
    predicted = left_out(held, FITS[chosen.kind])
    true, expected = (
        tuple((held.n_atoms * frame_rms(v, held.n_atoms) ** 2).tolist()) for v in (error, predicted)
    )
    return Calibration(chosen, true, expected, len(spread))


def labelled(answers: Answers) -> Answers:
    """The frames whose forces are known.

    Raises:
        DataError: there are none.
    """
    known = np.isfinite(frame_rms(answers.error, answers.n_atoms))
    if not known.any():
        raise DataError("calibration needs held-out frames with forces: name some by --calibrate")
    return answers.of(np.flatnonzero(known))


def checked(held: Answers) -> dict[str, Any]:
    """Quality of the predicted errors of held-out frames, each learned on the other ones."""
    fit = FITS[calibrate(held).map.kind]
    return quality(left_out(held, fit), held.error, held.n_atoms)


def left_out(held: Answers, fit: Any) -> np.ndarray:
    """Predicted error of every atom, learned on the other frames, (n_atoms,)."""
    n_frames, frame = len(held.n_atoms), held.frame
    spread, error = held.spread, held.error
    if n_frames < 2:
        return fit(spread, error)(spread)
    predicted = np.empty_like(spread)
    for k in range(min(n_frames, FOLDS)):
        out = frame % FOLDS == k
        predicted[out] = fit(spread[~out], error[~out])(spread[out])
    return predicted


def _multiple(spread: np.ndarray, error: np.ndarray) -> Map:
    return Map(float(np.sqrt(np.square(error).sum() / max(np.square(spread).sum(), TINY))))


def _curve(spread: np.ndarray, error: np.ndarray) -> Map:
    """Through mean squares of equally filled bins; a multiple where there is but one bin."""
    n_bins = min(len(spread) // BIN_ATOMS, MAX_BINS)
    if n_bins < 2:
        return _multiple(spread, error)
    parts = np.array_split(np.argsort(spread, kind="stable"), n_bins)
    at = np.sqrt([np.square(spread[p]).mean() for p in parts])
    rising = isotonic_regression([np.square(error[p]).mean() for p in parts]).x
    keep = np.concatenate([[True], np.diff(at) > 0])
    knots = np.sqrt(np.maximum(rising, TINY))[keep]
    return Map(_multiple(spread, error).scale, tuple(at[keep].tolist()), tuple(knots.tolist()))


def _constant(spread: np.ndarray, error: np.ndarray) -> Map:
    """One error for everything, of members that do not differ."""
    return Map(0.0, (0.0,), (rms(error),))


FITS = {"scale": _multiple, "isotonic": _curve, "constant": _constant}


def _likelihood(held: Answers, fit: Any) -> float:
    """Per atom, of frames left out, as normal distributions of the three components."""
    variance = np.maximum(np.square(left_out(held, fit)), TINY)
    return float(-1.5 * np.mean(np.log(variance) + np.square(held.error) / variance))


def quality(
    predicted: np.ndarray, error: np.ndarray, n_atoms: np.ndarray, bins: int = 10
) -> dict[str, Any]:
    """How good predicted errors are.

    Args:
        predicted, error: of the atoms, (n_atoms,), eV/Å.
        n_atoms: of the frames.
        bins: equally filled, of the reliability table.

    Returns:
        `spearman` over atoms and `spearman_frames` (None below three frames); `within`, the share
        of atoms within the bound that 95 % should keep if errors were normal; `deviation`, the mean
        relative distance of predicted from true error over the bins; `predicted`, `true` (eV/Å,
        RMS over all atoms); `reliability`, rows of `predicted`, `true`, `n`.
    """
    bound = predicted * np.sqrt(chi2.ppf(LEVEL, 3) / 3)
    order = np.argsort(predicted, kind="stable")
    parts = np.array_split(order, max(1, min(bins, len(order) // 10)))
    rows = [{"predicted": rms(predicted[p]), "true": rms(error[p]), "n": len(p)} for p in parts]
    apart = [abs(r["predicted"] - r["true"]) / max(r["true"], TINY) for r in rows]
    frames = [frame_rms(v, n_atoms) for v in (predicted, error)]
    return {
        "spearman": _rank(predicted, error),
        "spearman_frames": _rank(*frames),
        "within": float(np.mean(error <= bound)),
        "deviation": float(np.mean(apart)),
        "predicted": rms(predicted),
        "true": rms(error),
        "reliability": rows,
    }


def rms(values: np.ndarray) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(np.square(values))))


def _rank(one: np.ndarray, other: np.ndarray) -> float | None:
    if len(one) < 3 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    return float(spearmanr(one, other).statistic)
