"""Pairs of similar frames, and the work the labels say lies between them.

Two frames with the same atoms in the same order, moved a little, are joined by a straight path.
By the trapezoidal rule the energy changes along it by

    W_F = -1/2 sum_k (F_k + F'_k) . (r'_k - r_k),    W_S = 1/2 V (stress + stress') : strain

with an error of third order in the step. So energies, forces and stress check one another, without
any model: their units, their signs, and whether all energies share one zero.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from siliforce.data.dataset import Dataset
from siliforce.data.frame import Frame
from siliforce.graph.neighbors import completed_cell

NEAREST = 4
"""Partners of each frame."""
MAX_MOVE, MAX_STRAIN, MAX_TURN = 1.0, 0.05, 0.005
"""Largest move of an atom (Å), strain, and rotation of the cell between partners."""
BLOCK = 50
"""Frames in sequence that are sampled together from large sets."""


@dataclass(frozen=True)
class Pairs:
    """Partners and what lies between them; energies in eV, (n_pairs,) each.

    Attributes:
        first, second: rows of the dataset.
        n_atoms: of either frame.
        energy: difference of the energy labels, second minus first.
        force_work: W_F; zero for frames without forces is never used.
        stress_work: W_S, NaN where stress is missing and the cells differ.
        volume, swelling: mean volume and its change, Å³; NaN and zero without periodicity.
        move: RMS displacement, Å.
    """

    first: np.ndarray
    second: np.ndarray
    n_atoms: np.ndarray
    energy: np.ndarray
    force_work: np.ndarray
    stress_work: np.ndarray
    volume: np.ndarray
    swelling: np.ndarray
    move: np.ndarray

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, chosen: np.ndarray) -> Pairs:
        return Pairs(**{name: column[chosen] for name, column in vars(self).items()})


def near_pairs(dataset: Dataset, limit: int = 3000) -> Pairs:
    """Each frame with its nearest partners, among those of one kind.

    Args:
        dataset: only frames with energy and forces are used.
        limit: frames of each kind (same atoms, same periodicity) that are looked at.
    """
    kinds: dict[bytes, list[int]] = defaultdict(list)
    for row in np.flatnonzero(np.isfinite(dataset.energies)):
        record = dataset.records[row]
        kinds[dataset.numbers(int(row)).tobytes() + record["pbc"].tobytes()].append(int(row))
    found: list[tuple[float, ...]] = []
    for rows in kinds.values():
        if len(rows) > 1:
            found += _pairs_of_kind(dataset, _sample(rows, limit))
    columns = np.array(found, dtype=np.float64).reshape(-1, 9).T
    rows_first, rows_second, n_atoms = columns[:3].astype(np.int64)
    return Pairs(rows_first, rows_second, n_atoms, *columns[3:])


def _sample(rows: list[int], limit: int) -> list[int]:
    """All rows, or evenly spaced blocks of them: frames in sequence are near each other."""
    if len(rows) <= limit:
        return rows
    starts = np.linspace(0, len(rows) - BLOCK, limit // BLOCK).astype(int)
    return sorted({rows[s + k] for s in starts for k in range(BLOCK)})


def _pairs_of_kind(dataset: Dataset, rows: list[int]) -> list[tuple[float, ...]]:
    frames = [dataset[row] for row in rows]
    kept = [k for k, frame in enumerate(frames) if frame.forces is not None]
    frames, rows = [frames[k] for k in kept], [rows[k] for k in kept]
    if len(frames) < 2:
        return []
    partners = _nearest(np.stack([_features(frame) for frame in frames]))
    seen: set[tuple[int, int]] = set()
    found = []
    for i, row in enumerate(partners):
        for j in map(int, row):
            pair = (min(i, j), max(i, j))
            if pair in seen:
                continue
            seen.add(pair)
            work = _work(frames[pair[0]], frames[pair[1]])
            if work is not None:
                found.append((rows[pair[0]], rows[pair[1]], frames[0].n_atoms, *work))
    return found


def _features(frame: Frame) -> np.ndarray:
    """Coordinates whose Euclidean distance grows with the displacement, (n_features,)."""
    if not frame.pbc.any():
        # All distances, which no rotation changes.
        between = frame.positions[:, None] - frame.positions[None]
        return np.linalg.norm(between, axis=2)[np.triu_indices(frame.n_atoms, 1)]
    cell = completed_cell(frame.cell, frame.pbc)
    # On the circle, atoms that crossed the boundary stay near.
    angle = 2 * np.pi * frame.positions @ np.linalg.inv(cell)
    return np.concatenate([np.sin(angle).ravel(), np.cos(angle).ravel()])


def _nearest(features: np.ndarray) -> np.ndarray:
    """The nearest other frames of each, (n_frames, up to `NEAREST`)."""
    square = (features**2).sum(axis=1)
    distance = square[:, None] + square[None] - 2 * features @ features.T
    np.fill_diagonal(distance, np.inf)
    k = min(NEAREST, len(features) - 1)
    return np.argpartition(distance, k - 1, axis=1)[:, :k]


def _work(a: Frame, b: Frame) -> tuple[float, ...] | None:
    """Energy, works, volume, swelling and RMS move from `a` to `b`; None if they are too far."""
    assert a.forces is not None
    assert b.forces is not None
    if not a.pbc.any():
        moved, turn = _aligned(a.positions, b.positions)
        step = moved - (a.positions - a.positions.mean(axis=0))
        forces = a.forces + b.forces @ turn
        stress_work, volume, swelling = 0.0, np.nan, 0.0
    else:
        first, second = completed_cell(a.cell, a.pbc), completed_cell(b.cell, b.pbc)
        mean = 0.5 * (first + second)
        gradient = np.linalg.inv(mean) @ (second - first)
        strain = 0.5 * (gradient + gradient.T)
        if np.abs(strain).max() > MAX_STRAIN or np.abs(gradient - strain).max() > MAX_TURN:
            return None
        difference = b.positions @ np.linalg.inv(second) - a.positions @ np.linalg.inv(first)
        difference -= np.round(difference) * a.pbc
        difference -= difference.mean(axis=0)
        step, forces, volume = difference @ mean, a.forces + b.forces, abs(np.linalg.det(mean))
        swelling = abs(np.linalg.det(second)) - abs(np.linalg.det(first))
        if np.abs(strain).max() < 1e-9:
            stress_work = 0.0
        elif a.stress is None or b.stress is None:
            stress_work = np.nan
        else:
            stress_work = float(0.5 * volume * ((a.stress + b.stress) * strain).sum())
    if np.linalg.norm(step, axis=1).max() > MAX_MOVE:
        return None
    rms = float(np.sqrt((step**2).sum(axis=1).mean()))
    force_work = -0.5 * float((forces * step).sum())
    return b.energy - a.energy, force_work, stress_work, volume, swelling, rms


def _aligned(fixed: np.ndarray, moving: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`moving` centred and turned onto `fixed` (centred), and the rotation, (3, 3).

    Reference:
        Kabsch, Acta Cryst. A32, 922 (1976).
    """
    p, q = moving - moving.mean(axis=0), fixed - fixed.mean(axis=0)
    u, _, vt = np.linalg.svd(p.T @ q)
    u[:, -1] *= np.sign(np.linalg.det(u @ vt))
    return p @ (u @ vt), u @ vt
