"""DimeNet++ of PyTorch Geometric, `paper` sizes: the authors' side of the speed comparison.

The environment: `pip install torch==2.13.0 torch_geometric==2.8.1 scipy sympy`.

Edges and triplets are given and made before the clock starts: the package has no periodic ones,
and its triplets leave out every image of the receiving atom where only the reverse edge must go.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def build(data: dict[str, torch.Tensor]) -> tuple[torch.nn.Module, Callable[..., Any]]:
    """The package's model and `evaluate(training) -> energy, forces`, float32."""
    from torch_geometric.nn.models import DimeNetPlusPlus  # type: ignore[import-not-found]

    model = DimeNetPlusPlus(
        hidden_channels=128,
        out_channels=1,
        num_blocks=4,
        int_emb_size=64,
        basis_emb_size=8,
        out_emb_channels=256,
        num_spherical=7,
        num_radial=6,
        cutoff=6.0,
        envelope_exponent=5,
        num_before_skip=1,
        num_after_skip=2,
        num_output_layers=3,
        output_initializer="glorot_orthogonal",
    )
    center, neighbor, system = data["center"], data["neighbor"], data["system"]
    cell = data["cell"][system[center]]
    translation = torch.einsum("es,esx->ex", data["shifts"], cell).float()
    incoming, outgoing = triplets(center, neighbor, data["shifts"])
    n_atoms, n_systems = len(system), len(data["cell"])

    def evaluate(training: bool) -> tuple[torch.Tensor, torch.Tensor]:
        positions = data["positions"].float().requires_grad_()
        towards = positions[center] - positions[neighbor] - translation
        lengths = towards.norm(dim=1)
        first, second = towards[outgoing], towards[incoming]
        sine = torch.linalg.cross(first, second).norm(dim=1)
        angle = torch.atan2(sine, (first * second).sum(dim=1))
        rbf = model.rbf(lengths)
        sbf = model.sbf(lengths, angle, incoming)
        x = model.emb(data["numbers"], rbf, center, neighbor)
        energy = model.output_blocks[0](x, rbf, center, num_nodes=n_atoms)
        layers = zip(model.interaction_blocks, model.output_blocks[1:], strict=True)
        for interaction, output in layers:
            x = interaction(x, rbf, sbf, incoming, outgoing)
            energy = energy + output(x, rbf, center, num_nodes=n_atoms)
        of_systems = energy.new_zeros(n_systems).index_add(0, system, energy.squeeze(1))
        (gradient,) = torch.autograd.grad(of_systems.sum(), positions, create_graph=training)
        return of_systems, -gradient

    return model, evaluate


def triplets(
    center: torch.Tensor, neighbor: torch.Tensor, shifts: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Edges (k to j, j to i) of all triplets, from edges sorted by center."""
    count = torch.bincount(center, minlength=int(neighbor.max()) + 1)
    start = count.cumsum(0) - count
    edges = torch.arange(len(center))
    outgoing = edges.repeat_interleave(count[neighbor])
    rank = torch.arange(len(outgoing)) - (count[neighbor].cumsum(0) - count[neighbor])[outgoing]
    incoming = start[neighbor[outgoing]] + rank
    same = neighbor[incoming] == center[outgoing]
    back = same & (shifts[incoming] + shifts[outgoing] == 0).all(dim=1)
    return incoming[~back], outgoing[~back]
