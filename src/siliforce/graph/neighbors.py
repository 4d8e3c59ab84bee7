"""Full periodic neighbour lists, through vesin."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from vesin import NeighborList as _VesinNeighborList

from siliforce.errors import DataError

MIN_DISTANCE = 1e-3
"""Two atoms closer than this (Å) are one atom entered twice, and no direction can be defined."""


@dataclass(frozen=True)
class NeighborList:
    """Every pair within a cutoff, in both directions, sorted by center, neighbor, cell shift.

    Attributes:
        center: atom whose environment the edge belongs to; (n_edges,), int64.
        neighbor: the other atom; (n_edges,), int64.
        cell_shifts: lattice translations of the neighbor; (n_edges, 3), int64.
    """

    center: np.ndarray
    neighbor: np.ndarray
    cell_shifts: np.ndarray

    @property
    def n_edges(self) -> int:
        return len(self.center)


def neighbor_list(
    positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float
) -> NeighborList:
    """Find all pairs with `|r_j - r_i + S @ cell| < cutoff`.

    Cells may be triclinic or smaller than the cutoff (then an atom sees its own images), the
    boundary mixed or open.

    Args:
        positions: (n_atoms, 3), Å.
        cell: lattice vectors as rows, (3, 3), Å; rows of open directions are ignored.
        pbc: periodic directions, (3,).
        cutoff: Å.

    Raises:
        DataError: a position or the cell is not finite, the periodic cell has no volume, the
            cutoff is not positive, or two atoms overlap.

    Reference:
        Fraux et al., vesin: neighbour lists for atomistic systems.
    """
    positions = np.ascontiguousarray(positions, dtype=np.float64)
    pbc = np.asarray(pbc, dtype=bool)
    cell = completed_cell(cell, pbc)
    if not np.isfinite(positions).all():
        raise DataError("positions hold NaN or infinite values; check the frame")
    if not cutoff > 0:
        raise DataError(f"cutoff is {cutoff} Å; it must be positive")
    if len(positions) == 0:
        return NeighborList(*(np.zeros(s, dtype=np.int64) for s in ((0,), (0,), (0, 3))))
    finder = _VesinNeighborList(cutoff=cutoff, full_list=True)
    pairs, shifts, distances = finder.compute(positions, cell, pbc, quantities="PSd")
    if len(distances) and distances.min() < MIN_DISTANCE:
        i, j = pairs[np.argmin(distances)]
        raise DataError(
            f"atoms {i} and {j} are {distances.min():.2g} Å apart: the same atom entered twice? "
            "Remove one, or check the cell"
        )
    pairs, shifts = pairs.astype(np.int64), shifts.astype(np.int64)
    order = np.argsort(_sort_key(pairs, shifts, len(positions)), kind="stable")
    return NeighborList(pairs[order, 0], pairs[order, 1], shifts[order])


def completed_cell(cell: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """The cell with unit vectors in place of rows that are not periodic and not given.

    Raises:
        DataError: the cell is not finite, or spans no volume although it is periodic.
    """
    cell = np.array(cell, dtype=np.float64).reshape(3, 3)
    if not np.isfinite(cell).all():
        raise DataError("the cell holds NaN or infinite values; check the frame")
    missing = ~pbc & (np.abs(cell).sum(axis=1) == 0)
    if missing.any():
        present = cell[~missing]
        # Orthogonal to the given rows, so that the filled-in rows never make the cell singular.
        basis = np.linalg.svd(present)[2][len(present) :] if len(present) else np.eye(3)
        cell[missing] = basis[: missing.sum()]
    if pbc.any() and abs(np.linalg.det(cell)) < 1e-6:
        raise DataError(
            f"the cell {cell.tolist()} has no volume although pbc is {pbc.tolist()}; "
            "give three independent lattice vectors or switch periodicity off"
        )
    if not pbc.any() and abs(np.linalg.det(cell)) < 1e-6:
        return np.eye(3)
    return cell


def _sort_key(pairs: np.ndarray, shifts: np.ndarray, n_atoms: int) -> np.ndarray:
    """One integer per edge whose order is that of (center, neighbor, shift)."""
    span = int(np.abs(shifts).max(initial=0)) + 1
    base = 2 * span + 1
    key = pairs[:, 0] * n_atoms + pairs[:, 1]
    for axis in range(3):
        key = key * base + (shifts[:, axis] + span)
    return key
