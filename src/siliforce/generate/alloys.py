"""Alloys: elements on the sites of a crystal, at random or special quasirandom.

A special quasirandom structure (Zunger et al., Phys. Rev. Lett. 65, 353, 1990) has, in its nearest
shells, the pairs of elements that a perfectly random alloy of its composition has on average.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers
from vesin import NeighborList

from siliforce.errors import DataError

SAME_SHELL = 0.05  # Å
SWAPS = 3000


def alloyed(
    atoms: Atoms,
    old: str,
    counts: Mapping[str, int],
    rng: np.random.Generator,
    quasirandom: bool = False,
    n_shells: int = 3,
) -> Atoms:
    """Replace `old` atoms by so many of each new element.

    Args:
        atoms: a perfect crystal if `quasirandom`, so that neighbour shells can be told apart.
        counts: new element to number of atoms; what is left over stays `old`.
        quasirandom: swap sites until the pairs in the nearest `n_shells` shells of the replaced
            sublattice are as near to those of a random alloy as swaps bring them.

    Raises:
        DataError: more atoms asked for than there are.
    """
    sites = np.flatnonzero(atoms.numbers == atomic_numbers[old])
    wanted = [(atomic_numbers[new], n) for new, n in counts.items()]
    left = len(sites) - sum(n for _, n in wanted)
    if left < 0:
        asked = ", ".join(f"{n} {new}" for new, n in counts.items())
        raise DataError(f"{asked} on {len(sites)} {old} sites of {atoms.symbols}")
    numbers = np.repeat(*np.array([*wanted, (atomic_numbers[old], left)]).T)
    numbers = rng.permutation(numbers)
    if quasirandom:
        numbers = _swapped(numbers, shell_pairs(atoms[sites], n_shells), rng)
    out = atoms.copy()
    out.numbers[sites] = numbers
    return out


def shell_pairs(atoms: Atoms, n_shells: int) -> np.ndarray:
    """How often each atom sees each other in its shells, images counted: (n_shells, n, n)."""
    n = len(atoms)
    cutoff = 2.0 * (atoms.get_volume() / n) ** (1 / 3)
    while True:
        neighbors = NeighborList(cutoff=cutoff, full_list=True)
        i, j, d = neighbors.compute(atoms.positions, atoms.cell.array, bool(atoms.pbc.any()), "ijd")
        edges = np.sort(d)
        starts = edges[np.diff(edges, prepend=-np.inf) > SAME_SHELL]
        if len(starts) > n_shells:
            break
        cutoff *= 1.3
    shell = np.searchsorted(starts, d, side="right") - 1
    pairs = np.zeros((len(starts), n, n))
    np.add.at(pairs, (shell, i, j), 1.0)
    return pairs[:n_shells]


def pair_excess(numbers: np.ndarray, pairs: np.ndarray) -> float:
    """Distance from a random alloy: pair fractions by shell against the products of fractions.

    The nearest shell counts most (1, 1/2, 1/3, ...); 0 is a perfect quasirandom structure.
    """
    kinds = np.unique(numbers)
    is_kind = (numbers[:, None] == kinds).astype(float)
    fractions = is_kind.mean(axis=0)
    found = np.einsum("ia,sij,jb->sab", is_kind, pairs, is_kind, optimize=True)
    found /= pairs.sum(axis=(1, 2))[:, None, None]
    off = np.abs(found - np.outer(fractions, fractions)).sum(axis=(1, 2))
    return float((off / np.arange(1, len(off) + 1)).sum())


def _swapped(numbers: np.ndarray, pairs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Swap two atoms whenever that does not take the pairs farther from random."""
    best = pair_excess(numbers, pairs)
    for _ in range(SWAPS if len(np.unique(numbers)) > 1 else 0):
        i, j = rng.integers(len(numbers), size=2)
        if numbers[i] == numbers[j]:
            continue
        trial = numbers.copy()
        trial[[i, j]] = trial[[j, i]]
        excess = pair_excess(trial, pairs)
        if excess <= best:
            numbers, best = trial, excess
        if best < 1e-12:
            break
    return numbers
