"""A fingerprint that copies of a structure share, however rotated, shifted, relabelled or repeated.

Per kind of center and neighbor, the number of neighbours at each distance (linear bins, so that it
is continuous), averaged over the centers, and its spread over them. Distances alone, so mirror
images count as copies, as they must: their energies are equal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from siliforce.data.dataset import Dataset
from siliforce.data.distances import distances
from siliforce.progress import track

CUTOFF = 5.0
WIDTH = 0.25
TRIES = 5
"""Candidates that are compared atom by atom for each frame, most similar first."""
RECENT = 64
"""Frames whose environments are kept: candidates come in clusters."""
COPY = 5e-3
"""Relative distance of environments below which structures are copies: atoms differ by about
0.005 Å, less than anything a potential could learn from the second one."""


@dataclass(frozen=True)
class Fingerprints:
    """Of the frames of a dataset.

    Attributes:
        values: (n_frames, n_features), each of length 1.
        formula: reduced composition; only frames of one are compared, (n_frames,).
    """

    values: np.ndarray
    formula: np.ndarray

    def copies(self, other: Fingerprints | None = None, tolerance: float = COPY) -> list[tuple]:
        """Pairs (row here, row in `other`, distance) closer than the tolerance, nearest first.

        Without `other`, pairs among these frames. Rows are sorted along one direction, so only
        those within the tolerance on it are compared: fast for large sets.
        """
        found = []
        for formula in np.unique(self.formula):
            mine = np.flatnonzero(self.formula == formula)
            theirs = mine if other is None else np.flatnonzero(other.formula == formula)
            values = self.values if other is None else other.values
            if len(theirs) == 0:
                continue
            for i, j, d in _close(self.values[mine], values[theirs], tolerance):
                if other is not None or i < j:
                    found.append((int(mine[i]), int(theirs[j]), d))
        return sorted(found, key=lambda pair: pair[2])


def fingerprints(dataset: Dataset, elements: tuple[int, ...] | None = None) -> Fingerprints:
    """Fingerprints of all frames.

    Args:
        elements: in common with other datasets, to make fingerprints comparable.

    Raises:
        DataError: atoms of a frame overlap.
    """
    elements = elements or dataset.elements
    rows = [
        _one(dataset, index, elements)
        for index in track(range(len(dataset)), "comparing structures", silent_below=500)
    ]
    return Fingerprints(np.stack(rows), np.array(dataset.compositions, dtype=object))


class Confirm:
    """Compares environments atom by atom: the last word on whether two frames are copies.

    Means and spreads of two large cells may agree by chance; the environments of all atoms cannot.
    """

    def __init__(self, first: Dataset, second: Dataset, elements: tuple[int, ...]) -> None:
        self.first = lru_cache(RECENT)(lambda row: _environments(first, row, elements))
        self.second = self.first
        if second is not first:
            self.second = lru_cache(RECENT)(lambda row: _environments(second, row, elements))

    def distance(self, i: int, j: int) -> float:
        """Largest relative distance of an environment of row `i` from its partner in row `j`."""
        (kind_a, a), (kind_b, b) = self.first(i), self.second(j)
        common = np.lcm(len(a), len(b))
        a, kind_a = (np.repeat(v, common // len(kind_a), axis=0) for v in (a, kind_a))
        b, kind_b = (np.repeat(v, common // len(kind_b), axis=0) for v in (b, kind_b))
        worst: float = 0.0
        for k in np.unique(kind_a):
            cost = cdist(a[kind_a == k], b[kind_b == k], "sqeuclidean")
            worst = max(worst, float(cost[linear_sum_assignment(cost)].max()))
        square = float(np.square(a).sum(axis=1).mean())
        return float((worst / max(square, 1e-30)) ** 0.5)

    def copies(self, candidates: Iterable[tuple[int, int, float]]) -> list[tuple[int, int]]:
        """Pairs that are copies, until every frame of the second set that has one has it."""
        found: list[tuple[int, int]] = []
        inside, done = self.first is self.second, set()
        tries: Counter[int] = Counter()
        for i, j, _ in candidates:
            if (j in done and (i in done or not inside)) or tries[j] >= TRIES:
                continue
            tries[j] += 1
            if self.distance(i, j) < COPY:
                found.append((i, j))
                done |= {i, j} if inside else {j}
        return found


def copied(first: Dataset, second: Dataset) -> list[tuple[int, int]]:
    """Pairs (row of the first, row of the second) of frames that are copies of each other."""
    elements = tuple(sorted({*first.elements, *second.elements}))
    candidates = fingerprints(first, elements).copies(fingerprints(second, elements))
    return Confirm(first, second, elements).copies(candidates)


def _one(dataset: Dataset, index: int, elements: tuple[int, ...]) -> np.ndarray:
    """(n_elements^2 * n_bins * 2,), of length 1 (0 where no atom has a neighbour)."""
    kind, per_atom = _environments(dataset, index, elements)
    moments = np.zeros((len(elements), 2, per_atom.shape[1]))
    for k in np.unique(kind):
        chosen = per_atom[kind == k]
        moments[k] = chosen.mean(axis=0), chosen.std(axis=0)
    values = moments.ravel()
    norm = np.linalg.norm(values)
    return (values / norm if norm else values).astype(np.float32)


def _environments(
    dataset: Dataset, index: int, elements: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Row of each atom in `elements`, and its neighbours by kind and distance, (n_atoms, ...)."""
    frame = dataset[index]
    kind = np.searchsorted(elements, frame.numbers)
    center, neighbor, lengths = distances(frame, CUTOFF)
    n_atoms, n_kinds, n_bins = len(kind), len(elements), int(CUTOFF / WIDTH) + 2
    place = lengths / WIDTH
    left = place.astype(np.int64)
    part = place - left
    weight = 0.5 * (1 + np.cos(np.pi * lengths / CUTOFF))  # nothing jumps at the cutoff
    key = (center * n_kinds + kind[neighbor]) * n_bins + left
    size = n_atoms * n_kinds * n_bins
    per_atom = np.bincount(key, weight * (1 - part), size)
    per_atom += np.bincount(key + 1, weight * part, size)
    return kind, per_atom.reshape(n_atoms, n_kinds * n_bins)


def _close(
    first: np.ndarray, second: np.ndarray, tolerance: float
) -> Iterator[tuple[int, int, float]]:
    """Pairs of rows closer than the tolerance."""
    direction = np.asarray(np.random.default_rng(0).normal(size=first.shape[1]))
    direction = direction / np.linalg.norm(direction)
    along = second @ direction
    order = np.argsort(along)
    sorted_along = along[order]
    start = np.searchsorted(sorted_along, first @ direction - tolerance, side="left")
    stop = np.searchsorted(sorted_along, first @ direction + tolerance, side="right")
    for i, (a, b) in enumerate(zip(start, stop, strict=True)):
        distances = np.linalg.norm(second[order[a:b]] - first[i], axis=1)
        for j in np.flatnonzero(distances < tolerance):
            yield i, int(order[a + j]), float(distances[j])
