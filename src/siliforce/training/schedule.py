"""Learning rate as a function of the fraction of the budget that is used.

The budget is the number of epochs, the wall-clock time, or whichever is used up faster: a
training limited to 30 minutes reaches the end of its schedule when the 30 minutes are over.
"""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from siliforce.training.options import Options


class ScheduleConfig(Options):
    """Shape of the learning rate over the budget."""

    kind: Literal["cosine", "linear", "exponential", "plateau", "constant"] = "cosine"
    warmup: float = Field(0.01, ge=0, lt=1, description="fraction of the budget, rising from 0")
    hold: float = Field(0.0, ge=0, lt=1, description="fraction of the budget before the decay")
    final: float = Field(0.0, ge=0, le=1, description="last over first learning rate")
    factor: float = Field(0.5, gt=0, lt=1, description="plateau: reduction")
    patience: int = Field(20, ge=1, description="plateau: validations without improvement")


EXPONENTIAL_FINAL = 1e-2
"""Where an exponential decay ends if `final` is 0, which it cannot reach."""


def learning_rate_factor(config: ScheduleConfig, fraction: float) -> float:
    """Learning rate over its initial value at a fraction of the budget in [0, 1]."""
    fraction = min(max(fraction, 0.0), 1.0)
    if fraction < config.warmup:
        # Half a per cent at the very first step, so that no step is without effect.
        return max(fraction / config.warmup, 5e-3)
    start = max(config.warmup, config.hold)
    x = max(fraction - start, 0.0) / (1 - start)
    final = config.final
    match config.kind:
        case "cosine":
            return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * x))
        case "linear":
            return final + (1 - final) * (1 - x)
        case "exponential":
            return (final or EXPONENTIAL_FINAL) ** x
        case _:
            return 1.0
