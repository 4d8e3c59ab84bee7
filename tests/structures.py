"""Small structures on which every model is held to its contract; silicon and oxygen only."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from ase import Atoms
from ase.build import bulk, diamond100

SYMBOLS = ("O", "Si")
CUTOFF = 4.0
"""Å, of every `tiny` preset: the structures are made for it."""


def crystal() -> Atoms:
    """Diamond silicon, eight atoms, rattled."""
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.12, seed=1)
    return atoms


def amorphous() -> Atoms:
    """Random silicon and oxygen, nowhere closer than 1.7 Å."""
    return random_packing(["Si"] * 4 + ["O"] * 6, np.diag([5.3, 5.5, 5.9]), seed=2)


def triclinic() -> Atoms:
    """A skewed cell with a left-handed third vector."""
    cell = np.array([[5.2, 0.0, 0.0], [1.9, 4.9, 0.0], [-1.1, 1.3, -5.6]])
    return random_packing(["Si"] * 6, cell, seed=3)


def two_species() -> Atoms:
    """Zinc-blende SiO with a bond of 2.1 Å, rattled."""
    atoms = bulk("SiO", "zincblende", a=4.85, cubic=True)
    atoms.rattle(0.1, seed=4)
    return atoms


def self_images() -> Atoms:
    """Two atoms in a cell much smaller than the cutoff: atoms see images of themselves."""
    atoms = Atoms("SiO", positions=[[0, 0, 0], [1.3, 1.1, 1.2]], pbc=True)
    atoms.set_cell([[2.6, 0.0, 0.1], [0.3, 2.9, 0.0], [-0.2, 0.4, 3.1]])
    return atoms


def mixed_pbc() -> Atoms:
    """A slab, open along z."""
    atoms = diamond100("Si", size=(1, 2, 4), vacuum=0.0)
    atoms.pbc = (True, True, False)
    atoms.rattle(0.1, seed=5)
    return atoms


def cluster() -> Atoms:
    """Seven atoms without periodicity and without a cell."""
    packed = random_packing(["Si"] * 3 + ["O"] * 4, np.diag([4.6, 4.6, 4.6]), seed=6)
    return Atoms(packed.symbols, positions=packed.positions)


def collinear() -> Atoms:
    """Three atoms in a line and a fourth at a right angle: angles of 0, 90 and 180 degrees."""
    return Atoms("OSiOSi", positions=[[-1.7, 0, 0], [0, 0, 0], [1.7, 0, 0], [0, 2.2, 0]])


def isolated() -> Atoms:
    """One atom, nothing within the cutoff."""
    return Atoms("Si", positions=[[0.3, 0.2, 0.1]])


STRUCTURES: dict[str, Callable[[], Atoms]] = {
    f.__name__: f
    for f in (crystal, amorphous, triclinic, two_species, self_images, mixed_pbc, cluster,
              collinear, isolated)
}  # fmt: skip


def random_packing(symbols: list[str], cell: np.ndarray, seed: int) -> Atoms:
    """Atoms put at random, each at least 1.7 Å from the others and their images."""
    rng = np.random.default_rng(seed)
    atoms = Atoms(cell=cell, pbc=True)
    while len(atoms) < len(symbols):
        trial = atoms + Atoms(symbols[len(atoms)], positions=[rng.random(3) @ cell])
        if len(trial) == 1 or trial.get_distances(-1, range(len(atoms)), mic=True).min() > 1.7:
            atoms = trial
    return atoms
