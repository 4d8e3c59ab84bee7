"""Which frames make a step, which rank takes them, and in what portions they fit in memory.

The frames of a step depend on the seed, the epoch and the batch size alone. The edge budget and
the number of ranks only cut a step into portions whose gradients are added, so neither running
out of memory nor another number of GPUs changes what is learned (up to rounding).
"""

from __future__ import annotations

import numpy as np


class EdgeBudgetSampler:
    """Order of the frames as a pure function of (seed, epoch).

    Attributes:
        max_edges: most edges in one portion; a larger frame is a portion of its own. May be
            lowered at any time.
    """

    def __init__(
        self,
        edge_counts: np.ndarray,
        n_atoms: np.ndarray,
        batch_size: int,
        max_edges: int,
        seed: int,
        rank: int = 0,
        n_ranks: int = 1,
    ) -> None:
        """Plan steps.

        Args:
            edge_counts, n_atoms: of each frame.
            batch_size: frames in a step, over all ranks.
            max_edges: edges in one portion.
            seed: of the shuffling.
            rank, n_ranks: this process among all.
        """
        self.cost = np.asarray(edge_counts) + np.asarray(n_atoms)
        self.batch_size = batch_size
        self.max_edges = max_edges
        self.seed = seed
        self.rank = rank
        self.n_ranks = n_ranks
        self._epoch: tuple[int, list[np.ndarray]] = (-1, [])

    def __len__(self) -> int:
        """Steps in an epoch."""
        return -(-len(self.cost) // self.batch_size)

    def frames(self, epoch: int, step: int) -> np.ndarray:
        """All frames of a step, over all ranks."""
        if self._epoch[0] != epoch:
            order = np.random.default_rng([self.seed, epoch]).permutation(len(self.cost))
            # Steps of nearly equal size: a small rest would be a step with a noisy gradient.
            self._epoch = (epoch, np.array_split(order, len(self)))
        return self._epoch[1][step]

    def portions(self, epoch: int, step: int) -> list[np.ndarray]:
        """This rank's frames of a step, in portions within the edge budget."""
        mine = by_rank(self.frames(epoch, step), self.cost, self.n_ranks)[self.rank]
        return within_budget(mine, self.cost, self.max_edges)


def by_rank(frames: np.ndarray, cost: np.ndarray, n_ranks: int) -> list[np.ndarray]:
    """Split frames so that the ranks' costs are nearly equal: largest first, to the idlest."""
    if n_ranks == 1:
        return [frames]
    members: list[list[int]] = [[] for _ in range(n_ranks)]
    load = np.zeros(n_ranks)
    for frame in frames[np.argsort(-cost[frames], kind="stable")]:
        idlest = int(np.argmin(load))
        members[idlest].append(int(frame))
        load[idlest] += cost[frame]
    return [np.array(m, dtype=np.int64) for m in members]


def within_budget(frames: np.ndarray, cost: np.ndarray, budget: int) -> list[np.ndarray]:
    """Cut frames, in their order, into as few portions of about equal cost as the budget asks."""
    if len(frames) == 0:
        return []
    total = int(cost[frames].sum())
    if total <= budget:
        return [frames]
    # Aim for equal portions; the budget itself decides where that does not work out.
    target = min(budget, -(-total // -(-total // budget)))
    portions: list[list[int]] = [[]]
    load = 0
    for frame in frames:
        if (portions[-1] and load + cost[frame] > budget) or load >= target:
            portions.append([])
            load = 0
        portions[-1].append(int(frame))
        load += cost[frame]
    return [np.array(p, dtype=np.int64) for p in portions]
