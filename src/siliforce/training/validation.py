"""Loss and errors on the validation frames, each of them once, whatever the number of processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from siliforce.data.batch import Batch
from siliforce.training.compiled import Predict
from siliforce.training.distributed import World
from siliforce.training.loader import Loader, prefetch
from siliforce.training.loss import Loss, label_counts, residuals
from siliforce.training.memory import is_out_of_memory
from siliforce.training.metrics import N_SUMS, error_sums
from siliforce.training.sampler import by_rank, within_budget


class Validator:
    """Evaluates a potential on a dataset.

    Attributes:
        loader: of the validation set.
        cost: edges and atoms of each frame.
    """

    def __init__(self, loader: Loader, cost: np.ndarray, loss: Loss, world: World) -> None:
        self.loader, self.cost, self.loss, self.world = loader, cost, loss, world
        self.mine = by_rank(np.arange(len(cost)), cost, world.size)[world.rank]

    def evaluate(
        self,
        predict: Predict,
        device: torch.device,
        max_edges: int,
        shrink: Callable[[int], int],
    ) -> tuple[float, Tensor]:
        """Loss with the weights of the training's end, and error sums, over all processes.

        The last weights throughout: otherwise the best of two phases could not be compared.

        Args:
            predict: of the potential, on the device.
            max_edges: in one portion.
            shrink: called with a budget that memory does not hold; returns a smaller one.
        """
        while (result := self._sums(predict, device, max_edges)) is None:
            max_edges = shrink(max_edges)
        terms, sums = self.world.add(result[0]), self.world.add(result[1])
        penalties, counts = terms.view(2, 3).tolist()
        weights = self.loss.config.weights(1.0)
        loss = sum(w * p / c for w, p, c in zip(weights, penalties, counts, strict=True) if c)
        return loss, sums

    @torch.no_grad()
    def _sums(
        self, predict: Predict, device: torch.device, max_edges: int
    ) -> tuple[Tensor, Tensor] | None:
        """Penalties and label counts, (6,), and error sums of this process; None without memory."""
        terms = torch.zeros(6, dtype=torch.float64, device=device)
        sums = torch.zeros(N_SUMS, dtype=torch.float64, device=device)
        try:
            for batch in prefetch(self._batches(max_edges)):
                terms[3:] += label_counts(batch, self.loss.config.pool).to(device)
                batch = batch.to(device)
                residual = residuals(predict(batch.graph, create_graph=False), batch)
                terms[:3] += self.loss.sums(residual, batch)
                sums += error_sums(residual, batch)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return None
        return terms, sums

    def _batches(self, max_edges: int) -> Iterator[Batch]:
        return (self.loader.batch(p) for p in within_budget(self.mine, self.cost, max_edges))
