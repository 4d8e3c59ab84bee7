"""The crystals the protocols start from, by name.

Cells and internal coordinates are near the measured ones, rounded; a run relaxes or heats them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.build import bulk, make_supercell
from ase.spacegroup import crystal as spacegroup_crystal

from siliforce.errors import ConfigError


@dataclass(frozen=True)
class Crystal:
    """A crystal by its space group and the sites that are not equivalent.

    Attributes:
        cell: a, b, c [Å], alpha, beta, gamma [°].
        sites: element and fractional coordinates.
        setting: origin choice of the space group.
        source: where the numbers come from.
    """

    group: int
    cell: tuple[float, float, float, float, float, float]
    sites: tuple[tuple[str, tuple[float, float, float]], ...]
    setting: int = 1
    primitive: bool = False
    source: str = ""

    def build(self) -> Atoms:
        """The unit cell."""
        symbols, basis = zip(*self.sites, strict=True)
        atoms = spacegroup_crystal(
            list(symbols),
            basis=list(basis),
            spacegroup=self.group,
            setting=self.setting,
            cellpar=list(self.cell),
            primitive_cell=self.primitive,
        )
        return Atoms(atoms.symbols, atoms.positions, cell=atoms.cell, pbc=True)


CRYSTALS: dict[str, Crystal] = {
    "m-HfO2": Crystal(
        14,
        (5.117, 5.175, 5.292, 90, 99.22, 90),
        (("Hf", (0.276, 0.040, 0.208)), ("O", (0.074, 0.332, 0.347)), ("O", (0.449, 0.758, 0.480))),
        source="P2_1/c, baddeleyite type",
    ),
    "t-HfO2": Crystal(
        137,
        (3.59, 3.59, 5.20, 90, 90, 90),
        (("Hf", (0.75, 0.25, 0.75)), ("O", (0.25, 0.25, 0.45))),
        setting=2,
        source="P4_2/nmc",
    ),
    "c-HfO2": Crystal(
        225,
        (5.07, 5.07, 5.07, 90, 90, 90),
        (("Hf", (0, 0, 0)), ("O", (0.25, 0.25, 0.25))),
        source="Fm-3m, fluorite type",
    ),
    "oI-HfO2": Crystal(
        61,
        (10.02, 5.23, 5.06, 90, 90, 90),
        (
            ("Hf", (0.884, 0.034, 0.256)),
            ("O", (0.791, 0.374, 0.131)),
            ("O", (0.977, 0.745, 0.495)),
        ),
        source="Pbca",
    ),
    "oII-HfO2": Crystal(
        62,
        (5.55, 3.30, 6.48, 90, 90, 90),
        (("Hf", (0.246, 0.25, 0.110)), ("O", (0.360, 0.25, 0.425)), ("O", (0.025, 0.75, 0.339))),
        source="Pnma, cotunnite type",
    ),
    "alpha-Si3N4": Crystal(
        159,
        (7.75, 7.75, 5.62, 90, 90, 120),
        (
            ("Si", (0.0831, 0.5112, 0.6558)),
            ("Si", (0.2528, 0.1675, 0.4503)),
            ("N", (0.0, 0.0, 0.4503)),
            ("N", (1 / 3, 2 / 3, 0.5996)),
            ("N", (0.6558, 0.6075, 0.4320)),
            ("N", (0.3154, 0.3190, 0.6962)),
        ),
        source="P31c",
    ),
    "beta-Si3N4": Crystal(
        176,
        (7.607, 7.607, 2.911, 90, 90, 120),
        (
            ("Si", (0.1733, 0.7677, 0.25)),
            ("N", (1 / 3, 2 / 3, 0.25)),
            ("N", (0.3298, 0.0305, 0.25)),
        ),
        source="P6_3/m",
    ),
    "gamma-Si3N4": Crystal(
        227,
        (7.738, 7.738, 7.738, 90, 90, 90),
        (("Si", (0.125, 0.125, 0.125)), ("Si", (0.5, 0.5, 0.5)), ("N", (0.2577, 0.2577, 0.2577))),
        setting=2,
        primitive=True,
        source="Fd-3m, spinel type",
    ),
}


CUBIC = {
    "Si": ("diamond", 5.469),
    "Ge": ("diamond", 5.763),
    "C": ("diamond", 3.572),
    "SiC": ("zincblende", 4.379),
    "SiGe": ("zincblende", 5.610),
}


def crystal(name: str, repeat: tuple[int, int, int] = (1, 1, 1)) -> Atoms:
    """A crystal of the table, an elemental diamond (`Si`, `Ge`) or a zinc blende (`SiC`).

    Raises:
        ConfigError: unknown name.
    """
    if name in CRYSTALS:
        atoms = CRYSTALS[name].build()
    elif name in CUBIC:
        kind, constant = CUBIC[name]
        atoms = bulk(name, kind, a=constant, cubic=True)
    else:
        known = ", ".join([*CRYSTALS, *CUBIC])
        raise ConfigError(f"unknown crystal '{name}'; known: {known}")
    return make_supercell(atoms, np.diag(repeat))
