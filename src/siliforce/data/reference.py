"""Reference data of a material: what simulations and scans of a potential are held against.

A reference is a folder of plain files:

- `reference.json`: name, source, licence, level of theory; per start its name, temperature (K),
  whether it lies outside the training distribution, the noise of its curves, and where the
  trajectory has stresses its pressure (GPa); per equation of
  state the points (linear scale, volume in Å³, energy in eV); per potential energy curve the
  coordinate (Å or degree) and the energies (eV).
- `starts.extxyz`, `eos.extxyz`, `pec.extxyz`: the structures, in the order of `reference.json`.
- `curves.npz`: arrays `rdf/START/x`, `rdf/START/A-B`, `adf/START/x`, `adf/START/A-B-C`, and where
  it is known their standard error, `rdf/START/A-B/error`; where the trajectory tells how its atoms
  move `vdos/START/x` (THz), `vdos/START/A` (1/THz).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import ase.io
import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols

from siliforce.errors import DataError
from siliforce.files import write_atomic

FORMAT_VERSION = 1
FILE = "reference.json"
UNITS = {"distance": "Å", "angle": "degree"}

Coordinate = Literal["distance", "angle"]
Images = Literal["lattice", "lengths"]
"""How atoms outside the cell were found when distribution functions were made.

`lattice`: all periodic images. `lengths`: as the published SAMD23 curves were made: 2x2x2 copies,
then the nearest image along x, y and z in a box whose sides are the lengths of the lattice vectors.
Where the lattice vectors lie along x, y and z, and are at least the cutoff long, the two agree; in
other cells `lengths` is wrong, but a curve made so can only be compared with one made so.
"""


def group_name(elements: Sequence[int | str]) -> str:
    """Name of a pair or triplet of elements, `N-Si`, `O-Hf-O`: the lighter end first.

    Args:
        elements: atomic numbers or symbols; of a triplet the central one is in the middle.
    """
    numbers = [atomic_numbers[e] if isinstance(e, str) else int(e) for e in elements]
    if numbers[0] > numbers[-1]:
        numbers.reverse()
    return "-".join(chemical_symbols[z] for z in numbers)


@dataclass(frozen=True)
class Curves:
    """Distribution functions on one grid.

    Attributes:
        x: left edge of the bins of an RDF, Å; upper edge of those of an ADF, degree.
        values: by pair `A-B` or triplet `A-B-C`, each (n_bins,).
        errors: standard error of the values, where a trajectory was at hand.
    """

    x: np.ndarray
    values: dict[str, np.ndarray]
    errors: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Pressure:
    """Of an AIMD trajectory, GPa.

    Attributes:
        mean: over the frames, with the kinetic part.
        error: standard error of the mean; None if there are too few frames.
        virial: root mean square over the frames of what the forces contribute.
    """

    mean: float
    error: float | None
    virial: float


@dataclass(frozen=True)
class Start:
    """A structure that a simulation starts from, and what AIMD made of it.

    Attributes:
        name: with the temperature, `monoclinic-1200K`.
        atoms: the structure.
        temperature: K.
        ood: whether it lies outside the distribution of the training data.
        rdf, adf: of the AIMD trajectory; None if there are none.
        noise: what a perfect potential would score by sampling noise alone, by metric
            (`rdf_mae` ...); empty where only the curves are known.
        images: how the curves were made.
        pressure, vdos: of the trajectory, where it has stresses, and where velocities or a time
            step are known: vibrational density of states, THz and 1/THz.
    """

    name: str
    atoms: Atoms
    temperature: float
    ood: bool = False
    rdf: Curves | None = None
    adf: Curves | None = None
    noise: dict[str, float] = field(default_factory=dict)
    images: Images = "lattice"
    pressure: Pressure | None = None
    vdos: Curves | None = None

    @property
    def split(self) -> str:
        """`id:NAME` or `ood:NAME`, as results name it."""
        return f"{'ood' if self.ood else 'id'}:{self.name}"


@dataclass(frozen=True)
class EnergyVolume:
    """DFT energies of a structure scaled isotropically.

    Attributes:
        name: of the structure.
        atoms: at scale 1.
        points: linear scale, volume (Å³), energy (eV); (n, 3).
        ood: whether it lies outside the distribution of the training data.
    """

    name: str
    atoms: Atoms
    points: np.ndarray
    ood: bool = False

    @property
    def split(self) -> str:
        """`id:NAME` or `ood:NAME`, as results name it."""
        return f"{'ood' if self.ood else 'id'}:{self.name}"


@dataclass(frozen=True)
class EnergyCurve:
    """DFT energies of a dimer or a cluster along one coordinate.

    Attributes:
        name: `HfO2`.
        coordinate: what is varied.
        x: its values, Å or degree; (n,).
        energy: eV, (n,).
        images: one structure per point, in the cell of the calculation.
    """

    name: str
    coordinate: Coordinate
    x: np.ndarray
    energy: np.ndarray
    images: list[Atoms]

    @property
    def unit(self) -> str:
        """Of the coordinate."""
        return UNITS[self.coordinate]


@dataclass(frozen=True)
class Reference:
    """All reference data of one material.

    Attributes:
        name: of the material, `SiN`.
        starts: for simulations.
        eos: equations of state.
        pec: potential energy curves.
        bulk_modulus_noise: differences of B0 below this (%) mean nothing; None if not known.
        source, licence, level_of_theory: of the data.
    """

    name: str
    starts: list[Start] = field(default_factory=list)
    eos: list[EnergyVolume] = field(default_factory=list)
    pec: list[EnergyCurve] = field(default_factory=list)
    bulk_modulus_noise: float | None = None
    source: str = ""
    licence: str = "not stated"
    level_of_theory: str = "not stated"

    def start(self, name: str) -> Start:
        """The start of that name.

        Raises:
            DataError: there is none.
        """
        return _named(self.starts, name, f"start in the reference {self.name}")

    def curve(self, name: str) -> EnergyCurve:
        """The potential energy curve of that name.

        Raises:
            DataError: there is none.
        """
        return _named(self.pec, name, f"potential energy curve in the reference {self.name}")

    def save(self, folder: str | Path) -> Path:
        """Write the folder; `reference.json` comes last, so a folder that has it is complete."""
        folder = Path(folder)
        for kind, frames in (
            ("starts", [_labelled(s.atoms, s.name) for s in self.starts]),
            ("eos", [_labelled(e.atoms, e.name) for e in self.eos]),
            ("pec", [_labelled(a, c.name) for c in self.pec for a in c.images]),
        ):
            if frames:
                text = StringIO()
                ase.io.write(text, frames, format="extxyz")
                write_atomic(folder / f"{kind}.extxyz", text.getvalue())
        packed = BytesIO()
        np.savez_compressed(packed, allow_pickle=False, **_arrays(self.starts))
        write_atomic(folder / "curves.npz", packed.getvalue())
        return write_atomic(folder / FILE, json.dumps(_to_json(self), indent=1)).parent

    @classmethod
    def load(cls, folder: str | Path) -> Reference:
        """Read a folder that `save` wrote.

        Raises:
            DataError: missing, damaged, or of another format version.
        """
        folder = Path(folder)
        path = folder / FILE
        if not path.is_file():
            inside = sorted(p.parent.name for p in folder.glob(f"*/{FILE}"))
            hint = f"; it holds {', '.join(str(folder / n) for n in inside)}" if inside else ""
            raise DataError(
                f"{folder} is not a reference (no {FILE}){hint}; "
                "`siliforce data get samd23-reference` or `siliforce reference make` writes one"
            )
        try:
            told = json.loads(path.read_bytes())
            if told.get("format_version") != FORMAT_VERSION:
                raise DataError(
                    f"{path}: format {told.get('format_version')}, this siliforce reads "
                    f"{FORMAT_VERSION}; make or fetch it again"
                )
            return _from_json(told, folder)
        except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
            raise DataError(f"{folder}: a damaged reference ({error}); make it again") from error


def _named(items: Iterable[Any], name: str, what: str) -> Any:
    known = {item.name: item for item in items}
    if name not in known:
        raise DataError(f"no {what} is called '{name}'; there are {', '.join(known) or 'none'}")
    return known[name]


def _labelled(atoms: Atoms, name: str) -> Atoms:
    """Positions and cell alone, with the name for a human reader."""
    plain = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    plain.info["name"] = name
    return plain


def _arrays(starts: Sequence[Start]) -> dict[str, np.ndarray]:
    found = {}
    for start in starts:
        for kind, curves in (("rdf", start.rdf), ("adf", start.adf), ("vdos", start.vdos)):
            if curves is not None:
                found[f"{kind}/{start.name}/x"] = curves.x
                for group, values in curves.values.items():
                    found[f"{kind}/{start.name}/{group}"] = values
                for group, values in curves.errors.items():
                    found[f"{kind}/{start.name}/{group}/error"] = values
    return found


def _to_json(reference: Reference) -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "name": reference.name,
        "source": reference.source,
        "licence": reference.licence,
        "level_of_theory": reference.level_of_theory,
        "bulk_modulus_noise": reference.bulk_modulus_noise,
        "starts": [
            {
                "name": s.name,
                "temperature": s.temperature,
                "ood": s.ood,
                "noise": s.noise,
                "images": s.images,
            }
            | ({} if s.pressure is None else {"pressure": asdict(s.pressure)})
            for s in reference.starts
        ],
        "eos": [
            {"name": e.name, "ood": e.ood, "points": np.asarray(e.points).tolist()}
            for e in reference.eos
        ],
        "pec": [
            {
                "name": c.name,
                "coordinate": c.coordinate,
                "x": np.asarray(c.x).tolist(),
                "energy": np.asarray(c.energy).tolist(),
            }
            for c in reference.pec
        ],
    }


def _from_json(told: Mapping[str, Any], folder: Path) -> Reference:
    curves = _read_curves(folder / "curves.npz")
    starts = [
        _start(row, atoms, curves)
        for row, atoms in zip(told["starts"], _frames(folder, "starts", told), strict=True)
    ]
    eos = [
        EnergyVolume(row["name"], atoms, np.array(row["points"]), row["ood"])
        for row, atoms in zip(told["eos"], _frames(folder, "eos", told), strict=True)
    ]
    images = iter(_frames(folder, "pec", told))
    pec = [
        EnergyCurve(
            row["name"],
            row["coordinate"],
            np.array(row["x"]),
            np.array(row["energy"]),
            [next(images) for _ in row["x"]],
        )
        for row in told["pec"]
    ]
    plain = {
        key: told[key]
        for key in ("name", "bulk_modulus_noise", "source", "licence", "level_of_theory")
    }
    return Reference(starts=starts, eos=eos, pec=pec, **plain)


def _start(row: Mapping[str, Any], atoms: Atoms, curves: Mapping[Any, Curves]) -> Start:
    """What a trajectory did not tell is not in the file."""
    plain = dict(row)
    pressure = plain.pop("pressure", None)
    return Start(
        **plain,
        atoms=atoms,
        rdf=curves.get(("rdf", row["name"])),
        adf=curves.get(("adf", row["name"])),
        vdos=curves.get(("vdos", row["name"])),
        pressure=None if pressure is None else Pressure(**pressure),
    )


def _frames(folder: Path, kind: str, told: Mapping[str, Any]) -> list[Atoms]:
    """Structures of one kind, as many as announced."""
    needed = sum(len(row["x"]) if kind == "pec" else 1 for row in told[kind])
    if not needed:
        return []
    frames = ase.io.read(folder / f"{kind}.extxyz", index=":", format="extxyz")
    if len(frames) != needed:
        raise ValueError(f"{kind}.extxyz holds {len(frames)} structures instead of {needed}")
    return frames


def _read_curves(path: Path) -> dict[tuple[str, str], Curves]:
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    found: dict[tuple[str, str], Curves] = {}
    for key in [k for k in arrays if k.endswith("/x")]:
        kind, name, _ = key.split("/")
        found[kind, name] = Curves(arrays.pop(key), {})
    for key, values in arrays.items():
        kind, name, group, *error = key.split("/")
        curves = found[kind, name]
        (curves.errors if error else curves.values)[group] = values
    return found
