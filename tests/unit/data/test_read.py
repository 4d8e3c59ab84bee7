"""Every format the field uses, its keys and units; files that cannot be used are named."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect

from siliforce.data import ReadOptions, import_files, load_dataset
from siliforce.data.store import Store
from siliforce.errors import DataError
from tests.unit.data.frames import crystal, labelled
from tests.unit.data.vasp_files import write_outcar, write_vasprun


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SILIFORCE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def frames() -> list[Atoms]:
    """Two frames, their labels in a calculator as ASE keeps them."""
    made = []
    for seed in range(2):
        frame = labelled(crystal(seed))
        atoms = frame.to_atoms()
        atoms.info["group"] = "run 1"
        atoms.calc = SinglePointCalculator(
            atoms, energy=frame.energy, forces=frame.forces, stress=frame.stress
        )
        made.append(atoms)
    return made


def assert_same(path: Path, frames: list[Atoms], tolerance: float = 1e-7) -> None:
    dataset = load_dataset(path)
    assert len(dataset) == len(frames)
    for frame, atoms in zip(dataset, frames, strict=True):
        np.testing.assert_array_equal(frame.numbers, atoms.numbers)
        for ours, theirs in (
            (frame.positions, atoms.positions),
            (frame.cell, atoms.cell.array),
            (frame.energy, atoms.get_potential_energy()),
            (frame.forces, atoms.get_forces()),
            (frame.stress, atoms.get_stress(voigt=False)),
        ):
            np.testing.assert_allclose(ours, theirs, atol=tolerance)


@pytest.mark.parametrize("suffix", [".extxyz", ".xyz", ".traj", ".db"])
def test_formats_of_ase(tmp_path: Path, frames: list[Atoms], suffix: str) -> None:
    path = tmp_path / f"frames{suffix}"
    if suffix == ".db":
        with connect(path) as database:
            for atoms in frames:
                database.write(atoms)
    else:
        ase.io.write(path, frames, format="extxyz" if "xyz" in suffix else None)
    assert_same(path, frames)


@pytest.mark.parametrize(
    ("suffix", "packed"), [(".xz", lzma.compress), (".gz", gzip.compress), (".bz2", bz2.compress)]
)
def test_compressed(
    tmp_path: Path, frames: list[Atoms], suffix: str, packed: Callable[[bytes], bytes]
) -> None:
    ase.io.write(tmp_path / "plain.extxyz", frames)
    path = tmp_path / f"frames.extxyz{suffix}"
    path.write_bytes(packed((tmp_path / "plain.extxyz").read_bytes()))
    assert_same(path, frames)
    assert load_dataset(path).groups == ["run 1", "run 1"]


def test_files_are_imported_again_when_they_change(tmp_path: Path, frames: list[Atoms]) -> None:
    path = tmp_path / "frames.extxyz"
    ase.io.write(path, frames)
    first = load_dataset(path)
    assert load_dataset(path).stores[0].path == first.stores[0].path
    ase.io.write(path, frames[:1])
    assert len(load_dataset(path)) == 1


@pytest.mark.parametrize("prefix", ["REF_", "dft_", "DFT_"])
def test_prefixed_keys_win(tmp_path: Path, frames: list[Atoms], prefix: str) -> None:
    """A file may hold both the reference and what some potential made of it."""
    atoms = frames[0]
    atoms.info[f"{prefix}energy"] = -5.0
    atoms.arrays[f"{prefix}forces"] = np.full((8, 3), 0.25)
    atoms.info[f"{prefix}virial"] = np.eye(3) * 3.0
    ase.io.write(tmp_path / "f.extxyz", atoms)
    report = import_files(tmp_path / "f.extxyz", tmp_path / "s")
    frame = Store.open(tmp_path / "s")[0]
    assert frame.energy == -5.0
    assert (frame.forces == 0.25).all()
    assert report.labels["energy"] == {f"{prefix}energy": 1}
    assert report.labels["forces"] == {f"{prefix}forces": 1}


def test_free_energy_wins_over_energy(tmp_path: Path, frames: list[Atoms]) -> None:
    """It is what the forces are the gradient of."""
    for k, atoms in enumerate(frames):
        results = {"energy": -1.0, "forces": atoms.get_forces()}
        atoms.calc = SinglePointCalculator(atoms, **results, **({"free_energy": -2.0} if k else {}))
    ase.io.write(tmp_path / "f.traj", frames)
    report = import_files(tmp_path / "f.traj", tmp_path / "s")
    assert [f.energy for f in Store.open(tmp_path / "s")] == [-1.0, -2.0]
    assert report.labels["energy"] == {"energy": 1, "free_energy": 1}
    assert load_dataset(tmp_path / "s").label_keys["energy"] == {"energy": 1, "free_energy": 1}
    options = ReadOptions(energy_key="energy")
    import_files(tmp_path / "f.traj", tmp_path / "t", options)
    assert [f.energy for f in Store.open(tmp_path / "t")] == [-1.0, -1.0]


def test_missing_labels_are_masked(tmp_path: Path, frames: list[Atoms]) -> None:
    frames[1].calc = SinglePointCalculator(frames[1], energy=-3.0)
    ase.io.write(tmp_path / "f.extxyz", frames)
    report = import_files(tmp_path / "f.extxyz", tmp_path / "s")
    bare = Store.open(tmp_path / "s")[1]
    assert bare.forces is None
    assert bare.stress is None
    assert report.labels["forces"] == {"forces": 1, "(none)": 1}


@pytest.mark.parametrize(
    ("options", "energy", "length", "stress"),
    [
        (ReadOptions(energy_unit="Ha", length_unit="Bohr"), units.Ha, units.Bohr, 1.0),
        (ReadOptions(energy_unit="Ry"), units.Ry, 1.0, 1.0),
        (ReadOptions(energy_unit="kcal/mol"), units.kcal / units.mol, 1.0, 1.0),
        (ReadOptions(stress_unit="GPa"), 1.0, 1.0, units.GPa),
        (ReadOptions(stress_unit="-kbar"), 1.0, 1.0, -0.1 * units.GPa),
    ],
)
def test_units(
    tmp_path: Path,
    frames: list[Atoms],
    options: ReadOptions,
    energy: float,
    length: float,
    stress: float,
) -> None:
    ase.io.write(tmp_path / "f.traj", frames)
    atoms, frame = frames[0], load_dataset(tmp_path / "f.traj", options)[0]
    np.testing.assert_allclose(frame.energy, atoms.get_potential_energy() * energy)
    np.testing.assert_allclose(frame.forces, atoms.get_forces() * energy / length)
    np.testing.assert_allclose(frame.positions, atoms.positions * length)
    np.testing.assert_allclose(frame.cell, atoms.cell.array * length)
    np.testing.assert_allclose(frame.stress, atoms.get_stress(voigt=False) * stress)


def test_virial_is_minus_stress_times_volume(tmp_path: Path, frames: list[Atoms]) -> None:
    atoms, expected = frames[0], frames[0].get_stress(voigt=False)
    atoms.calc = SinglePointCalculator(atoms, energy=0.0)
    atoms.info["virial"] = -expected * atoms.get_volume()
    ase.io.write(tmp_path / "f.extxyz", atoms)
    np.testing.assert_allclose(load_dataset(tmp_path / "f.extxyz")[0].stress, expected, atol=1e-8)


def test_unknown_unit_and_key(tmp_path: Path, frames: list[Atoms]) -> None:
    ase.io.write(tmp_path / "f.extxyz", frames)
    with pytest.raises(DataError, match="unknown energy unit 'eva'; allowed: eV"):
        load_dataset(tmp_path / "f.extxyz", ReadOptions(energy_unit="eva"))
    with pytest.raises(DataError, match="has no 'E0'; it has"):
        load_dataset(tmp_path / "f.extxyz", ReadOptions(energy_key="E0"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.extxyz", b""),
        ("empty.traj", b""),
        ("rubbish.extxyz", b"what is this"),
        ("rubbish.extxyz.xz", b"what is this"),
        ("rubbish.unknown", b"what is this"),
        ("OUTCAR", b"what is this"),
        ("vasprun.xml", b"<modeling>"),
    ],
)
def test_unreadable_files_are_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=name.replace(".", r"\.")):
        load_dataset(tmp_path / name)


@pytest.mark.parametrize("suffix", [".extxyz", ".extxyz.xz", ".traj"])
def test_truncated_files_are_named(tmp_path: Path, frames: list[Atoms], suffix: str) -> None:
    path = tmp_path / f"f{suffix}"
    ase.io.write(tmp_path / "f.extxyz", frames)
    if suffix == ".traj":
        ase.io.write(path, frames)
    elif suffix == ".extxyz.xz":
        path.write_bytes(lzma.compress((tmp_path / "f.extxyz").read_bytes()))
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(DataError, match=r"f\.(extxyz|traj)"):
        load_dataset(path)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        load_dataset(tmp_path / "nowhere.xyz")
    with pytest.raises(DataError, match="no such file"):
        import_files(tmp_path / "nowhere.xyz", tmp_path / "s")
    assert not (tmp_path / "s").exists()
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="neither a store nor DeePMD"):
        load_dataset(tmp_path / "folder")


def test_bad_frames_stop_or_are_left_out(tmp_path: Path, frames: list[Atoms]) -> None:
    bad = frames[1].copy()
    bad.calc = SinglePointCalculator(bad, energy=0.0, forces=np.full((8, 3), np.nan))
    ase.io.write(tmp_path / "f.traj", [frames[0], bad, frames[1]])
    with pytest.raises(DataError, match=r"f\.traj:1: forces hold NaN .*--skip-bad"):
        load_dataset(tmp_path / "f.traj")
    report = import_files(tmp_path / "f.traj", tmp_path / "s", ReadOptions(skip_bad=True))
    assert report.n_frames == 2
    assert len(report.skipped) == 1
    assert [f.source for f in Store.open(tmp_path / "s")] == ["f.traj:0", "f.traj:2"]


def test_groups_types_tags_weights(tmp_path: Path, frames: list[Atoms]) -> None:
    for k, atoms in enumerate(frames):
        atoms.info |= {"config_type": "bulk", "T": 300 * (k + 1), "phase": "fcc"}
        atoms.info |= {"config_weight": 2.0, "level": "PBE", "run": f"r{k}"}
    ase.io.write(tmp_path / "f.extxyz", frames)
    dataset = load_dataset(tmp_path / "f.extxyz")
    assert dataset.config_types == ["bulk", "bulk"]
    assert dataset.tags("temperature") == [300.0, 600.0]
    assert dataset.tags("phase") == ["fcc", "fcc"]
    assert dataset[0].weight == 2.0
    assert dataset.facts["level_of_theory"] == "PBE"
    by_run = load_dataset(tmp_path / "f.extxyz", ReadOptions(group_key="run"))
    assert by_run.groups == ["r0", "r1"]


def deepmd_folder(path: Path, frames: list[Atoms], type_map: bool = True) -> Path:
    """As DeePMD-kit writes it; the virial is minus stress times volume."""
    folder = path / "system" / "set.000"
    folder.mkdir(parents=True)
    arrays = {
        "coord": np.stack([a.positions.ravel() for a in frames]),
        "box": np.stack([a.cell.array.ravel() for a in frames]),
        "energy": np.array([a.get_potential_energy() for a in frames]),
        "force": np.stack([a.get_forces().ravel() for a in frames]),
        "virial": np.stack([-a.get_volume() * a.get_stress(voigt=False).ravel() for a in frames]),
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    (path / "system" / "type.raw").write_text("0\n" * len(frames[0]))
    if type_map:
        (path / "system" / "type_map.raw").write_text("Cu\n")
    return path


def test_deepmd(tmp_path: Path, frames: list[Atoms]) -> None:
    path = deepmd_folder(tmp_path / "d", frames)
    assert_same(path, frames)
    assert load_dataset(path).groups == ["system/set.000"] * 2


def test_deepmd_damage_is_named(tmp_path: Path, frames: list[Atoms]) -> None:
    with pytest.raises(DataError, match=r"type_map\.raw is missing"):
        load_dataset(deepmd_folder(tmp_path / "a", frames, type_map=False))
    path = deepmd_folder(tmp_path / "b", frames)
    force = path / "system" / "set.000" / "force.npy"
    force.write_bytes(force.read_bytes()[:-16])
    with pytest.raises(DataError, match=r"force\.npy: damaged"):
        load_dataset(path)
    np.save(force, np.zeros((1, 24)))
    with pytest.raises(DataError, match="different lengths"):
        load_dataset(path)


@pytest.mark.parametrize("name", ["vasprun.xml", "vasprun.xml.gz", "OUTCAR", "OUTCAR.gz"])
def test_vasp(tmp_path: Path, name: str) -> None:
    """kbar with VASP's sign becomes eV/Å³ with ours; the free energy is read, not sigma -> 0."""
    frames = [labelled(crystal(k, amplitude=0.05, strain=0.01 * k)) for k in range(2)]
    assert max(abs(f.stress[0, 1]) for f in frames if f.stress is not None) > 1e-4
    plain = tmp_path / name.removesuffix(".gz")
    write = write_vasprun if "xml" in name else write_outcar
    write(plain, frames, sigma_zero=0.125)
    if name.endswith(".gz"):
        (tmp_path / name).write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()
    dataset = load_dataset(tmp_path / name)
    assert len(dataset) == 2
    for frame, expected in zip(dataset, frames, strict=True):
        np.testing.assert_allclose(frame.energy, expected.energy, atol=1e-7)
        np.testing.assert_allclose(frame.positions, expected.positions, atol=1e-7)
        np.testing.assert_allclose(frame.forces, expected.forces, atol=1e-7)
        np.testing.assert_allclose(frame.stress, expected.stress, atol=1e-8)
    assert dataset.label_keys["energy"] == {"free_energy": 2}
    extrapolated = load_dataset(tmp_path / name, ReadOptions(energy_key="energy"))
    np.testing.assert_allclose(extrapolated[0].energy, frames[0].energy + 0.125, atol=1e-7)
