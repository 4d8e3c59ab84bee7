"""What a training will cost, measured on a few of its own steps before it starts."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import numpy as np
import torch

from siliforce.errors import TrainingError
from siliforce.training.loader import StepData
from siliforce.training.memory import PeakMemory, available_bytes
from siliforce.training.options import show_seconds
from siliforce.training.sampler import within_budget
from siliforce.training.trainer import Trainer

SHARE = 0.6
"""Part of the free memory that a training may plan with."""

TRIAL_S = 10.0
"""Stop measuring steps after so many seconds."""

FEW_STEPS = 1000
"""With fewer steps a training is far from its end, and smaller batches bring it closer."""


@dataclass(frozen=True)
class Estimate:
    """Measured cost.

    Attributes:
        step_s: one step of mean size, s.
        valid_s: one validation, s.
        n_steps: in the whole training; None if only the time is limited.
        total_s: the whole training, s.
        peak_bytes: memory of the largest portion tried.
        max_edges: edge budget.
    """

    step_s: float
    valid_s: float
    n_steps: int | None
    total_s: float
    peak_bytes: int
    max_edges: int

    def sentence(self, epochs: int, batch_size: int) -> str:
        """For people."""
        memory = f"{self.peak_bytes / 2**30:.2g} GB" if self.peak_bytes else "little"
        cost = f"{show_seconds(self.step_s)} a step, {memory} of memory for activations"
        if self.n_steps is None:
            n = max((self.total_s - self.valid_s) / self.step_s, 0)
            if n < FEW_STEPS and batch_size > 1:
                cost += (
                    f". Few steps: smaller train.batch_size (now {batch_size}) takes more of them"
                )
            return f"{show_seconds(self.total_s)}, in it about {n:.0f} steps; {cost}"
        return (
            f"about {show_seconds(self.total_s)} for {epochs} epochs = {self.n_steps} steps; {cost}"
        )


def estimate(trainer: Trainer, measure_memory: bool = True) -> Estimate:
    """Time real steps, without changing any weight.

    Sets the edge budget by the memory there is, and the time to keep for the last validation.

    Raises:
        TrainingError: the largest frame does not fit.
    """
    sampler, world = trainer.sampler, trainer.world
    largest = int(np.argmax(sampler.cost))
    peak, _ = _trial(trainer, np.array([largest]))
    if measure_memory and peak:
        per_edge = peak / sampler.cost[largest]
        budget = int(SHARE * available_bytes(trainer.device) / per_edge)
        trainer.set_max_edges(min(max(budget, int(sampler.cost[largest])), sampler.max_edges))
    rates, started = [], time.monotonic()
    for step in range(min(3, len(sampler))):
        for portion in sampler.portions(0, step):
            bytes_, seconds = _trial(trainer, portion)
            peak = max(peak, bytes_)
            rates.append(seconds / float(sampler.cost[portion].sum()))
        if world.share(time.monotonic() - started) > TRIAL_S:
            break
    trainer.set_max_edges(world.smallest(sampler.max_edges))
    step_s = statistics.median(rates or [0.0]) * float(sampler.cost.sum()) / len(sampler)
    step_s = float(world.share(step_s)) / world.size
    valid_s = float(world.share(_trial_validation(trainer)))
    if trainer.state.valid_s == 0:
        trainer.state.valid_s = valid_s
    return _total(trainer, step_s, valid_s, peak)


def _total(trainer: Trainer, step_s: float, valid_s: float, peak: int) -> Estimate:
    config, per_epoch = trainer.config, len(trainer.sampler)
    total, n_steps = config.max_time or 0.0, None
    if config.max_time is None or config.epochs is not None:
        epochs = trainer.budget.max_epochs
        n_steps = epochs * per_epoch
        full = n_steps * step_s + epochs / config.validate_every * valid_s
        if total and full > total:
            n_steps = None
        else:
            total = full
    return Estimate(step_s, valid_s, n_steps, total, peak, trainer.sampler.max_edges)


def _trial(trainer: Trainer, frames: np.ndarray) -> tuple[int, float]:
    """Peak memory and time of one gradient."""
    batch = trainer.loader.batch(frames)
    data = StepData([batch], torch.ones(3, dtype=torch.float64), trainer.sampler.max_edges)
    factors = torch.full((3,), 1e-9, dtype=torch.float64, device=trainer.device)
    memory, started = PeakMemory(trainer.device), time.monotonic()
    if trainer.gradient(data, factors) is None:
        if len(frames) > 1:
            trainer.shrink(batch.graph.n_edges)
            return _trial(trainer, frames[: len(frames) // 2])
        raise TrainingError(
            f"memory does not hold the largest frame ({batch.graph.n_edges} edges): choose a "
            "smaller cutoff or preset, float32, or a device with more memory"
        )
    _wait(trainer.device)
    return memory.peak(), time.monotonic() - started


def _trial_validation(trainer: Trainer) -> float:
    """Time of a whole validation, from one portion of it."""
    everything = np.arange(len(trainer.validator.cost))
    frames = within_budget(everything, trainer.validator.cost, trainer.sampler.max_edges)[0]
    frames = frames[: trainer.sampler.batch_size]
    batch = trainer.validator.loader.batch(frames).to(trainer.device)
    with torch.no_grad():
        trainer.predict(batch.graph, create_graph=False)
        _wait(trainer.device)
        started = time.monotonic()
        trainer.predict(batch.graph, create_graph=False)
        _wait(trainer.device)
    seconds = time.monotonic() - started
    share = trainer.validator.cost.sum() / trainer.validator.cost[frames].sum()
    return seconds * float(share) / trainer.world.size


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
