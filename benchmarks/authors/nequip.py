"""The authors' NequIP, sizes of our `paper` preset, for `benchmarks/models.py`.

    pip install torch==2.13.0 nequip==0.19.1

As the package is used: eager, weights in float32, positions and edge vectors in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

NUMBERS = (8, 72)


def build(data: dict[str, torch.Tensor]) -> tuple[torch.nn.Module, Callable[..., Any]]:
    """The package's model and `evaluate(training) -> energy, forces`."""
    from nequip.model import NequIPGNNModel  # type: ignore[import-not-found]
    from nequip.utils.global_state import set_global_state  # type: ignore[import-not-found]

    set_global_state()
    model = NequIPGNNModel(
        seed=0,
        model_dtype="float32",
        type_names=["O", "Hf"],
        r_max=6.0,
        num_layers=4,
        l_max=2,
        parity=True,
        num_features=32,
        radial_mlp_depth=2,
        radial_mlp_width=64,
        num_bessels=8,
        bessel_trainable=True,
        polynomial_cutoff_p=6,
        avg_num_neighbors=80.0,
        per_type_energy_scales=1.0,
        per_type_energy_shifts=0.0,
    )
    return model, evaluation(model, data)


def evaluation(model: torch.nn.Module, data: dict[str, torch.Tensor]) -> Callable[..., Any]:
    """`evaluate(training) -> energy, forces` of a model of the nequip framework."""
    batch = {
        "pos": data["positions"],
        "cell": data["cell"],
        "edge_index": torch.stack([data["center"], data["neighbor"]]),
        "edge_cell_shift": data["shifts"],
        "atom_types": (data["numbers"][:, None] == torch.tensor(NUMBERS)).long().argmax(dim=1),
        "batch": data["system"],
        "num_atoms": torch.bincount(data["system"]),
    }

    def evaluate(training: bool) -> tuple[torch.Tensor, torch.Tensor]:
        model.train(training)
        answer = model(batch)
        return answer["total_energy"].squeeze(1).float(), answer["forces"].float()

    return evaluate
