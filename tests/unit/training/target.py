"""Source and target of a transfer that the toy potential knows exactly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase.build import bulk
from ase.data import atomic_numbers

from siliforce.data import Dataset, Frame, Store
from siliforce.potential import Potential
from siliforce.simulation.calculator import SiliforceCalculator
from tests.toys import toy_potential

E0 = {"Si": 0.0, "Ge": -2.0, "Sn": -3.5, "H": -1.0}
"""Reference energies of the target, eV."""


def exact(symbols: tuple[str, ...] = ("Si",)) -> Potential:
    """A source that knows all of a target but the reference energies of its new elements."""
    return toy_potential(symbols, depth=0.8, stiffness=1.6, distance=2.4, cutoff=4.0)


def target(
    n: int,
    folder: Path,
    new: tuple[str, ...] = ("Ge",),
    counts: tuple[int, ...] = (1,),
    zero: float = 0.0,
    host: str = "Si",
    seed: int = 1,
) -> Dataset:
    """Rattled diamond cells of eight atoms, some of them new elements.

    Args:
        counts: atoms of each new element, by turns of the frames.
        zero: added to the energy of every atom of the host, eV.
    """
    rng, calculator = np.random.default_rng(seed), SiliforceCalculator(exact((host, *new)), "cpu")
    frames = []
    for k in range(n):
        atoms = bulk("Si", cubic=True, a=5.43 * (1 + 0.02 * rng.normal()))
        atoms.rattle(0.15, rng=rng)
        numbers = [atomic_numbers[s] for s in new for _ in range(counts[k % len(counts)])]
        atoms.numbers[:] = atomic_numbers[host]
        atoms.numbers[: len(numbers)] = numbers
        atoms.calc = calculator
        constants = sum(E0[s] for s in atoms.symbols) + zero * (8 - len(numbers))
        labels = {
            "energy": atoms.get_potential_energy() + constants,
            "forces": atoms.get_forces(),
            "stress": atoms.get_stress(voigt=False),
        }
        frames.append(Frame.from_atoms(atoms, **labels))
    store = Store.create(folder)
    store.append(frames)
    return Dataset([store])
