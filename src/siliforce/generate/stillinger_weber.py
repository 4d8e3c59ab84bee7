"""Stillinger-Weber silicon: the cheap sampler that needs nothing but NumPy (1 ms for 64 atoms).

Reference: Stillinger, Weber, Phys. Rev. B 31, 5262 (1985), eqs. 2.3-2.6 and table I.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from vesin import NeighborList

from siliforce.errors import DataError

EPSILON, SIGMA, REACH = 2.1683, 2.0951, 1.80
A, B, P, Q = 7.049556277, 0.6022245584, 4, 0
LAMBDA, GAMMA = 21.0, 1.20
CUTOFF = REACH * SIGMA


class StillingerWeber(Calculator):
    """ASE calculator for pure silicon: energy, forces and stress."""

    implemented_properties: ClassVar[list[str]] = ["energy", "forces", "stress"]

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """See ASE's `Calculator.calculate`.

        Raises:
            DataError: atoms other than silicon.
        """
        super().calculate(atoms, properties, system_changes)
        atoms = self.atoms
        if (atoms.numbers != 14).any():
            raise DataError(f"Stillinger-Weber knows silicon only, not {atoms.symbols}")
        neighbors = NeighborList(cutoff=CUTOFF * (1 - 1e-9), full_list=True)
        i, j, vectors = neighbors.compute(
            atoms.positions, atoms.cell.array, bool(atoms.pbc.all()), "ijD"
        )
        energy, gradient = energy_and_edge_gradient(np.asarray(i), np.asarray(vectors), len(atoms))
        forces = np.zeros((len(atoms), 3))
        np.add.at(forces, i, gradient)
        np.add.at(forces, j, -gradient)
        self.results = {"energy": energy, "free_energy": energy, "forces": forces}
        if atoms.pbc.all():
            stress = vectors.T @ gradient / atoms.get_volume()
            self.results["stress"] = stress.ravel()[[0, 4, 8, 5, 2, 1]]


def energy_and_edge_gradient(
    center: np.ndarray, vectors: np.ndarray, n_atoms: int
) -> tuple[float, np.ndarray]:
    """Energy [eV] and its gradient with respect to every edge vector (n_edges, 3) [eV/Å].

    Args:
        center: (n_edges,) first atom of each edge of the full list.
        vectors: (n_edges, 3) from center to neighbour.
    """
    length = np.linalg.norm(vectors, axis=1)
    unit = vectors / length[:, None]
    x = length / SIGMA
    pair, slope = _pair(x)
    energy = 0.5 * pair.sum()  # every pair is in the full list twice
    gradient = (0.5 / SIGMA) * slope[:, None] * unit
    first, second = _edge_pairs(center, n_atoms)
    if not len(first):
        return float(energy), gradient
    u, v = unit[first], unit[second]
    cosine = np.einsum("ij,ij->i", u, v)
    damp = np.exp(GAMMA / (x - REACH))
    prefactor = LAMBDA * EPSILON * damp[first] * damp[second]
    bend = cosine + 1 / 3
    energy += (prefactor * bend**2).sum()
    d_cosine = 2 * prefactor * bend
    d_damp = -GAMMA / (x - REACH) ** 2 / SIGMA
    for a, ua, ub in ((first, u, v), (second, v, u)):
        along = (prefactor * bend**2 * d_damp[a])[:, None] * ua
        turn = (d_cosine / length[a])[:, None] * (ub - cosine[:, None] * ua)
        np.add.at(gradient, a, along + turn)
    return float(energy), gradient


def _pair(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two-body term and its derivative with respect to x = r / sigma (eq. 2.3; q = 0)."""
    damp = np.exp(1 / (x - REACH))
    power = B * x**-P - x**-Q
    value = A * EPSILON * power * damp
    slope = A * EPSILON * damp * (-P * B * x ** (-P - 1)) - value / (x - REACH) ** 2
    return value, slope


def _edge_pairs(center: np.ndarray, n_atoms: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of all pairs of edges that share their center, each pair once."""
    order = np.argsort(center, kind="stable")
    counts = np.bincount(center, minlength=n_atoms)
    widest = int(counts.max()) if len(center) else 0
    table = np.full((n_atoms, widest), -1)
    table[np.arange(widest) < counts[:, None]] = order
    a, b = np.triu_indices(widest, k=1)
    first, second = table[:, a].ravel(), table[:, b].ravel()
    kept = (first >= 0) & (second >= 0)
    return first[kept], second[kept]
