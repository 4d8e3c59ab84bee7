"""DeePMD-kit's folders of NumPy arrays.

`type.raw`, optional `type_map.raw` and `nopbc`, and `set.*/` with `coord.npy`, `box.npy` and, where
labelled, `energy.npy`, `force.npy`, `virial.npy` (eV, eV/Å; the virial is minus the stress times
the volume). The folder itself, or any number of such folders below it, is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from siliforce.errors import DataError


def is_deepmd(path: Path) -> bool:
    """Whether the folder, or one below it, holds `type.raw`."""
    return path.is_dir() and next(path.rglob("type.raw"), None) is not None


def read_deepmd(path: Path) -> Iterator[Atoms]:
    """Frames with their labels, set by set.

    Raises:
        DataError: missing or inconsistent files, or types without names.
    """
    for folder in sorted(p.parent for p in path.rglob("type.raw")):
        symbols = _symbols(folder)
        for part in sorted(folder.glob("set.*")):
            yield from _read_set(part, symbols, (folder / "nopbc").exists())


def _symbols(folder: Path) -> list[str]:
    types = np.loadtxt(folder / "type.raw", dtype=int, ndmin=1)
    try:
        names = (folder / "type_map.raw").read_text().split()
    except FileNotFoundError:
        raise DataError(
            f"{folder}: type_map.raw is missing, so the elements of types "
            f"{sorted(set(types.tolist()))} are unknown; write one symbol per line there"
        ) from None
    if types.max(initial=0) >= len(names):
        raise DataError(f"{folder}: type {types.max()} has no name in type_map.raw {names}")
    return [names[t] for t in types]


def _read_set(part: Path, symbols: list[str], open_boundary: bool) -> Iterator[Atoms]:
    n = len(symbols)
    arrays = {}
    for name, width in (
        ("coord", 3 * n),
        ("box", 9),
        ("energy", 1),
        ("force", 3 * n),
        ("virial", 9),
    ):
        file = part / f"{name}.npy"
        if file.exists():
            try:
                arrays[name] = np.load(file, allow_pickle=False).reshape(-1, width)
            except (ValueError, EOFError, OSError) as error:
                raise DataError(f"{file}: damaged or of the wrong size ({error})") from error
    if "coord" not in arrays:
        raise DataError(f"{part}: coord.npy is missing")
    lengths = {name: len(a) for name, a in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"{part}: arrays of different lengths: {lengths}")
    for k in range(lengths["coord"]):
        box = arrays["box"][k].reshape(3, 3) if "box" in arrays and not open_boundary else None
        atoms = Atoms(symbols, arrays["coord"][k].reshape(n, 3), cell=box, pbc=box is not None)
        results: dict[str, object] = {}
        if "energy" in arrays:
            results["energy"] = float(arrays["energy"][k, 0])
        if "force" in arrays:
            results["forces"] = arrays["force"][k].reshape(n, 3)
        atoms.calc = SinglePointCalculator(atoms, **results)
        if "virial" in arrays and box is not None:
            atoms.info["virial"] = arrays["virial"][k].reshape(3, 3)
        atoms.info["group"] = f"{part.parent.name}/{part.name}"
        yield atoms
