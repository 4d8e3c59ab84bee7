"""Reference energies: what the data determine, what they do not, and the other statistics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from siliforce.data import Dataset, Frame, compute_stats
from siliforce.data.stats import reference_energies
from siliforce.errors import DataError
from siliforce.graph import neighbor_list
from tests.unit.data.frames import some_frames, stored

E0 = {8: -5.0, 72: -10.0, 14: -3.0}


def additive(atoms: Atoms) -> Frame:
    """A frame whose energy is the sum of E0."""
    return Frame.from_atoms(atoms, energy=float(sum(E0[z] for z in atoms.numbers)))


def test_compositions_determine_e0(tmp_path: Path) -> None:
    atoms = [
        Atoms("HfO2", np.eye(3) * 2),
        Atoms("HfO", np.eye(3)[:2] * 2),
        Atoms("O2", np.eye(3)[:2]),
    ]
    found = reference_energies(stored(tmp_path / "s", [additive(a) for a in atoms]))
    assert found.energies == pytest.approx({8: -5.0, 72: -10.0})
    assert (found.rank, found.method, found.undetermined) == (2, "least squares", [])
    assert found.residual < 1e-9


def test_one_composition_leaves_a_direction_open(tmp_path: Path) -> None:
    """HfO2 alone: Hf may rise by two where O falls by one."""
    frames = [additive(Atoms("HfO2" * n, 2.0 * np.arange(9 * n).reshape(-1, 3))) for n in (1, 2)]
    found = reference_energies(stored(tmp_path / "s", frames))
    assert (found.rank, found.n_elements) == (1, 2)
    [direction] = found.undetermined
    assert direction["Hf"] + 2 * direction["O"] == pytest.approx(0, abs=1e-3)
    assert abs(direction["Hf"]) == 1
    assert found.energies == pytest.approx({8: -20 / 3, 72: -20 / 3})  # the even solution
    assert found.residual < 1e-9


def test_isolated_atoms_and_given_values_win(tmp_path: Path) -> None:
    frames = [additive(Atoms("O", cell=[10] * 3, pbc=True)), additive(Atoms("Hf"))]
    frames.append(additive(Atoms("HfO2", np.eye(3) * 2)).replace(energy=-25.0))
    dataset = stored(tmp_path / "s", frames)
    found = reference_energies(dataset)
    assert (found.method, found.energies) == ("isolated atoms", {8: -5.0, 72: -10.0})
    given = reference_energies(dataset, {8: 1.0, 72: 2.0})
    assert (given.method, given.energies) == ("given", {8: 1.0, 72: 2.0})
    with pytest.raises(DataError, match="not of Hf"):
        reference_energies(dataset, {8: 1.0})


def test_a_crystal_of_one_atom_is_not_isolated(tmp_path: Path) -> None:
    crystal = additive(bulk("Si", "fcc", a=3.8)).replace(energy=-8.0)
    found = reference_energies(
        stored(tmp_path / "s", [crystal, additive(Atoms("Si2", np.eye(3)[:2] * 2))])
    )
    assert found.method == "least squares"
    alone = additive(Atoms("Si", cell=[12, 12, 12], pbc=True))
    assert reference_energies(stored(tmp_path / "t", [crystal, alone])).energies == {14: -3.0}


def test_statistics(tmp_path: Path) -> None:
    frames = [f.replace(tags={"temperature": 300.0 + k}) for k, f in enumerate(some_frames(4))]
    stats = compute_stats(stored(tmp_path / "s", frames), cutoff=4.0)
    lists = [neighbor_list(f.positions, f.cell, f.pbc, 4.0) for f in frames]
    forces = np.concatenate([f.forces for f in frames if f.forces is not None])
    energies = np.array([f.energy / 8 for f in frames])
    assert stats.mean_neighbors == pytest.approx(np.mean([n.n_edges / 8 for n in lists]))
    assert stats.max_neighbors == max(int(np.bincount(n.center).max()) for n in lists)
    assert stats.rms_force == pytest.approx(np.sqrt((forces**2).mean()))
    assert stats.mean_energy_per_atom == pytest.approx(energies.mean())
    assert stats.std_residual_per_atom == pytest.approx(energies.std())
    assert stats.temperature == (300.0, 303.0)
    density = [8 / np.linalg.det(f.cell) for f in frames]
    assert stats.atoms_per_volume == pytest.approx((min(density), max(density)))
    shortest = min(
        np.linalg.norm(
            f.positions[n.neighbor] - f.positions[n.center] + n.cell_shifts @ f.cell, axis=1
        ).min()
        for f, n in zip(frames, lists, strict=True)
    )
    assert stats.min_distance == {"Cu-Cu": pytest.approx(shortest, abs=1e-4)}


def test_molecules_without_labels(tmp_path: Path) -> None:
    stats = compute_stats(stored(tmp_path / "s", [Frame.from_atoms(molecule("H2O"))]), cutoff=4.0)
    assert stats.atoms_per_volume is None
    assert np.isnan(stats.rms_force)
    assert stats.references.rank == 0


def test_empty_sets_are_refused(tmp_path: Path) -> None:
    dataset = stored(tmp_path / "s", some_frames(1))
    with pytest.raises(DataError, match="no frames"):
        compute_stats(Dataset(dataset.stores, np.array([], dtype=int)), cutoff=4.0)
