"""Minimum energy path between two structures, with the saddle point."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.geometry import find_mic
from ase.mep import NEB
from ase.optimize import FIRE

from siliforce.errors import ConfigError, DataError
from siliforce.simulation.relax import relax

CLIMB_FROM = 0.3
"""Largest force (eV/Å) below which the highest image starts to climb."""


@dataclass(frozen=True)
class ReactionPath:
    """Images from one minimum to another.

    Attributes:
        images: structures, both ends included.
        energies: eV, (n_images,).
        distance: length of the path up to each image, Å, over all atoms, (n_images,).
        converged: whether the largest force on the band fell below the limit.
        steps: taken.
    """

    images: list[Atoms]
    energies: np.ndarray
    distance: np.ndarray
    converged: bool
    steps: int

    @property
    def saddle(self) -> int:
        """Number of the highest image."""
        return int(self.energies.argmax())

    @property
    def barrier(self) -> float:
        """From the start, eV."""
        return float(self.energies.max() - self.energies[0])

    @property
    def reverse_barrier(self) -> float:
        """From the end, eV."""
        return float(self.energies.max() - self.energies[-1])


def reaction_path(
    start: Atoms,
    end: Atoms,
    calculator: Calculator,
    images: int = 5,
    fmax: float = 0.05,
    max_steps: int = 300,
    relax_ends: bool = True,
) -> ReactionPath:
    """Nudged elastic band with a climbing image.

    Args:
        start, end: the same atoms in the same order and the same cell.
        calculator: any of ASE's.
        images: between the ends.
        fmax: largest force on the band at the end, eV/Å.
        max_steps: not converging in these is no error; see `converged`.
        relax_ends: move both ends to their minima first.

    Raises:
        DataError: ends of different atoms, order or cell.
        ConfigError: no image between the ends.

    Reference:
        Henkelman, Uberuaga and Jónsson, J. Chem. Phys. 113, 9901 (2000).
    """
    if images < 1:
        raise ConfigError(f"{images} images between the ends; at least one is needed")
    if len(start) != len(end) or (start.numbers != end.numbers).any():
        raise DataError(
            f"the ends hold {start.get_chemical_formula()} and {end.get_chemical_formula()}, or "
            "the same atoms in another order; a path needs the same atoms in the same order"
        )
    if not np.allclose(start.cell.array, end.cell.array, atol=1e-3):
        raise DataError("the ends have different cells; a path needs one cell")
    ends = [start.copy(), end.copy()]
    ends[1].set_cell(start.cell)
    if relax_ends:
        ends = [relax(atoms, calculator, fmax=fmax).atoms for atoms in ends]
    # The nearest image of every atom of the end, so that nothing crosses the cell.
    shift = find_mic(ends[1].positions - ends[0].positions, start.cell, start.pbc)[0]
    ends[1].positions = ends[0].positions + shift
    band = [ends[0].copy(), *(ends[0].copy() for _ in range(images)), ends[1].copy()]
    for image in band:
        image.calc = calculator
    chain = NEB(band, climb=False, method="improvedtangent", allow_shared_calculator=True)
    chain.interpolate("idpp", mic=bool(start.pbc.any()))
    optimizer = FIRE(chain, logfile=None)
    optimizer.run(fmax=max(CLIMB_FROM, fmax), steps=max_steps)
    chain.climb = True
    converged = bool(optimizer.run(fmax=fmax, steps=max(max_steps - optimizer.nsteps, 1)))
    steps = [b.positions - a.positions for a, b in pairwise(band)]
    lengths = [float(np.linalg.norm(step)) for step in steps]
    energies = np.array([image.get_potential_energy() for image in band])
    finished = [image.copy() for image in band]
    distance = np.concatenate([[0.0], np.cumsum(lengths)])
    return ReactionPath(finished, energies, distance, converged, optimizer.nsteps)
