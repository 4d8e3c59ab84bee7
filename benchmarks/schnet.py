"""SchNet, `paper` sizes, against PyTorch Geometric's: time and peak memory on one machine.

    python benchmarks/schnet.py --other ENV/bin/python --threads 1

`ENV` holds torch and torch_geometric (`pip install torch==2.13.0 torch_geometric==2.8.1`). Both
run in processes of their own, in turn, on the same pairs of rattled cubic HfO2 (96 atoms, 6 Å, no
labels needed), in float32, both eager: energy and forces of one frame, and one training step
(energy and force loss, Adam) of a batch of four. The pairs are given; building them is not timed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from side_by_side import main

SIZES = {"hidden": 1024, "n_filters": 256, "n_layers": 5, "n_radial": 200, "cutoff": 6.0}


def siliforce_side(data: dict[str, torch.Tensor]) -> tuple[torch.nn.Module, Callable[..., Any]]:
    """Our model and `evaluate(training) -> energy, forces`."""
    from siliforce.graph.graph import assemble
    from siliforce.models.schnet import SchNet, SchNetConfig
    from siliforce.potential import Potential
    from siliforce.species import Species

    species = Species.from_symbols(["O", "Hf"])
    potential = Potential(SchNet(SchNetConfig(**SIZES), 2), species, [0.0, 0.0])
    graph = assemble(
        numbers=data["numbers"],
        positions=data["positions"],
        sizes=torch.bincount(data["system"]),
        cell=data["cell"],
        pbc=torch.ones(len(data["cell"]), 3, dtype=torch.bool),
        center=data["center"],
        neighbor=data["neighbor"],
        cell_shifts=data["shifts"],
        topology=SchNet.needs,
    )

    def evaluate(training: bool) -> tuple[torch.Tensor, torch.Tensor]:
        answer = potential(graph.moved(data["positions"]), create_graph=training)
        return answer.energy.float(), answer.forces

    return potential, evaluate


def geometric_side(data: dict[str, torch.Tensor]) -> tuple[torch.nn.Module, Callable[..., Any]]:
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


if __name__ == "__main__":
    main(
        Path(__file__),
        "torch_geometric",
        {"siliforce": siliforce_side, "torch_geometric": geometric_side},
        SIZES["cutoff"],
    )
