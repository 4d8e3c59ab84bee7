"""Forces and stress from the gradient of the energy with respect to edge vectors.

One path for training, ASE, molecular dynamics and LAMMPS. With `r_ij = r_j - r_i + S @ cell` and
`g_ij = dE/dr_ij`:

    F_i    = sum_j g_ij - sum_j g_ji
    stress = sym(sum_ij r_ij (x) g_ij) / V

The second holds because a homogeneous strain acts on every edge vector alike, whatever image the
neighbour is; the first because an atom moves the edges it centers backwards and those that end
on it forwards. Positions and cells never enter the model.
"""

from __future__ import annotations

import torch
from torch import Tensor

from siliforce.errors import ConfigError
from siliforce.graph import Graph


def edge_gradient(energy: Tensor, edge_vectors: Tensor, create_graph: bool) -> Tensor:
    """dE/dr of every edge.

    Args:
        energy: anything that sums to the energy, eV.
        edge_vectors: the leaf it was computed from, (n_edges, 3), Å.
        create_graph: keep the graph, for a loss on forces or stress.

    Returns:
        (n_edges, 3), eV/Å; zeros if the energy does not depend on the edges.

    Raises:
        ConfigError: called under `torch.inference_mode`, where nothing can be derived.
    """
    if not torch.compiler.is_compiling() and torch.is_inference_mode_enabled():
        raise ConfigError(
            "forces are derivatives and cannot be computed under torch.inference_mode; "
            "use torch.no_grad instead"
        )
    if not energy.requires_grad:
        return torch.zeros_like(edge_vectors)
    (gradient,) = torch.autograd.grad(
        energy.sum(), edge_vectors, create_graph=create_graph, allow_unused=True
    )
    return torch.zeros_like(edge_vectors) if gradient is None else gradient


def forces_from_edges(gradient: Tensor, graph: Graph) -> Tensor:
    """Forces on the atoms, (n_atoms, 3), eV/Å."""
    forces = gradient.new_zeros(graph.n_atoms, 3)
    forces = forces.index_add(0, graph.center, gradient)
    return forces.index_add(0, graph.neighbor, -gradient)


def stress_from_edges(gradient: Tensor, graph: Graph) -> Tensor:
    """Stress of every system, positive under tension, (n_systems, 3, 3), eV/Å³.

    NaN for systems that are not periodic in all three directions: they have no volume.
    """
    outer = graph.edge_vectors[:, :, None] * gradient[:, None, :]
    virial = gradient.new_zeros(graph.n_systems, 3, 3)
    virial = virial.index_add(0, graph.system_index[graph.center], outer)
    virial = 0.5 * (virial + virial.transpose(1, 2))
    periodic = graph.pbc.all(dim=1)
    volume = torch.linalg.det(graph.cell).abs()
    volume = torch.where(periodic, volume, torch.ones_like(volume)).to(gradient.dtype)
    stress = virial / volume[:, None, None]
    return torch.where(periodic[:, None, None], stress, torch.full_like(stress, torch.nan))
