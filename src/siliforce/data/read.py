"""Reading frames from the files the field uses, with a record of which labels were taken."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from io import StringIO
from itertools import islice
from pathlib import Path
from shutil import rmtree
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from ase.io.extxyz import XYZError, read_xyz
from ase.stress import voigt_6_to_full_3x3_stress
from pydantic import BaseModel, ConfigDict

from siliforce import units
from siliforce.data.deepmd import is_deepmd, read_deepmd
from siliforce.data.frame import Frame
from siliforce.data.lock import locked
from siliforce.data.store import Store
from siliforce.errors import DataError
from siliforce.files import cache_folder
from siliforce.progress import track

OPENERS: dict[str, Callable[..., Any]] = {".xz": lzma.open, ".gz": gzip.open, ".bz2": bz2.open}
READ_ERRORS = (
    ase.io.formats.UnknownFileTypeError,
    ase.io.ParseError,
    SyntaxError,  # of XML
    XYZError,
    lzma.LZMAError,
    OSError,
    EOFError,
    ValueError,
    KeyError,
    IndexError,
    AttributeError,
    StopIteration,
)
ENERGY_KEYS = ("REF_energy", "dft_energy", "DFT_energy", "free_energy", "energy")
FORCES_KEYS = ("REF_forces", "dft_forces", "DFT_forces", "forces", "force")
STRESS_KEYS = ("REF_stress", "dft_stress", "DFT_stress", "stress")
VIRIAL_KEYS = ("REF_virial", "dft_virial", "DFT_virial", "virial", "virials")
GROUP_KEYS = ("group", "trajectory", "traj_id", "run_id")
TYPE_KEYS = ("config_type", "system", "structure_type")
TEMPERATURE_KEYS = ("T", "temperature", "Temperature", "temp")
NO_KEY = "(none)"
NOT_TAGS = {
    *ENERGY_KEYS,
    *STRESS_KEYS,
    *VIRIAL_KEYS,
    *GROUP_KEYS,
    *TYPE_KEYS,
    "weight",
    "config_weight",
}


class ReadOptions(BaseModel):
    """How labels are found and what they mean; part of the data section of a configuration."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    energy_key: str | None = None
    forces_key: str | None = None
    stress_key: str | None = None
    group_key: str | None = None
    energy_unit: str = "eV"
    length_unit: str = "A"
    stress_unit: str = "eV/A^3"
    skip_bad: bool = False


@dataclass
class ImportReport:
    """What an import did.

    Attributes:
        n_frames: taken.
        files: frames of each file.
        labels: for energy, forces, stress: key -> number of frames it was taken from.
        skipped: reason of every frame left out.
        notes: conversions that were made.
    """

    n_frames: int = 0
    files: dict[str, int] = field(default_factory=dict)
    labels: dict[str, Counter[str]] = field(
        default_factory=lambda: {"energy": Counter(), "forces": Counter(), "stress": Counter()}
    )
    skipped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain types."""
        return {**asdict(self), "labels": {k: dict(v) for k, v in self.labels.items()}}


def import_files(
    files: str | Path | Sequence[str | Path],
    store: str | Path,
    options: ReadOptions | None = None,
    **facts: Any,
) -> ImportReport:
    """Append all frames of some files to a store, which is made if it does not exist.

    Args:
        files: in any format this module reads.
        store: folder.
        options: keys and units.
        facts: recorded with the store, such as `level_of_theory` and `licence`.

    Raises:
        DataError: a file or frame that cannot be used (with `skip_bad`, frames are left out).
        OSError: no space left; finished chunks stay.
    """
    options, report = options or ReadOptions(), ImportReport()
    paths = [Path(p) for p in ([files] if isinstance(files, str | Path) else files)]
    for path in paths:
        if not path.exists():
            raise DataError(f"{path}: no such file")
    target = Store.open(store) if Store.is_store(store) else Store.create(store)

    def frames() -> Iterator[Frame]:
        for path in paths:
            for frame in track(read_frames(path, options, report), f"reading {path.name}"):
                report.files[str(path)] = report.files.get(str(path), 0) + 1
                yield frame

    report.n_frames = target.append(frames())
    record = {"options": options.model_dump(), "report": report.to_json()}
    target.append([], **facts, imports=[*target.facts.get("imports", []), record])
    return report


def load_frames(path: Path, options: ReadOptions | None = None) -> Store:
    """A file as a store in the cache, imported again only when its content changes."""
    options = options or ReadOptions()
    digest = content_digest(path, options.model_dump_json())
    folder = cache_folder() / "stores" / f"{path.name.split('.')[0]}-{digest}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.with_suffix(".lock")):  # ranks and parallel runs import once
        if Store.is_store(folder):
            store = Store.open(folder)
            if "imports" in store.facts:  # else an import was killed: begin again
                return store
        rmtree(folder, ignore_errors=True)
        import_files(path, folder, options)
    return Store.open(folder)


def read_structure(path: str | Path) -> Atoms:
    """The first structure of a file in any of ASE's formats, compressed or not; labels ignored.

    Raises:
        DataError: missing, unreadable or empty.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    for atoms in _read_ase(path):
        return atoms
    raise DataError(f"{path} holds no structure")


def read_frames(path: Path, options: ReadOptions, report: ImportReport) -> Iterator[Frame]:
    """Frames of one file, labels converted, in order.

    Raises:
        DataError: unreadable, truncated or empty, or a bad frame without `skip_bad`.
    """
    count = 0
    source = read_deepmd(path) if is_deepmd(path) else _read_ase(path)
    for count, atoms in enumerate(source, start=1):
        name = f"{path.name}:{count - 1}"
        try:
            frame = _to_frame(atoms, options, report, name)
            frame.check()
        except DataError as error:
            if not options.skip_bad:
                raise
            report.skipped.append(str(error))
            continue
        yield frame
    if count == 0:
        raise DataError(f"{path} holds no frames; is it empty or truncated?")


def _read_ase(path: Path) -> Iterator[Atoms]:
    """Frames by ASE's readers; the format is told by the name, compressed or not."""
    inner = path.with_suffix("") if path.suffix in OPENERS else path
    try:
        if inner.suffix in (".xyz", ".extxyz"):
            with OPENERS.get(path.suffix, open)(path, "rt") as file:
                yield from _read_extxyz(file)
        elif inner == path:
            yield from ase.io.iread(path, index=":")
        else:
            with OPENERS[path.suffix](path, "rt") as file:
                yield from ase.io.iread(
                    file, index=":", format=ase.io.formats.filetype(inner.name, read=False)
                )
    except READ_ERRORS as error:
        raise DataError(
            f"{path}: cannot be read ({type(error).__name__}: {error}); is it complete, and one "
            "of extended XYZ, ASE trajectory or database, vasprun.xml, OUTCAR, DeePMD npy?"
        ) from error


def _read_extxyz(file: Any) -> Iterator[Atoms]:
    """Frame by frame, each parsed by ASE: nothing is sought, so compressed files stream."""
    while head := file.readline():
        if not head.strip():
            continue
        lines = [head, *islice(file, int(head) + 1)]
        if len(lines) < int(head) + 2:
            raise EOFError(f"the last frame has {len(lines) - 2} of {int(head)} atoms")
        yield next(read_xyz(StringIO("".join(lines))))


def _to_frame(atoms: Atoms, options: ReadOptions, report: ImportReport, name: str) -> Frame:
    labels = _labels(atoms)
    e_unit = units.factor(units.ENERGY, options.energy_unit, "energy")
    l_unit = units.factor(units.LENGTH, options.length_unit, "length")
    s_unit = units.factor(units.STRESS, options.stress_unit, "stress")
    energy_key = _choose(labels, options.energy_key, ENERGY_KEYS, name)
    forces_key = _choose(labels, options.forces_key, FORCES_KEYS, name)
    stress_key = _choose(labels, options.stress_key, (*STRESS_KEYS, *VIRIAL_KEYS), name)
    for kind, key in (("energy", energy_key), ("forces", forces_key), ("stress", stress_key)):
        report.labels[kind][key or NO_KEY] += 1
    stress = None
    if stress_key is not None:
        stress = _full(labels[stress_key], name)
        if stress_key in VIRIAL_KEYS:
            volume = abs(np.linalg.det(atoms.cell.array * l_unit))
            if volume == 0:
                raise DataError(f"{name}: a virial but no cell to divide it by")
            stress = -stress * e_unit / volume
        else:
            stress = stress * s_unit
    info = atoms.info
    group_keys = (options.group_key,) if options.group_key else GROUP_KEYS
    tags = {k: _tag(v) for k, v in info.items() if k not in NOT_TAGS and _is_tag(v)}
    for key in TEMPERATURE_KEYS:
        if key in tags and "temperature" not in tags:
            tags["temperature"] = tags.pop(key)
    moved = Frame.from_atoms(
        atoms,
        energy=np.nan if energy_key is None else float(labels[energy_key]) * e_unit,
        forces=None
        if forces_key is None
        else np.asarray(labels[forces_key], dtype=np.float64) * (e_unit / l_unit),
        stress=stress,
        group=_first(info, group_keys),
        config_type=_first(info, TYPE_KEYS),
        tags=tags,
        weight=float(info.get("config_weight", info.get("weight", 1.0))),
        velocities=atoms.get_velocities() * l_unit if atoms.has("momenta") else None,
        source=name,
    )
    if l_unit == 1:
        return moved
    return moved.replace(positions=moved.positions * l_unit, cell=moved.cell * l_unit)


def _labels(atoms: Atoms) -> dict[str, Any]:
    """Everything that could be a label, wherever ASE or the file put it."""
    found: dict[str, Any] = {**atoms.info, **atoms.arrays}
    if atoms.calc is not None:
        results = getattr(atoms.calc, "results", {})
        found |= {k: v for k, v in results.items() if v is not None}
    return found


def _choose(
    labels: dict[str, Any], wanted: str | None, known: Iterable[str], name: str
) -> str | None:
    if wanted is not None:
        if wanted not in labels:
            raise DataError(f"{name}: has no '{wanted}'; it has {', '.join(sorted(labels))}")
        return wanted
    return next((key for key in known if key in labels), None)


def _full(value: Any, name: str) -> np.ndarray:
    array = np.asarray(value, dtype=np.float64)
    if array.size == 6:
        return voigt_6_to_full_3x3_stress(array.ravel())
    if array.size == 9:
        array = array.reshape(3, 3)
        return 0.5 * (array + array.T)
    raise DataError(f"{name}: a stress has 6 or 9 components, this has {array.size}")


def _first(info: dict[str, Any], keys: Iterable[str | None]) -> str:
    return next((str(info[k]) for k in keys if k in info), "")


def _is_tag(value: Any) -> bool:
    return isinstance(value, str | bool | int | float | np.integer | np.floating | np.bool_)


def _tag(value: Any) -> str | float:
    return value if isinstance(value, str) else float(value)


def content_digest(path: Path, salt: str = "") -> str:
    """Hash of a file, or of all files of a folder."""
    h = hashlib.blake2b(salt.encode(), digest_size=8)
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                h.update(block)
    return h.hexdigest()
