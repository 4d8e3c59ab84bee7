"""A model that its authors' package trained and saved gives the same answers here."""

from __future__ import annotations

import lzma
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms

from siliforce.deploy.load import import_model
from siliforce.potential import Potential
from tests.cases import graph_of
from tests.parity.saved_models import ATOMIC_ENERGIES, CUTOFF
from tests.structures import STRUCTURES

HERE = Path(__file__).parent
# Energies of a structure in eV, forces in eV/Å, stress in eV/Å³. The authors' float32 models
# add up energies in float32.
TOLERANCES = {"float64": (1e-8, 1e-7, 1e-9), "float32": (5e-5, 5e-5, 1e-6)}
MODELS = [
    ("mace", "model", "float64"),
    ("mace", "model", "float32"),
    ("nequip", "ckpt", "float64"),
    ("nequip", "ckpt", "float32"),
    ("allegro", "ckpt", "float64"),
]
each_model = pytest.mark.parametrize(("package", "suffix", "dtype"), MODELS)


@cache
def answers(package: str) -> dict[str, np.ndarray]:
    with np.load(HERE / package / "saved.npz") as file:
        return dict(file)


def unpacked(package: str, suffix: str, dtype: str, folder: Path) -> Path:
    path = folder / f"{dtype}.{suffix}"
    packed = HERE / package / f"saved_{dtype}.{suffix}.xz"
    path.write_bytes(lzma.decompress(packed.read_bytes()))
    return path


@each_model
def test_the_same_energies_forces_and_stress(
    package: str, suffix: str, dtype: str, tmp_path: Path
) -> None:
    imported = import_model(unpacked(package, suffix, dtype, tmp_path))
    potential = Potential.load(imported.save(tmp_path / "model.safetensors"))
    assert potential.dtype == getattr(torch, dtype)
    energy_error, force_error, stress_error = TOLERANCES[dtype]
    largest = 0.0
    reference = answers(package)
    for name in STRUCTURES:
        fields = ("numbers", "positions", "cell", "pbc")
        atoms = Atoms(**{field: reference[f"{name}/{field}"] for field in fields})
        forces = reference[f"{dtype}/{name}/forces"]
        ours = potential(graph_of(potential, [atoms]), stress=True)
        assert ours.forces is not None
        assert ours.stress is not None
        largest = max(largest, np.abs(forces).max())
        energy = reference[f"{dtype}/{name}/energy"]
        assert abs(ours.energy.item() - energy) < energy_error, name
        assert np.abs(ours.forces.numpy() - forces).max() < force_error, name
        if atoms.pbc.all():
            stress = reference[f"{dtype}/{name}/stress"]
            assert np.abs(ours.stress[0].detach().numpy() - stress).max() < stress_error, name
    assert largest > 0.1, "forces too small to prove anything"


@each_model
def test_what_the_file_says_arrives(package: str, suffix: str, dtype: str, tmp_path: Path) -> None:
    potential = import_model(unpacked(package, suffix, dtype, tmp_path))
    assert set(potential.species.symbols) == set(ATOMIC_ENERGIES)
    assert potential.cutoff == CUTOFF
    assert not potential.pin_isolated
    assert potential.card.model_extra is not None
    assert potential.card.model_extra["imported"]["file"] == f"{dtype}.{suffix}"
