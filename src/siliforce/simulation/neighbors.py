"""Neighbour lists that outlive a step: found with a margin, reused until atoms have moved."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from siliforce.errors import DataError
from siliforce.graph import Graph, Topology, assemble, neighbor_list
from siliforce.graph.neighbors import MIN_DISTANCE


class CollapsedError(DataError):
    """Systems of a batch whose pairs cannot be found: overlapping atoms, NaN, a flat cell.

    Attributes:
        systems: what is wrong, by number in the batch.
    """

    def __init__(self, systems: dict[int, str]) -> None:
        super().__init__("; ".join(dict.fromkeys(systems.values())))
        self.systems = systems


class SkinList:
    """Graphs of a batch of structures as they move.

    Pairs are searched within `cutoff + skin`. Those of a system stay complete while

        smallest stretch of the cell * (cutoff + skin) - 2 * largest displacement > cutoff,

    displacements being what the deformation of the cell does not explain; with a fixed cell that
    is half the skin. Only systems for which it fails are searched again.

    Attributes:
        searches: how many searches there were, each of one system.
    """

    def __init__(self, cutoff: float, skin: float, device: torch.device) -> None:
        if not skin >= 0:
            raise DataError(f"the skin of a neighbour list is {skin} Å; it must not be negative")
        self.cutoff = cutoff
        self.skin = skin
        self.device = device
        self.searches = 0
        self._edges: list[tuple[Tensor, Tensor, Tensor]] = []  # of each system, counted in it
        self._wide: Graph | None = None
        self._sizes = torch.zeros(0, dtype=torch.int64)
        self._positions = self._cell = torch.zeros(0)  # at the last search of each system

    def update(self, atoms: Atoms) -> Graph:
        """All pairs of one structure within cutoff + skin, float64 edge vectors.

        Raises:
            CollapsedError: overlapping atoms, or a cell or positions that are not usable.
        """
        return self.follow(
            numbers=torch.as_tensor(atoms.numbers, dtype=torch.int64, device=self.device),
            sizes=torch.tensor([len(atoms)], device=self.device),
            positions=torch.as_tensor(atoms.positions, dtype=torch.float64, device=self.device),
            cell=torch.as_tensor(atoms.cell.array, dtype=torch.float64, device=self.device)[None],
            pbc=torch.as_tensor(atoms.pbc, device=self.device)[None],
        )

    def follow(
        self, numbers: Tensor, sizes: Tensor, positions: Tensor, cell: Tensor, pbc: Tensor
    ) -> Graph:
        """The same for a batch.

        Args:
            numbers, positions: of all atoms; float64 positions, Å.
            sizes: atoms of each system, (n_systems,).
            cell, pbc: (n_systems, 3, 3), float64, Å, and (n_systems, 3).

        Raises:
            CollapsedError: naming the systems; the lists of the others are kept.
        """
        stale = self._stale(numbers, sizes, positions, cell, pbc)
        if stale or self._wide is None:
            self._search(stale, sizes, positions, cell, pbc)
            self._wide = self._joined(numbers, sizes, positions, cell, pbc)
        graph = self._wide.moved(positions, cell)
        lengths = graph.edge_lengths
        if len(lengths) and lengths.min() < MIN_DISTANCE:
            raise CollapsedError(_overlaps(graph, lengths))
        return graph

    def select(self, chosen: Sequence[int]) -> None:
        """Keep the lists of some systems, in this order."""
        offsets = torch.cumsum(self._sizes, 0) - self._sizes
        atoms = [torch.arange(int(self._sizes[i])) + int(offsets[i]) for i in chosen]
        self._edges = [self._edges[i] for i in chosen]
        rows = torch.as_tensor(list(chosen), dtype=torch.int64)
        self._positions = self._positions[torch.cat(atoms).to(self.device)]
        self._cell, self._sizes = self._cell[rows.to(self.device)], self._sizes[rows]
        self._wide = None

    def _stale(
        self, numbers: Tensor, sizes: Tensor, positions: Tensor, cell: Tensor, pbc: Tensor
    ) -> list[int]:
        """Systems whose pairs must be searched."""
        known = self._wide
        if not torch.equal(self._sizes, sizes.cpu()) or (
            known is not None
            and not (torch.equal(known.numbers, numbers) and torch.equal(known.pbc, pbc))
        ):
            self._edges = [()] * len(sizes)  # type: ignore[list-item]
            self._sizes = sizes.cpu()
            self._positions, self._cell = positions.clone(), cell.clone()
            return list(range(len(sizes)))
        index = torch.repeat_interleave(torch.arange(len(sizes), device=self.device), sizes)
        stretch = torch.ones(len(sizes), dtype=torch.float64, device=self.device)
        expected = self._positions
        if not torch.equal(self._cell, cell):
            # A cell without volume tells nothing: the system is searched.
            flat = torch.linalg.det(self._cell).abs() < 1e-6
            old = torch.where(flat[:, None, None], torch.eye(3).to(cell), self._cell)
            deformation = torch.linalg.solve(old, cell)
            stretch = torch.linalg.svdvals(deformation.nan_to_num())[:, -1]
            same = (self._cell == cell).flatten(1).all(dim=1)
            stretch = torch.where(same, 1.0, torch.where(flat, torch.nan, stretch))
            deformation[same] = torch.eye(3).to(cell)
            expected = torch.einsum("na,nax->nx", expected, deformation[index])
        moved = torch.linalg.vector_norm(positions - expected, dim=1)
        largest = torch.zeros_like(stretch).scatter_reduce(0, index, moved, "amax")
        # Atoms that were wrapped into the cell count as moved; a NaN must not count as at rest.
        safe = stretch * (self.cutoff + self.skin) - 2 * largest > self.cutoff
        missing = torch.tensor([not e for e in self._edges], device=self.device)
        return torch.nonzero(~safe | missing)[:, 0].tolist()

    def _search(
        self, stale: Sequence[int], sizes: Tensor, positions: Tensor, cell: Tensor, pbc: Tensor
    ) -> None:
        """Search the pairs of these systems."""
        ends = torch.cumsum(self._sizes, 0).tolist()
        lengths, problems = self._sizes.tolist(), {}
        for i in stale:
            own = slice(ends[i] - lengths[i], ends[i])
            place, box, periodic = (a.cpu().numpy() for a in (positions[own], cell[i], pbc[i]))
            try:
                found = neighbor_list(place, box, periodic, self.cutoff + self.skin)
            except DataError as error:
                problems[i] = str(error)
                continue
            self.searches += 1
            kinds = (torch.int64, torch.int64, torch.int32)
            parts = (found.center, found.neighbor, found.cell_shifts)
            self._edges[i] = tuple(  # type: ignore[assignment]
                torch.as_tensor(p).to(self.device, kind)
                for p, kind in zip(parts, kinds, strict=True)
            )
            self._positions[own], self._cell[i] = positions[own], cell[i]
            self._wide = None
        if problems:
            raise CollapsedError(problems)

    def _joined(
        self, numbers: Tensor, sizes: Tensor, positions: Tensor, cell: Tensor, pbc: Tensor
    ) -> Graph:
        counts = torch.tensor([len(e[0]) for e in self._edges], device=self.device)
        offset = torch.repeat_interleave(torch.cumsum(sizes, 0) - sizes, counts)
        center, neighbor, shifts = (torch.cat(parts) for parts in zip(*self._edges, strict=True))
        return assemble(
            numbers=numbers.clone(),
            positions=positions,
            sizes=sizes,
            cell=cell,
            pbc=pbc.clone(),
            center=center + offset,
            neighbor=neighbor + offset,
            cell_shifts=shifts,
            topology=Topology(),
            dtype=torch.float64,
        )


def _overlaps(graph: Graph, lengths: Tensor) -> dict[int, str]:
    """Overlapping atoms by system."""
    first = graph.center.new_zeros(graph.n_systems + 1)
    torch.cumsum(torch.bincount(graph.system_index, minlength=graph.n_systems), 0, out=first[1:])
    found: dict[int, str] = {}
    for edge in torch.nonzero(lengths < MIN_DISTANCE)[:, 0].tolist():
        system = int(graph.system_index[graph.center[edge]])
        i, j = int(graph.center[edge] - first[system]), int(graph.neighbor[edge] - first[system])
        found.setdefault(
            system,
            f"atoms {i} and {j} are {float(lengths[edge]):.2g} Å apart: the structure has "
            "collapsed",
        )
    return found


def narrowed(
    graph: Graph,
    cutoff: float,
    needs: Topology,
    dtype: torch.dtype,
    systems: tuple[int, int] | None = None,
) -> Graph:
    """The graph with the pairs within `cutoff` only, and the topology that a model needs.

    Args:
        graph: with at least these pairs, float64 edge vectors.
        cutoff: Å.
        needs, dtype: of the model.
        systems: first and one past the last to keep; all by default.
    """
    first, last = systems or (0, graph.n_systems)
    sizes = torch.bincount(graph.system_index, minlength=graph.n_systems)
    begin, end = int(sizes[:first].sum()), int(sizes[:last].sum())
    keep = graph.edge_lengths < cutoff
    if systems is not None:
        keep &= (graph.center >= begin) & (graph.center < end)
    return assemble(
        numbers=graph.numbers[begin:end],
        positions=graph.positions[begin:end],
        sizes=sizes[first:last],
        cell=graph.cell[first:last],
        pbc=graph.pbc[first:last],
        center=graph.center[keep] - begin,
        neighbor=graph.neighbor[keep] - begin,
        cell_shifts=graph.cell_shifts[keep],
        topology=needs,
        dtype=dtype,
        vectors=graph.edge_vectors[keep],
    )


def closest(graph: Graph, reach: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Shortest distance of each system, Å, and the shortest one relative to `reach`.

    Args:
        graph: with pairs beyond any contact.
        reach: of each edge, Å: the sum of the covalent radii.

    Returns:
        Both (n_systems,); infinite where a system has no pairs.
    """
    lengths = graph.edge_lengths.double()
    index = graph.system_index[graph.center]
    far = lengths.new_full((graph.n_systems,), torch.inf)
    shortest = far.scatter_reduce(0, index, lengths, "amin")
    relative = far.scatter_reduce(0, index, lengths / reach, "amin")
    return shortest.cpu().numpy(), relative.cpu().numpy()
