"""Writes `reference.npz`: energies and forces of the authors' Allegro with random weights.

Run from the root of the checkout, in an environment of its own:

    pip install torch==2.13.0 nequip==0.19.1 nequip-allegro==0.8.3 ase==3.29.0
    python -m tests.parity.allegro.make_reference

Everything is made in float64, and every weight is random. Two models: one with tensors of either
parity, and one of natural parity alone with fixed Bessel functions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.parity.nequip.make_reference import TYPES, randomise, reference

PATH = Path(__file__).with_name("reference.npz")


def embedding(**options: Any) -> dict[str, Any]:
    """The argument of that name."""
    return {"_target_": "allegro.nn.TwoBodyBesselScalarEmbed"} | options


SHARED: dict[str, Any] = {
    "seed": 0,
    "model_dtype": "float64",
    "type_names": list(TYPES),
    "r_max": 4.0,
    "per_type_energy_scales": 12.0,
    "per_type_energy_shifts": {"O": 0.25, "Si": -0.5},
}
SETTINGS: dict[str, dict[str, Any]] = {
    "both": SHARED
    | {
        "num_layers": 3,
        "l_max": 2,
        "parity": True,
        "num_scalar_features": 8,
        "num_tensor_features": 4,
        "radial_chemical_embed": embedding(
            num_bessels=5, bessel_trainable=True, polynomial_cutoff_p=6
        ),
        "radial_chemical_embed_dim": 10,
        "scalar_embed_mlp_hidden_layers_depth": 2,
        "scalar_embed_mlp_hidden_layers_width": 7,
        "allegro_mlp_hidden_layers_depth": 1,
        "allegro_mlp_hidden_layers_width": 9,
        "readout_mlp_hidden_layers_depth": 1,
        "readout_mlp_hidden_layers_width": 6,
        "avg_num_neighbors": 3.5,
    },
    "natural": SHARED
    | {
        "num_layers": 2,
        "l_max": 1,
        "parity": False,
        "num_scalar_features": 6,
        "num_tensor_features": 5,
        "radial_chemical_embed": embedding(num_bessels=8, polynomial_cutoff_p=5),
        "scalar_embed_mlp_hidden_layers_depth": 1,
        "scalar_embed_mlp_hidden_layers_width": 8,
        "allegro_mlp_hidden_layers_depth": 1,
        "allegro_mlp_hidden_layers_width": 7,
        "readout_mlp_hidden_layers_depth": 1,
        "readout_mlp_hidden_layers_width": 4,
        "avg_num_neighbors": 4.5,
    },
}


def build(settings: dict[str, Any]) -> torch.nn.Module:
    """The package's model, every parameter random."""
    from allegro.model import AllegroModel
    from nequip.utils.global_state import set_global_state

    set_global_state()
    return randomise(AllegroModel(**settings), 1.0)


def main() -> None:
    """Write the file."""
    arrays = {}
    for kind, settings in SETTINGS.items():
        found = reference(build(settings), settings)
        arrays |= {f"{kind}/{name}": array for name, array in found.items()}
    np.savez_compressed(PATH, **arrays)


if __name__ == "__main__":
    main()
