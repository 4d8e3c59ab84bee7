"""PyTorch Geometric's SchNet: `pip install torch==2.13.0 torch_geometric==2.8.1`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

SIZES = {"hidden": 1024, "n_filters": 256, "n_layers": 5, "n_radial": 200, "cutoff": 6.0}


def build(data: dict[str, torch.Tensor]) -> tuple[torch.nn.Module, Callable[..., Any]]:
    """PyTorch Geometric's model and `evaluate(training) -> energy, forces`."""
    from torch_geometric.nn.models import SchNet  # type: ignore[import-not-found]

    center, neighbor = data["center"], data["neighbor"]
    cell = data["cell"][data["system"][center]]
    translation = torch.einsum("es,esx->ex", data["shifts"], cell).float()

    def pairs(positions: torch.Tensor, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        vectors = positions[neighbor] + translation - positions[center]
        return torch.stack([neighbor, center]), vectors.norm(dim=-1)

    model = SchNet(
        hidden_channels=SIZES["hidden"],
        num_filters=SIZES["n_filters"],
        num_interactions=SIZES["n_layers"],
        num_gaussians=SIZES["n_radial"],
        cutoff=SIZES["cutoff"],
        interaction_graph=pairs,
    )

    def evaluate(training: bool) -> tuple[torch.Tensor, torch.Tensor]:
        positions = data["positions"].float().requires_grad_()
        energy = model(data["numbers"], positions, data["system"])
        (gradient,) = torch.autograd.grad(energy.sum(), positions, create_graph=training)
        return energy.squeeze(1), -gradient

    return model, evaluate
