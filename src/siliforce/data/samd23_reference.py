"""SAMD23's evaluation files (start structures, AIMD curves, EOS, PEC) as references.

The public repository keeps, per material, `dfs/STRUCTURE_TEMPERATURE/` (POSCAR, RDF and ADF
tables), `eos/STRUCTURE/` (POSCAR, scale-volume-energy table) and `pec/CLUSTER/` (coordinate-energy
table and one POSCAR per point, or one POSCAR and a distance for dimers).
"""

from __future__ import annotations

import csv
import re
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.formula import Formula

from siliforce.data.reference import (
    Coordinate,
    Curves,
    EnergyCurve,
    EnergyVolume,
    Reference,
    Start,
    group_name,
)
from siliforce.errors import DataError

STOICHIOMETRY = {"SiN": Formula("Si3N4"), "HfO": Formula("HfO2")}
"""What the training structures consist of; other compositions are out of distribution."""
BULK_MODULUS_NOISE = {"SiN": 1.5, "HfO": 0.4}
"""Per cent by which B0 of the DFT points moves with the window and the form of the fit."""


def read_samd23(folder: Path, material: str, **facts: str) -> Reference:
    """The reference of one material.

    Args:
        folder: `datasets/SiN_eval` or `datasets/HfO_eval` of the public repository.
        material: `SiN` or `HfO`.
        facts: source, licence, level of theory.

    Raises:
        DataError: files are missing or cannot be read.
    """
    usual = STOICHIOMETRY[material].reduce()[0]

    def is_ood(atoms: Atoms) -> bool:
        return atoms.symbols.formula.reduce()[0] != usual

    starts = [_start(p, is_ood(_poscar(p / "POSCAR"))) for p in _folders(folder / "dfs")]
    eos = []
    for path in _folders(folder / "eos"):
        atoms = _poscar(path / "POSCAR")
        points = _table(path / "energy_volume.dat", 3)
        eos.append(EnergyVolume(path.name, atoms, points, is_ood(atoms)))
    return Reference(
        name=material,
        starts=starts,
        eos=eos,
        pec=[_energy_curve(p) for p in _folders(folder / "pec")],
        bulk_modulus_noise=BULK_MODULUS_NOISE[material],
        **facts,
    )


def _folders(path: Path) -> list[Path]:
    found = sorted(p for p in path.glob("*") if p.is_dir())
    if not found:
        raise DataError(f"{path}: no reference data in it; is it the folder 'datasets'?")
    return found


def _start(path: Path, ood: bool) -> Start:
    structure, _, temperature = path.name.rpartition("_")
    if not re.fullmatch(r"\d+K", temperature):
        raise DataError(f"{path}: a folder STRUCTURE_TEMPERATURE, such as cubic1_1200K, is needed")
    return Start(
        name=f"{structure}-{temperature}",
        atoms=_poscar(path / "POSCAR"),
        temperature=float(temperature.removesuffix("K")),
        ood=ood,
        rdf=_curves(path, "RDF"),
        adf=_curves(path, "ADF"),
        images="lengths",
    )


def _poscar(path: Path) -> Atoms:
    try:
        atoms = ase.io.read(path, format="vasp")
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise DataError(f"{path}: not a POSCAR file ({error})") from error
    assert isinstance(atoms, Atoms)
    return atoms


def _curves(folder: Path, kind: str) -> Curves:
    files = sorted(folder.glob(f"{kind}*.csv"))
    if not files:
        raise DataError(f"{folder}: no {kind} file; fetch the reference again")
    with files[0].open(newline="") as file:
        header, *rows = list(csv.reader(file))
    try:
        values = np.array(rows, dtype=float)
    except ValueError as error:
        raise DataError(f"{files[0]}: not a table of numbers ({error})") from error
    names = [group_name(column.split()) for column in header[1:]]
    return Curves(values[:, 0], {name: values[:, k + 1] for k, name in enumerate(names)})


def _table(path: Path, columns: int) -> np.ndarray:
    try:
        points = np.loadtxt(path, ndmin=2)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: no columns of numbers ({error})") from error
    if points.shape[1] != columns:
        raise DataError(f"{path}: {points.shape[1]} columns instead of {columns}")
    return points


def _energy_curve(path: Path) -> EnergyCurve:
    """A dimer has one structure, of which the distance is set; a cluster has one per point."""
    coordinate: Coordinate = "angle" if (path / "energy_angle.dat").is_file() else "distance"
    points = _table(path / f"energy_{coordinate}.dat", 2)
    by_point = {float(p.name.partition("_")[2]): p for p in path.glob("POSCAR_*")}
    if by_point:
        missing = [f"{x:g}" for x in points[:, 0] if x not in by_point]
        if missing:
            raise DataError(f"{path}: no structure for the points {', '.join(missing)}")
        images = [_poscar(by_point[x]) for x in points[:, 0]]
    else:
        images = [_at_distance(_poscar(path / "POSCAR"), x) for x in points[:, 0]]
    return EnergyCurve(path.name, coordinate, points[:, 0], points[:, 1], images)


def _at_distance(dimer: Atoms, distance: float) -> Atoms:
    moved = dimer.copy()
    moved.positions = [[0, 0, 0], [distance, 0, 0]]
    return moved
