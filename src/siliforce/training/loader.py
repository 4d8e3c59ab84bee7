"""Batches made ready in a background thread while the model works."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor

from siliforce.data.batch import Batch
from siliforce.training.loss import label_counts
from siliforce.training.sampler import EdgeBudgetSampler

if TYPE_CHECKING:
    from siliforce.data import Dataset
    from siliforce.potential import Potential

T = TypeVar("T")
DEPTH = 3
"""Steps kept ready."""


@dataclass(frozen=True)
class StepData:
    """What one optimiser step of this rank needs.

    Attributes:
        batches: portions, on the CPU.
        counts: labels of energy, forces, stress in them, (3,).
        max_edges: the edge budget they were cut for.
    """

    batches: list[Batch]
    counts: Tensor
    max_edges: int


class Loader:
    """Collates frames of a dataset for one potential."""

    def __init__(self, dataset: Dataset, potential: Potential, pool: str) -> None:
        self.dataset = dataset
        self.cutoff = potential.cutoff
        self.topology = potential.model.needs
        self.dtype = potential.dtype
        self.pool = pool
        self.pin = potential.device.type == "cuda"

    def batch(self, indices: np.ndarray) -> Batch:
        """One batch, in page-locked memory if it will go to a GPU."""
        batch = self.dataset.batch(indices, self.cutoff, self.topology, self.dtype)
        return Batch(_pinned(batch.graph), _pinned(batch.targets)) if self.pin else batch

    def step(self, sampler: EdgeBudgetSampler, epoch: int, step: int) -> StepData:
        """This rank's part of a step."""
        max_edges = sampler.max_edges
        batches = [self.batch(p) for p in sampler.portions(epoch, step)]
        counts = torch.zeros(3, dtype=torch.float64)
        for batch in batches:
            counts += label_counts(batch, self.pool)
        return StepData(batches, counts, max_edges)

    def epoch(
        self, sampler: EdgeBudgetSampler, epoch: int, start: int
    ) -> Generator[StepData, None, None]:
        """The steps of an epoch from `start` on, made ahead of time."""
        return prefetch(self.step(sampler, epoch, s) for s in range(start, len(sampler)))


def prefetch(items: Iterator[T], depth: int = DEPTH) -> Generator[T, None, None]:
    """Iterate with the next items made in a background thread; its errors are raised here."""
    ready: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(maxsize=depth)
    stopped = threading.Event()

    def put(entry: tuple[T | None, BaseException | None]) -> bool:
        while not stopped.is_set():
            try:
                ready.put(entry, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        try:
            for item in items:
                if not put((item, None)):
                    return
            put((None, StopIteration()))
        except BaseException as error:
            put((None, error))

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item  # type: ignore[misc]
    finally:
        stopped.set()
        thread.join()


def _pinned(record: T) -> T:
    values = {f.name: getattr(record, f.name) for f in fields(record)}  # type: ignore[arg-type]
    return type(record)(
        **{k: v.pin_memory() if isinstance(v, Tensor) else v for k, v in values.items()}
    )
