"""SAMD23: fetched from its mirror or its authors' archives, checked, and put into stores.

Reference: Kim et al., "Benchmark of machine learning force fields for semiconductor simulations:
datasets, metrics, and comparative analysis", NeurIPS Datasets and Benchmarks (2023).
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from shutil import rmtree

import numpy as np

from siliforce.data.dataset import Dataset
from siliforce.data.download import download, read_url
from siliforce.data.frame import Frame
from siliforce.data.parquet import read_parquet
from siliforce.data.read import ImportReport, ReadOptions, read_frames
from siliforce.data.samd23_reference import read_samd23
from siliforce.data.store import Store
from siliforce.errors import DataError

HUB = "https://huggingface.co"
DRIVE = "https://drive.usercontent.google.com/download?id={}&export=download"
REPOSITORY = "https://github.com/SAITPublic/MLFF-Framework/archive/refs/heads/main.tar.gz"
LICENCE = "CC-BY-4.0 (as stated by the mirror)"
REFERENCE_LICENCE = "CC-BY-NC-SA 4.0 (non-commercial, share alike)"
LEVEL = "VASP PBE (cutoff and k-points not published)"
PARTS = {
    "train": ("trainset", "train"),
    "valid": ("validset", "validation", "valid"),
    "test": ("testset", "test"),
    "ood": ("out-of-domain", "ood"),
    "raw": ("raw",),
}
"""Part -> words that name it in files and folders."""
MIRROR_NAMES = {"valid": "validation", "ood": "out-of-domain"}
SUFFIXES = (".xyz", ".extxyz", ".parquet")


@dataclass(frozen=True)
class Published:
    """What is known of a part.

    Attributes:
        frames: smallest and largest number.
        n_atoms: smallest and largest frame.
        mean_energy: of a frame, eV.
        std_energy_per_atom: eV.
        rms_force: eV/Å, over components.
    """

    frames: tuple[int, int]
    n_atoms: tuple[int, int] = (1, 1000)
    mean_energy: float | None = None
    std_energy_per_atom: float | None = None
    rms_force: float | None = None


@dataclass(frozen=True)
class Material:
    """One of the two materials.

    Attributes:
        name: in file names.
        symbols: its elements.
        archive, raw_archive: file ids of the authors' archives.
        published: part -> what to check.
    """

    name: str
    symbols: frozenset[int]
    archive: str
    raw_archive: str
    published: dict[str, Published]


MATERIALS = {
    "sin": Material(
        "SiN",
        frozenset({7, 14}),
        "1l9nsie40Bpm8CNW4sx94yAuvmMkUfM3b",
        "1umhok3RbYyjjnpeKkxEGJUN2oY3OxSBN",
        {
            "train": Published((10_000, 50_000), (16, 510), -403.916, 0.81571, 1.9849),
            "ood": Published((1_000, 10_000)),
        },
    ),
    "hfo": Material(
        "HfO",
        frozenset({8, 72}),
        "1-DVMGyXjvNYaBtaAkWu8uQVgvz8pEgMZ",
        "1tSkjfp4N8cvHqpFYYlu2EqK8u2HRIro7",
        {
            "train": Published((26_000, 30_000), (96, 96), -907.658, 0.40556, 2.1511),
            "raw": Published((180_000, 205_000)),
        },
    ),
}


def fetch_samd23(name: str, out: Path, source: Path | None) -> tuple[int, list[str]]:
    """Bring `samd23-sin`, `samd23-hfo` or one of their raw sets; finished parts are kept.

    Args:
        name: of the set.
        out: folder for one store per part.
        source: a copy of the archive, the mirror's folder, or the xyz files.

    Returns:
        Number of frames, and what was checked.

    Raises:
        DataError: not reachable, damaged, or not this set.
    """
    material = MATERIALS[name.split("-")[1]]
    raw = name.endswith("-raw")
    wanted = ["raw"] if raw else ["train", "valid", "test", "ood"]
    n_frames, notes = 0, []
    if not all(Store.is_store(out / part) for part in wanted):
        files = _parts(_folder(material, raw, out, source), material, wanted)
        for part in wanted:
            if not Store.is_store(out / part):
                _make_store(out / part, files[part])
    for part in wanted:
        dataset = Dataset([Store.open(out / part)])
        n_frames += len(dataset)
        notes.append(_checked(dataset, part, material))
    return n_frames, notes


def fetch_reference(out: Path, source: Path | None) -> tuple[int, list[str]]:
    """The evaluation references: EOS, PEC, RDF and ADF files and start structures.

    Args:
        out: folder for one reference per material, `out/SiN` and `out/HfO`. The files as
            published are kept in `out/datasets`, and read from there the next time.
        source: a copy of the repository's archive, or of its folder `datasets`.

    Returns:
        Number of start structures, and what was found.

    Raises:
        DataError: not reachable, damaged, or not these files.
    """
    folder = out / "datasets"
    if not folder.is_dir():
        folder = _reference_folder(out, source)
    facts = {"licence": REFERENCE_LICENCE, "level_of_theory": LEVEL, "source": REPOSITORY}
    n_starts, notes = 0, []
    for material in MATERIALS.values():
        name = material.name
        reference = read_samd23(folder / f"{name}_eval", name, **facts)
        reference.save(out / name)
        starts = reference.starts
        n_starts += len(starts)
        notes.append(
            f"{name}: {len(starts)} starts ({sum(s.ood for s in starts)} of them OOD) "
            f"with RDF and ADF, {len(reference.eos)} EOS, {len(reference.pec)} PEC"
        )
    return n_starts, notes


def _reference_folder(out: Path, source: Path | None) -> Path:
    """The folder `datasets` of the public repository, fetched and unpacked."""
    if source is None:
        source = download(REPOSITORY, out / "download" / "MLFF-Framework.tar.gz")
    if not source.exists():
        raise DataError(f"{source}: no such file or folder")
    if not source.is_dir():
        return _extracted(source, out, only="datasets/")
    return source / "datasets" if (source / "datasets").is_dir() else source


def _folder(material: Material, raw: bool, out: Path, source: Path | None) -> Path:
    """A folder with the files, fetched or unpacked if needed."""
    if source is not None:
        if not source.exists():
            raise DataError(f"{source}: no such file or folder")
        return _extracted(source, out) if _is_archive(source) else source
    downloads = out / "download"
    if find_spec("pyarrow") is not None:
        _fetch_mirror(material, ["raw"] if raw else ["train", "valid", "test", "ood"], downloads)
        return downloads
    archive = material.raw_archive if raw else material.archive
    name = f"{material.name}-raw.tar" if raw else f"{material.name}.tar"
    return _extracted(download(DRIVE.format(archive), downloads / name), out)


def _is_archive(path: Path) -> bool:
    return path.is_file() and tarfile.is_tarfile(path)


def _extracted(archive: Path, out: Path, only: str = "") -> Path:
    """Folder with the content of an archive, complete or not there.

    Args:
        only: unpack what lies below this folder of the archive, without what lies above it.
    """
    folder, partial = out / (only or "download").rstrip("/"), out / ".unpacking"
    folder = folder if only else folder / "unpacked"
    if folder.exists():
        return folder
    rmtree(partial, ignore_errors=True)
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                before, mark, below = member.name.rpartition(only) if only else ("", "", "")
                if only and (not mark or (before and not before.endswith("/"))):
                    continue
                if only:
                    member = member.replace(name=below or ".")
                tar.extract(member, partial, filter="data")
    except (tarfile.TarError, EOFError, OSError) as error:
        rmtree(partial, ignore_errors=True)
        raise DataError(f"{archive}: cannot be unpacked ({error}); fetch it again") from error
    if not partial.exists():
        raise DataError(f"{archive}: holds no {only or 'files'}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    return partial.replace(folder)


def _fetch_mirror(material: Material, parts: list[str], folder: Path) -> None:
    """Parquet files with frames of each part, into one folder per part."""
    for part in parts:
        suffix = MIRROR_NAMES.get(part, part)
        name = f"colabfit/SAIT_semiconductors_ACS_2023_{material.name}_{suffix}"
        listing = read_url(f"{HUB}/api/datasets/{name}/tree/main?recursive=true")
        try:
            files = [f for f in json.loads(listing) if f["path"].endswith(".parquet")]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{HUB}: the listing of {name} cannot be read ({error})") from error
        # Frames are in co/ ("configurations"); the other folders describe the set.
        frames = [f for f in files if f["path"].startswith("co/")] or files
        if not frames:
            raise DataError(f"{HUB}: {name} holds no parquet files; give a copy with --from")
        for file in frames:
            path = folder / name.rpartition("/")[2] / file["path"]
            url = f"{HUB}/datasets/{name}/resolve/main/{file['path']}"
            download(url, path, file.get("size"), (file.get("lfs") or {}).get("oid"))


def _parts(folder: Path, material: Material, wanted: list[str]) -> dict[str, list[Path]]:
    """Files of each part.

    Raises:
        DataError: a part is missing.
    """
    files = [folder] if folder.is_file() else sorted(p for p in folder.rglob("*") if p.is_file())
    root = folder.parent if folder.is_file() else folder
    files = [p for p in files if any(s in SUFFIXES for s in p.suffixes)]
    named = [p for p in files if material.name in str(p.relative_to(root))]
    files = named or files
    if wanted == ["raw"]:
        found = {"raw": files}
    else:
        found = {part: [p for p in files if _part(p.relative_to(root)) == part] for part in wanted}
    missing = [part for part, paths in found.items() if not paths]
    if missing:
        raise DataError(
            f"{folder}: no files of {material.name} {', '.join(missing)}; expected are "
            f"Trainset.xyz, Validset.xyz, Testset.xyz and OOD.xyz, or the mirror's folders"
        )
    return found


def _part(path: Path) -> str | None:
    """Part a file belongs to: the word nearest to the end of its path decides."""
    for name in reversed([p.lower() for p in path.parts]):
        words = re.split(r"[_.]", name)
        for part, marks in PARTS.items():
            if any(mark in words for mark in marks):
                return part
    return None


def _make_store(path: Path, files: list[Path]) -> None:
    """One store of all files; complete or not there."""
    partial = path.with_name(f".{path.name}.partial")
    rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    report = ImportReport()
    frames = chain.from_iterable(_read(file, report) for file in files)
    Store.create(partial).append(frames, level_of_theory=LEVEL, licence=LICENCE)
    partial.replace(path)


def _read(file: Path, report: ImportReport) -> Iterator[Frame]:
    """Frames of one file; the forces belong to the free energy, which is read where present."""
    if file.suffix == ".parquet":
        return read_parquet([file])
    return read_frames(file, ReadOptions(), report)


def _checked(dataset: Dataset, part: str, material: Material) -> str:
    """Compare with what is published.

    Raises:
        DataError: other elements.
    """
    if not set(dataset.elements) <= material.symbols:
        raise DataError(f"{part}: holds elements {dataset.elements}: this is not {material.name}")
    known = material.published.get(part)
    if known is None:
        return f"{part}: {len(dataset)} frames (nothing published to compare with)"
    wrong = [text for text in _differences(dataset, known) if text]
    if wrong:
        return f"{part}: {len(dataset)} frames; NOT AS PUBLISHED: {'; '.join(wrong)}"
    return f"{part}: {len(dataset)} frames, statistics as published"


def _differences(dataset: Dataset, known: Published) -> Iterator[str]:
    n, sizes = len(dataset), dataset.n_atoms
    if not known.frames[0] <= n <= known.frames[1]:
        yield f"{n} frames instead of {known.frames[0]} to {known.frames[1]}"
    if sizes.min() < known.n_atoms[0] or sizes.max() > known.n_atoms[1]:
        yield f"{sizes.min()} to {sizes.max()} atoms instead of {known.n_atoms}"
    per_atom = dataset.energies / sizes
    for name, found, expected, tolerance in (
        ("mean energy (eV)", dataset.energies.mean(), known.mean_energy, 0.005),
        ("std of the energy per atom (eV)", per_atom.std(), known.std_energy_per_atom, 0.05),
        ("RMS force (eV/Å)", _rms_force(dataset), known.rms_force, 0.05),
    ):
        if expected is not None and not abs(found - expected) <= tolerance * abs(expected):
            yield f"{name} {found:.5g} instead of {expected:.5g}"


def _rms_force(dataset: Dataset) -> float:
    square, components = 0.0, 0
    for frame in dataset:
        if frame.forces is not None:
            square += float(np.square(frame.forces).sum())
            components += frame.forces.size
    return float(np.sqrt(square / max(components, 1)))


TITLES: dict[str, tuple[str, str]] = {
    "samd23-sin": ("SAMD23 silicon nitride: train, valid, test, ood", LICENCE),
    "samd23-hfo": ("SAMD23 hafnium oxide: train, valid, test, ood", LICENCE),
    "samd23-sin-raw": ("SAMD23 silicon nitride, all frames", LICENCE),
    "samd23-hfo-raw": ("SAMD23 hafnium oxide, all frames", LICENCE),
    "samd23-reference": ("SAMD23 evaluation references: EOS, PEC, RDF, ADF", REFERENCE_LICENCE),
}


def fetch(name: str, out: Path, source: Path | None) -> tuple[int, list[str]]:
    """Any of `TITLES`."""
    if name == "samd23-reference":
        return fetch_reference(out, source)
    return fetch_samd23(name, out, source)
