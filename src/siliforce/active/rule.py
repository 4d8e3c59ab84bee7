"""When to stop: the predicted force error of the frames that are not labelled yet."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from siliforce.active.calibration import Calibration, rms
from siliforce.errors import ConfigError
from siliforce.indicators.tables import digits

MEV = 1e3
_ERROR = re.compile(r"\s*([0-9.]+(?:e-?\d+)?)\s*(m?eV)(?:/(?:Å|A|Ang|Angstrom))?\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Outlook:
    """What is predicted for a set of frames, in eV/Å.

    Attributes:
        error: predicted force RMSE over all their atoms.
        upper: its upper bound (95 %); None where too few frames were held out to know one.
        beyond: share of atoms whose spread exceeds any that was calibrated.
    """

    error: float
    upper: float | None
    beyond: float

    def stop(self, below: float) -> bool | None:
        """Whether the error is surely below a stated one; None if nobody can be sure of anything.

        The upper bound counts: a mean that is below by luck would stop too early half of the time.
        """
        return None if self.upper is None else self.upper < below

    def sentence(self, below: float | None = None) -> str:
        """For people."""
        text = f"predicted force error {digits(MEV * self.error, 3)} meV/Å"
        text += (
            ", too few held-out frames for an upper bound"
            if self.upper is None
            else f", at most {digits(MEV * self.upper, 3)} meV/Å (95 %)"
        )
        if below is None:
            return text
        answer = {
            True: f"below the stated {digits(MEV * below, 3)} meV/Å: stop",
            False: f"not surely below the stated {digits(MEV * below, 3)} meV/Å: go on",
            None: "hold out two frames at least to apply a stopping rule",
        }[self.stop(below)]
        return f"{text}; {answer}"


def outlook(calibration: Calibration, spread: np.ndarray, n_frames: int, largest: float) -> Outlook:
    """Predict the error of a set of frames.

    Args:
        spread: of all their atoms, eV/Å.
        n_frames: in the set.
        largest: spread among the atoms that were calibrated on, eV/Å.
    """
    error = rms(calibration.map(spread))
    factor = calibration.factor(n_frames)
    upper = None if factor is None else error * factor
    return Outlook(error, upper, float(np.mean(spread > largest)))


def force_error(text: str) -> float:
    """`50meV`, `0.05 eV/Å` as eV/Å.

    Raises:
        ConfigError: no unit, or not a positive number.
    """
    found = _ERROR.fullmatch(text)
    try:
        value = float(found[1]) if found else 0.0
    except ValueError:
        value = 0.0
    if not found or not value > 0:
        raise ConfigError(f"'{text}' is not a force error: write 50meV, or 0.05eV (per Å)")
    return value / MEV if found[2].lower() == "mev" else value
