"""Distances between the atoms of one frame, in no order: cheaper than a neighbour list."""

from __future__ import annotations

import numpy as np
from vesin import NeighborList

from siliforce.data.frame import Frame
from siliforce.errors import DataError
from siliforce.graph.neighbors import MIN_DISTANCE, completed_cell


def distances(frame: Frame, cutoff: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both atoms and the distance (Å) of every pair within `cutoff`, each pair both ways.

    Raises:
        DataError: two atoms overlap, or the cell has no volume.
    """
    finder = NeighborList(cutoff=cutoff, full_list=True)
    cell = completed_cell(frame.cell, frame.pbc)
    first, second, lengths = finder.compute(frame.positions, cell, frame.pbc, quantities="ijd")
    if len(lengths) and lengths.min() < MIN_DISTANCE:
        at = int(lengths.argmin())
        raise DataError(
            f"{frame.source or 'frame'}: atoms {first[at]} and {second[at]} are "
            f"{lengths[at]:.2g} Å apart: the same atom entered twice?"
        )
    return first.astype(np.int64), second.astype(np.int64), lengths
