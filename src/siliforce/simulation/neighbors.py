"""Neighbour lists that outlive a step: found with a margin, reused until an atom has moved."""

from __future__ import annotations

import numpy as np
import torch
from ase import Atoms

from siliforce.errors import DataError
from siliforce.graph import Graph, System, Topology, assemble, collate
from siliforce.graph.neighbors import MIN_DISTANCE


class SkinList:
    """Graphs of one structure as it moves.

    Pairs are searched within `cutoff + skin` and stay complete until some atom has moved by half
    the skin, or the cell or the elements change; then they are searched again. Every graph that
    is handed out holds exactly the pairs within the cutoff, so the answer never depends on when
    the last search was.

    Attributes:
        searches: how often pairs were searched.
    """

    def __init__(self, cutoff: float, skin: float, device: torch.device) -> None:
        if not skin >= 0:
            raise DataError(f"the skin of a neighbour list is {skin} Å; it must not be negative")
        self.cutoff = cutoff
        self.skin = skin
        self.device = device
        self.searches = 0
        self._wide: Graph | None = None
        self._origin: Atoms | None = None

    def update(self, atoms: Atoms) -> Graph:
        """All pairs within cutoff + skin at the present positions, float64 edge vectors.

        Raises:
            DataError: overlapping atoms, or a cell or positions that are not usable.
        """
        if self._wide is None or self._is_stale(atoms):
            system = System.build(
                atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, self.cutoff + self.skin
            )
            self._wide = collate([system], Topology(), torch.float64).to(self.device)
            self._origin = atoms.copy()
            self.searches += 1
            return self._wide
        positions = torch.as_tensor(atoms.positions, dtype=torch.float64, device=self.device)
        graph = self._wide.moved(positions)
        lengths = graph.edge_lengths
        if len(lengths) and lengths.min() < MIN_DISTANCE:
            edge = int(lengths.argmin())
            raise DataError(
                f"atoms {int(graph.center[edge])} and {int(graph.neighbor[edge])} are "
                f"{float(lengths[edge]):.2g} Å apart: the structure has collapsed"
            )
        return graph

    def _is_stale(self, atoms: Atoms) -> bool:
        old = self._origin
        assert old is not None
        if len(old) != len(atoms) or not np.array_equal(old.numbers, atoms.numbers):
            return True
        if not np.array_equal(old.cell.array, atoms.cell.array) or (old.pbc != atoms.pbc).any():
            return True
        # Atoms that were wrapped into the cell count as moved; a NaN must not count as at rest.
        moved = np.square(atoms.positions - old.positions).sum(axis=1)
        return not moved.max(initial=0.0) < (0.5 * self.skin) ** 2


def narrowed(graph: Graph, cutoff: float, needs: Topology, dtype: torch.dtype) -> Graph:
    """The graph with the pairs within `cutoff` only, and the topology that a model needs."""
    keep = graph.edge_lengths < cutoff
    return assemble(
        numbers=graph.numbers,
        positions=graph.positions,
        sizes=torch.bincount(graph.system_index, minlength=graph.n_systems),
        cell=graph.cell,
        pbc=graph.pbc,
        center=graph.center[keep],
        neighbor=graph.neighbor[keep],
        cell_shifts=graph.cell_shifts[keep],
        topology=needs,
        dtype=dtype,
    )
