"""Units: eV, Å, fs and eV/Å³ inside; conversions for what comes from and goes to elsewhere.

Stress has ASE's sign: positive under tension. VASP prints kbar with the opposite sign, and a
virial is minus the stress times the volume.
"""

from __future__ import annotations

import ase.units

from siliforce.errors import DataError

EV_PER_A3_IN_GPA = 1.0 / ase.units.GPa
KBAR_IN_EV_PER_A3 = 0.1 * ase.units.GPa

ENERGY = {
    "eV": 1.0,
    "meV": 1e-3,
    "Ha": ase.units.Ha,
    "Ry": ase.units.Ry,
    "kcal/mol": ase.units.kcal / ase.units.mol,
    "kJ/mol": ase.units.kJ / ase.units.mol,
}
LENGTH = {"A": 1.0, "Bohr": ase.units.Bohr, "nm": 10.0}
STRESS = {
    "eV/A^3": 1.0,
    "GPa": ase.units.GPa,
    "kbar": KBAR_IN_EV_PER_A3,
    "-eV/A^3": -1.0,
    "-GPa": -ase.units.GPa,
    "-kbar": -KBAR_IN_EV_PER_A3,
}


def factor(table: dict[str, float], unit: str, what: str) -> float:
    """Factor that turns a value in `unit` into siliforce's unit.

    Raises:
        DataError: the unit is not in the table.
    """
    if unit not in table:
        raise DataError(f"unknown {what} unit '{unit}'; allowed: {', '.join(table)}")
    return table[unit]
