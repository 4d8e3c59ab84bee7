"""Where a training stands, and how much of its budget is used."""

from __future__ import annotations

import math
from dataclasses import dataclass

from siliforce.training.settings import DEFAULT_EPOCHS, TrainConfig

INTERRUPTED = "interrupted"
"""Reason of a stop that a restart continues from."""

TIME_IS_OVER = "time limit"


class Diverged(Exception):
    """The loss is not finite or far above its best."""


@dataclass
class State:
    """Goes into the checkpoint as JSON.

    Attributes:
        epoch, step_in_epoch, step: finished ones.
        elapsed: time of training and validation so far by the chosen clock, s.
        best_loss: lowest validation loss.
        best_epoch: where it was reached; not whole if time ended within an epoch.
        stale: validations since then.
        plateau: the same, since the plateau schedule last acted.
        lr_factor: product of reductions by plateaus and divergences.
        divergences: how often the loss diverged.
        max_edges: edge budget.
        metrics_bytes: length of metrics.jsonl.
        valid_s: duration of the last validation, or an estimate, s.
        n_train_steps: steps in the running sums.
        stop_reason: empty while running.
    """

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    elapsed: float = 0.0
    best_loss: float = math.inf
    best_epoch: float = 0.0
    stale: int = 0
    plateau: int = 0
    lr_factor: float = 1.0
    divergences: int = 0
    max_edges: int = 0
    metrics_bytes: int = 0
    valid_s: float = 0.0
    n_train_steps: int = 0
    stop_reason: str = ""


class Budget:
    """Epochs, time, or whichever is used up faster.

    Attributes:
        max_epochs: practically unlimited if only the time counts.
    """

    def __init__(self, config: TrainConfig, steps_per_epoch: int) -> None:
        self.max_time = config.max_time
        unlimited = DEFAULT_EPOCHS if config.max_time is None else 2**62
        self.max_epochs = unlimited if config.epochs is None else config.epochs
        self.steps_per_epoch = steps_per_epoch

    def fraction(self, state: State) -> float:
        """Used part, at most 1; the last validation belongs to the time."""
        by_steps = state.step / (self.max_epochs * self.steps_per_epoch)
        if self.max_time is None:
            return by_steps
        available = max(self.max_time - state.valid_s, 1e-9)
        return min(max(by_steps, state.elapsed / available), 1.0)

    def time_is_over(self, state: State) -> bool:
        """Whether no more than the last validation can be done in time."""
        return self.max_time is not None and state.elapsed + state.valid_s >= self.max_time

    def epochs_done(self, state: State) -> float:
        """With the part of the present epoch."""
        return round(state.epoch + state.step_in_epoch / self.steps_per_epoch, 3)
