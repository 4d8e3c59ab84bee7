"""Writes `reference.npz`: energies and forces of the authors' NequIP with random weights.

Run from the root of the checkout, in an environment of its own:

    pip install torch==2.13.0 nequip==0.19.1 ase==3.29.0
    python -m tests.parity.nequip.make_reference

Everything is made in float64, and every weight is random. Two models: one that uses both parities
of every degree (six layers are the fewest in which odd scalars matter), and one of natural parity
alone with fixed Bessel functions.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms

from tests.parity.schnet.make_reference import brute_force_pairs, structures

PATH = Path(__file__).with_name("reference.npz")
TYPES = ("O", "Si")
SHARED: dict[str, Any] = {
    "seed": 0,
    "model_dtype": "float64",
    "type_names": list(TYPES),
    "r_max": 4.0,
    "num_features": 4,
    "per_type_energy_scales": 3.0,
    "per_type_energy_shifts": {"O": 0.25, "Si": -0.5},
}
SETTINGS: dict[str, dict[str, Any]] = {
    "both": SHARED
    | {
        "num_layers": 6,
        "l_max": 2,
        "parity": True,
        "radial_mlp_depth": 2,
        "radial_mlp_width": 6,
        "num_bessels": 5,
        "bessel_trainable": True,
        "polynomial_cutoff_p": 6,
        "avg_num_neighbors": 2.5,
    },
    "natural": SHARED
    | {
        "num_layers": 3,
        "l_max": 1,
        "parity": False,
        "radial_mlp_depth": 1,
        "radial_mlp_width": 7,
        "num_bessels": 8,
        "bessel_trainable": False,
        "polynomial_cutoff_p": 5,
        "avg_num_neighbors": 3.5,
    },
}


def build(settings: dict[str, Any]) -> torch.nn.Module:
    """The package's model, every parameter random."""
    from nequip.model import NequIPGNNModel
    from nequip.utils.global_state import set_global_state

    set_global_state()
    return randomise(NequIPGNNModel(**settings), 1.4)


def randomise(model: torch.nn.Module, std: float) -> torch.nn.Module:
    """Draw every parameter; `std` so large that all matter and forces are of usual size."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bessel_weights"):
                parameter.add_(0.1 * torch.randn_like(parameter))
            else:
                parameter.normal_(std=std)
    return model


def evaluate(model: torch.nn.Module, atoms: Atoms) -> tuple[np.ndarray, np.ndarray]:
    """Energies of the atoms, (n,), and forces, (n, 3)."""
    pairs, translations = brute_force_pairs(atoms, SHARED["r_max"])
    # Shifts are counted in a cell that must be invertible where there is none, too.
    cell = np.where(atoms.pbc[:, None], atoms.cell.array, 50.0 * np.eye(3))
    answer = model(
        {
            "pos": torch.from_numpy(atoms.positions.copy()),
            "cell": torch.from_numpy(cell)[None],
            "edge_index": torch.from_numpy(pairs.T.copy()),
            "edge_cell_shift": torch.from_numpy(translations @ np.linalg.inv(cell)),
            "atom_types": torch.tensor([TYPES.index(s) for s in atoms.symbols]),
            "batch": torch.zeros(len(atoms), dtype=torch.long),
            "num_atoms": torch.tensor([len(atoms)]),
        }
    )
    energies = answer["atomic_energy"].detach().squeeze(1).numpy()
    return energies, answer["forces"].detach().numpy()


def reference(model: torch.nn.Module, settings: dict[str, Any]) -> dict[str, np.ndarray]:
    """Settings, weights, and what the model says of every structure."""
    arrays = {"settings": np.array(json.dumps(settings))}
    arrays |= {f"weight/{k}": v.numpy() for k, v in model.state_dict().items()}
    for name, atoms in structures().items():
        energies, forces = evaluate(model, atoms)
        print(f"{name}: largest force {np.abs(forces).max():.3f} eV/Å")
        arrays |= {
            f"{name}/numbers": atoms.numbers,
            f"{name}/positions": atoms.positions,
            f"{name}/cell": atoms.cell.array,
            f"{name}/pbc": atoms.pbc,
            f"{name}/atom_energies": energies,
            f"{name}/forces": forces,
        }
    return arrays


def main() -> None:
    """Write the file."""
    arrays = {}
    for kind, settings in SETTINGS.items():
        found = reference(build(settings), settings)
        arrays |= {f"{kind}/{name}": array for name, array in found.items()}
    np.savez_compressed(PATH, **arrays)


if __name__ == "__main__":
    main()
