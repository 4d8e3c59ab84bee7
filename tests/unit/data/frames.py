"""Small labelled frames: a soft pair potential, so that energy, forces and stress agree."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.lj import LennardJones

from siliforce.data import Dataset, Frame, Store


def labelled(atoms: Atoms, **texts: object) -> Frame:
    """A frame with the labels of a Lennard-Jones crystal."""
    atoms = atoms.copy()
    atoms.calc = LennardJones(sigma=2.2, epsilon=0.5, rc=5.0, smooth=True)
    stress = atoms.get_stress(voigt=False) if atoms.pbc.all() else None
    return Frame.from_atoms(
        atoms,
        energy=atoms.get_potential_energy(),
        forces=atoms.get_forces(),
        stress=stress,
        **texts,  # type: ignore[arg-type]
    )


def crystal(seed: int, amplitude: float = 0.03, strain: float = 0.0) -> Atoms:
    """A rattled, strained cell of 8 atoms."""
    atoms = bulk("Cu", a=3.6, cubic=True) * (2, 1, 1)
    atoms.set_cell(atoms.cell.array * (1 + strain), scale_atoms=True)
    atoms.positions += amplitude * np.random.default_rng(seed).normal(size=(8, 3))
    return atoms


def some_frames(n: int, **texts: object) -> list[Frame]:
    """Rattled crystals of one trajectory."""
    strains = np.random.default_rng(9).uniform(-0.01, 0.01, n)
    return [
        labelled(crystal(k, strain=s), source=f"frame:{k}", **texts) for k, s in enumerate(strains)
    ]


def stored(path: Path, frames: list[Frame]) -> Dataset:
    """A dataset of frames."""
    store = Store.create(path)
    store.append(frames)
    return Dataset([store])
