"""What the makers of saved models share: frames to train on, and answers to compare with."""

from __future__ import annotations

import lzma
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator

from tests.structures import STRUCTURES, amorphous, triclinic, two_species

ATOMIC_ENERGIES = {"O": -3.5, "Si": -7.25}
CUTOFF = 4.0


def training_frames() -> list[Atoms]:
    """A few frames with energy, forces and stress of a pair potential."""
    frames = []
    for seed in range(3):
        for make in (amorphous, two_species, triclinic):
            atoms = make()
            atoms.rattle(0.05, seed=seed)
            atoms.calc = LennardJones(sigma=1.9, epsilon=0.3, rc=5.0, smooth=True)
            energy = atoms.get_potential_energy() + sum(ATOMIC_ENERGIES[s] for s in atoms.symbols)
            forces, stress = atoms.get_forces(), atoms.get_stress()
            atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces, stress=stress)
            frames.append(atoms)
    return frames


def structures() -> dict[str, np.ndarray]:
    """Numbers, positions, cell and pbc of every structure."""
    made = {name: make() for name, make in STRUCTURES.items()}
    return {
        f"{name}/{field}": value
        for name, atoms in made.items()
        for field, value in (
            ("numbers", atoms.numbers),
            ("positions", atoms.positions),
            ("cell", atoms.cell.array),
            ("pbc", atoms.pbc),
        )
    }


def answers(calculator: Calculator, dtype: str) -> dict[str, np.ndarray]:
    """Energies, forces, and the stress of what is periodic in all directions."""
    arrays = {}
    for name, make in STRUCTURES.items():
        atoms = make()
        atoms.calc = calculator
        forces = atoms.get_forces()
        arrays[f"{dtype}/{name}/energy"] = np.array(atoms.get_potential_energy())
        arrays[f"{dtype}/{name}/forces"] = forces
        if atoms.pbc.all():
            arrays[f"{dtype}/{name}/stress"] = atoms.get_stress(voigt=False)
        print(f"{name}: largest force {np.abs(forces).max():.3f} eV/Å")
    return arrays


def pack(source: Path, target: Path) -> None:
    """Compress: whole models hold tables and code that repeat."""
    target.write_bytes(lzma.compress(source.read_bytes(), preset=9))
    print(f"{target.name}: {target.stat().st_size / 1024:.0f} KiB")
