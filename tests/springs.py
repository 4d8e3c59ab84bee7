"""Systems of springs as ASE calculators: fast, harmonic, exactly known."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator


def lattice() -> Atoms:
    return bulk("Cu", "fcc", a=3.61, cubic=True).repeat((2, 2, 2))


class Spring(Calculator):
    """Every atom on a spring of its own: fast, harmonic, exactly known."""

    implemented_properties: ClassVar[list[str]] = ["energy", "forces"]

    def __init__(self, home: np.ndarray, stiffness: float = 5.0, sign: float = 1.0) -> None:
        super().__init__()
        self.home, self.stiffness, self.sign = home, stiffness, sign

    def calculate(self, atoms=None, properties=("energy",), system_changes=()):
        """Harmonic energy and its gradient (or with the wrong sign)."""
        super().calculate(atoms, properties, system_changes)
        shift = self.atoms.positions - self.home
        self.results["energy"] = 0.5 * self.stiffness * (shift**2).sum()
        self.results["forces"] = -self.sign * self.stiffness * shift


class Network(Calculator):
    """Springs between all atoms: many frequencies, and the centre of mass is free."""

    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "forces"]

    def __init__(self, home: np.ndarray) -> None:
        super().__init__()
        self.home = home
        rng = np.random.default_rng(0)
        size = 3 * len(home)
        basis = np.linalg.qr(rng.normal(size=(size, size)))[0]
        rest = np.eye(size) - np.kron(np.ones((len(home), len(home))), np.eye(3)) / len(home)
        self.matrix = rest @ basis @ np.diag(rng.uniform(1, 12, size)) @ basis.T @ rest

    def calculate(self, atoms=None, properties=("energy",), system_changes=()):
        """Harmonic energy and its gradient."""
        super().calculate(atoms, properties, system_changes)
        shift = (self.atoms.positions - self.home).ravel()
        energy = 0.5 * shift @ self.matrix @ shift
        self.results["energy"] = self.results["free_energy"] = energy
        self.results["forces"] = -(self.matrix @ shift).reshape(-1, 3)
