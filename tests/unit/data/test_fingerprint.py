"""Copies of a structure are found in whatever guise; different structures are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, make_supercell
from scipy.spatial.transform import Rotation

from siliforce.data import Dataset, Frame, Store, load_dataset
from siliforce.data.fingerprint import COPY, Confirm, fingerprints
from tests.shared_data import shared_data

ELEMENTS = (8, 72)


def _dataset(path: Path, structures: list[Atoms]) -> Dataset:
    store = Store.create(path)
    store.append([Frame.from_atoms(a) for a in structures])
    return Dataset([store])


@pytest.fixture
def structure() -> Atoms:
    atoms = bulk("HfO2", "fluorite", a=5.1, cubic=True)
    atoms.rattle(0.1, seed=3)
    return atoms


def _disguised(atoms: Atoms) -> Atoms:
    """Rotated, mirrored, shifted, wrapped, permuted: the same structure."""
    turn = Rotation.random(rng=5).as_matrix() @ np.diag([1.0, 1.0, -1.0])
    copy = atoms.copy()
    copy.positions += [0.3, 1.7, -0.9]
    copy.wrap()
    copy.set_cell(copy.cell.array @ turn)
    copy.positions = copy.positions @ turn
    return copy[np.random.default_rng(0).permutation(len(copy))]


@pytest.mark.parametrize("guise", ["disguised", "supercell"])
def test_copies_are_found(tmp_path: Path, structure: Atoms, guise: str) -> None:
    copy = _disguised(structure)
    if guise == "supercell":
        copy = make_supercell(copy, np.diag([2, 1, 1]))
    data = _dataset(tmp_path / "s", [structure, copy])
    pairs = fingerprints(data).copies()
    assert [(i, j) for i, j, _ in pairs] == [(0, 1)]
    assert Confirm(data, data, ELEMENTS).distance(0, 1) < 1e-6


def test_other_structures_are_not_copies(tmp_path: Path, structure: Atoms) -> None:
    moved, swapped = structure.copy(), structure.copy()
    moved.rattle(0.03, seed=1)
    swapped.numbers = swapped.numbers[::-1]
    data = _dataset(tmp_path / "s", [structure, moved, swapped])
    assert fingerprints(data).copies() == []
    assert Confirm(data, data, ELEMENTS).distance(0, 1) > COPY


def test_distance_grows_with_displacement(tmp_path: Path, structure: Atoms) -> None:
    steps = [0.0, 0.001, 0.004, 0.016]
    rattled = [structure.copy() for _ in steps]
    for atoms, step in zip(rattled, steps, strict=True):
        atoms.rattle(step, seed=7)
    data = _dataset(tmp_path / "s", rattled)
    distances = [Confirm(data, data, ELEMENTS).distance(0, k) for k in range(len(steps))]
    ratio = np.array(distances[2:]) / np.array(distances[1:-1])
    assert distances[0] == 0
    assert (np.abs(ratio - 4) < 1.5).all()


def test_atoms_without_neighbors(tmp_path: Path) -> None:
    data = _dataset(tmp_path / "s", [Atoms("O"), Atoms("O"), Atoms("Hf")])
    assert [(i, j) for i, j, _ in fingerprints(data).copies()] == [(0, 1)]


def test_published_test_frames_that_are_copies(tmp_path: Path) -> None:
    """Elastic modes 3, 4, 5 at strain -0.06 mirror training frames; nothing else does."""
    parts = [load_dataset(shared_data(f"mlearn_si/{n}.extxyz.xz")) for n in ("test", "train")]
    test, train = (fingerprints(part, (14,)) for part in parts)
    pairs = Confirm(*parts, (14,)).copies(test.copies(train))
    assert pairs
    copied = sorted({i for i, _, _ in test.copies(train)})
    names = [parts[0][i].tags["desc"] for i in copied]
    assert names == [f"Si 2x2x2 cell, mode {m}, strain -0.06" for m in (3, 4, 5)]
