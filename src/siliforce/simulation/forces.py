"""Where the forces of a batch come from: potentials on one graph, or an ASE calculator."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.data import covalent_radii
from torch import Tensor

from siliforce.data.environments import farthest, of_card
from siliforce.errors import DataError
from siliforce.graph import Graph, Topology
from siliforce.hardware import keep_freed_memory
from siliforce.potential import Potential, Prediction
from siliforce.simulation.domain import outside_range, spread_limit
from siliforce.simulation.integrators import State
from siliforce.simulation.neighbors import CollapsedError, SkinList, closest, narrowed

SKIN = 0.5
"""Margin of the neighbour lists, Å."""
CONTACT_SEARCH = 4.0
"""Pairs beyond this (Å) are never a close contact."""

_RADII = torch.as_tensor(covalent_radii)


class Forces(Protocol):
    """Fills a state, and says how close its atoms are."""

    device: torch.device
    has_stress: bool
    spread_limit: float

    def __call__(self, state: State, stress: bool) -> None:
        """Fill energy and forces, and stress if asked for.

        Raises:
            CollapsedError: naming the systems that cannot be evaluated.
        """

    def contacts(self, state: State) -> tuple[np.ndarray, np.ndarray]:
        """Shortest distance of each system, Å, and relative to the sum of covalent radii."""

    def novelty(self, state: State) -> np.ndarray | None:
        """How far each system is from the training data, (b,); None if that is not known."""

    def outside(self, starts: Sequence[Atoms]) -> str:
        """Why starts lie outside of the training data's range, or empty."""

    def select(self, chosen: Sequence[int]) -> None:
        """Some of the systems are left."""


class PotentialForces:
    """One potential or an ensemble, all systems as one graph.

    Where the memory does not suffice for all at once, they are evaluated in twice as many pieces.
    """

    def __init__(self, members: Sequence[Potential], skin: float = SKIN) -> None:
        self.members = list(members)
        self.device = members[0].device
        if self.device.type == "cpu":
            keep_freed_memory()
        self.pairs = SkinList(max(p.cutoff for p in members), skin, self.device)
        self.has_stress = all(p.has_stress for p in members)
        self.environments = of_card(members[0].card)
        self.spread_limit = spread_limit(members[0].card)
        self.pieces = 1
        self._graph: Graph | None = None

    def __call__(self, state: State, stress: bool) -> None:
        """Means over the members; the spread is the largest over the atoms of each system."""
        self._graph = self.pairs.follow(
            state.numbers, state.sizes, state.positions, state.cell, state.pbc
        )
        results = [self._evaluated(member, self._graph, stress) for member in self.members]
        state.energy = torch.stack([r[0] for r in results]).mean(dim=0)
        forces = torch.stack([r[1] for r in results])
        state.forces = forces.mean(dim=0)
        state.stress = torch.stack([r[2] for r in results]).mean(dim=0) if stress else None
        if len(results) > 1:
            deviation = torch.linalg.vector_norm(forces.std(dim=0), dim=1)
            zeros = torch.zeros_like(state.energy)
            state.spread = zeros.scatter_reduce(0, state.system_index, deviation, "amax")

    def _evaluated(
        self, member: Potential, graph: Graph, stress: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        while True:
            try:
                parts = [
                    self._piece(member, graph, stress, ends) for ends in self._ends(graph.n_systems)
                ]
            except torch.OutOfMemoryError:
                if self.pieces >= graph.n_systems:
                    raise
                self.pieces = min(2 * self.pieces, graph.n_systems)
                warnings.warn(
                    f"out of memory: the batch is evaluated in {self.pieces} pieces from here on",
                    stacklevel=2,
                )
                continue
            energy, forces, stresses = zip(*parts, strict=True)
            return torch.cat(energy), torch.cat(forces), torch.cat(stresses)

    def _piece(
        self, member: Potential, graph: Graph, stress: bool, systems: tuple[int, int] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        local = narrowed(graph, member.cutoff, member.model.needs, member.dtype, systems)
        with torch.no_grad():  # else a direct model's answer would keep its graph
            found: Prediction = member(local, forces=True, stress=stress)
        assert found.forces is not None
        tensor = found.energy.new_zeros(0, 3, 3) if found.stress is None else found.stress.double()
        return found.energy.double(), found.forces.double(), tensor

    def _ends(self, n_systems: int) -> list[tuple[int, int] | None]:
        if self.pieces == 1:
            return [None]
        cuts = np.linspace(0, n_systems, min(self.pieces, n_systems) + 1).round().astype(int)
        return [(int(a), int(b)) for a, b in pairwise(cuts)]

    def contacts(self, state: State) -> tuple[np.ndarray, np.ndarray]:
        """From the graph of the last evaluation."""
        assert self._graph is not None
        return closest(self._graph, _reach(self._graph))

    def novelty(self, state: State) -> np.ndarray | None:
        """Largest distance of an atom's environment to the training data, 1 at their edge."""
        assert self._graph is not None
        return farthest(self.environments, self._graph) if self.environments else None

    def outside(self, starts: Sequence[Atoms]) -> str:
        """From densities and distances, see `outside_range`."""
        assert self._graph is not None
        card, found = self.members[0].card, []
        for number, atoms in enumerate(starts):
            own = (number, number + 1)
            graph = narrowed(self._graph, torch.inf, Topology(), torch.float64, own)
            found += [f"start {number}: {r}" for r in outside_range(card, atoms, graph)[:1]]
        return "; ".join(found[:3])

    def select(self, chosen: Sequence[int]) -> None:
        """Keep the neighbour lists of these."""
        self.pairs.select(chosen)


class CalculatorForces:
    """Any ASE calculator, for a batch of one system."""

    device = torch.device("cpu")
    spread_limit = float("inf")

    def __init__(self, calculator: Calculator, atoms: Atoms) -> None:
        declared = "stress" in calculator.implemented_properties and bool(atoms.pbc.all())
        self.has_stress = declared and getattr(calculator, "has_stress", True)
        self.atoms = atoms.copy()
        self.atoms.calc = calculator
        self.pairs = SkinList(CONTACT_SEARCH - SKIN, SKIN, self.device)

    def __call__(self, state: State, stress: bool) -> None:
        """Energy and forces as ASE gives them."""
        atoms = self.atoms
        atoms.positions[:] = state.positions.numpy()
        if not np.array_equal(atoms.cell.array, state.cell[0].numpy()):
            atoms.set_cell(state.cell[0].numpy())
        try:
            forces = atoms.get_forces()
            energy = atoms.get_potential_energy()
            tensor = atoms.get_stress(voigt=False) if stress else None
        except (DataError, FloatingPointError, OverflowError, ValueError) as error:
            raise CollapsedError({0: str(error)}) from error
        state.forces = torch.tensor(np.asarray(forces, dtype=np.float64))
        state.energy = torch.tensor([float(energy)], dtype=torch.float64)
        state.stress = None if tensor is None else torch.tensor(tensor, dtype=torch.float64)[None]

    def contacts(self, state: State) -> tuple[np.ndarray, np.ndarray]:
        """From pairs of its own."""
        try:
            graph = self.pairs.follow(
                state.numbers, state.sizes, state.positions, state.cell, state.pbc
            )
        except CollapsedError:  # overlapping atoms, or NaN: then the energies say so
            return np.zeros(1), np.zeros(1)
        return closest(graph, _reach(graph))

    def novelty(self, state: State) -> None:
        """Nothing is known of what it was made from."""

    def outside(self, starts: Sequence[Atoms]) -> str:
        """Nor of its range."""
        return ""

    def select(self, chosen: Sequence[int]) -> None:
        """There is one system only."""


def _reach(graph: Graph) -> Tensor:
    """Sum of the covalent radii at the ends of every edge, Å."""
    radii = _RADII.to(graph.numbers.device)[graph.numbers]
    return radii[graph.center] + radii[graph.neighbor]
