"""SchNet: continuous-filter convolutions.

Every atom carries a feature vector that starts as an embedding of its element. In each
interaction the features of the neighbours are multiplied by filters that a network generates
from the distance, and summed: a convolution whose filter is continuous in space. Distances alone
enter, so energies are invariant and angles are seen through the environments of the neighbours.

Schütt, Sauceda, Kindermans, Tkatchenko, Müller, J. Chem. Phys. 148, 241722 (2018);
Schütt et al., NeurIPS 2017, arXiv:1706.08566.

| paper symbol | name | shape |
|---|---|---|
| x_i^l | features | (n_atoms, hidden) |
| a_Z | embedding | (n_species, hidden) |
| e_k(r_ij) | gaussians | (n_pairs, n_radial) |
| W^l(r_ij) | filters | (n_pairs, n_filters) |
| v_i^l | update | (n_atoms, hidden) |
| E_i | readout | (n_atoms,) |

Deviations from the paper, all shared with the implementation of PyTorch Geometric 2.8.1
(MIT licence), which this model equals with the same weights: filters are multiplied by the cosine
cutoff, so that forces are continuous where a neighbour enters; the filter network has no
activation after its second layer; features inside the convolution have `n_filters` channels.
Our own: a filter is computed once for both directions of a pair.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from siliforce.graph import Graph, Topology
from siliforce.models.base import Model, ModelConfig, RawOutput
from siliforce.nn.cutoff import cosine_cutoff
from siliforce.nn.mlp import MLP
from siliforce.nn.radial import GaussianBasis
from siliforce.nn.scatter import gather_neighbors, sum_over_neighbors
from siliforce.nn.species_table import SpeciesTable


class SchNetConfig(ModelConfig):
    """Hyper-parameters of SchNet."""

    hidden: int = Field(128, gt=1, description="features of an atom")
    n_filters: int = Field(128, gt=0, description="channels of the convolution")
    n_layers: int = Field(4, gt=0, description="interactions")
    n_radial: int = Field(50, gt=1, description="Gaussians between 0 and the cutoff")


class SchNet(Model):
    """Continuous-filter convolutions."""

    name = "schnet"
    title = "SchNet"
    reference = "Schütt et al., J. Chem. Phys. 148, 241722 (2018)"
    needs = Topology(pairs=True)
    Config = SchNetConfig
    presets: ClassVar[Mapping[str, ModelConfig]] = {
        "tiny": SchNetConfig(cutoff=4.0, hidden=12, n_filters=10, n_layers=2, n_radial=12),
        "small": SchNetConfig(cutoff=5.0, hidden=128, n_filters=128, n_layers=4, n_radial=50),
        "paper": SchNetConfig(cutoff=6.0, hidden=1024, n_filters=256, n_layers=5, n_radial=200),
    }
    widths = ("hidden", "n_filters")
    training_presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "small": {"lr": 1e-3, "batch_size": 8, "ema": 0.99},
        "paper": {"lr": 1e-4, "batch_size": 16},
    }

    def __init__(self, config: SchNetConfig, n_species: int, mean_neighbors: float = 1.0) -> None:
        super().__init__(config, n_species, mean_neighbors)
        self.embedding = SpeciesTable(torch.randn(n_species, config.hidden))
        self.gaussians = GaussianBasis(config.cutoff, config.n_radial)
        self.interactions = nn.ModuleList(Interaction(config) for _ in range(config.n_layers))
        self.readout = MLP([config.hidden, config.hidden // 2, 1], "shifted_softplus")
        xavier_uniform(self)

    def forward(self, graph: Graph) -> RawOutput:
        """Normalised energies of the atoms."""
        assert graph.pair_edges is not None
        lengths = torch.linalg.vector_norm(
            graph.edge_vectors.index_select(0, graph.pair_edges), dim=1
        )
        basis = self.gaussians(lengths)
        envelope = cosine_cutoff(lengths, self.config.cutoff)[:, None]
        features = self.embedding(graph.species)
        for interaction in self.interactions:
            features = features + interaction(features, basis, envelope, graph)
        return RawOutput(self.readout(features).squeeze(1))


class Interaction(nn.Module):
    """`v_i = W₃ ssp(W₂ Σ_j (W₁ x_j) ∘ W(r_ij))`, the atom-wise layers with biases but the first."""

    def __init__(self, config: SchNetConfig) -> None:
        super().__init__()
        width = config.n_filters
        self.filters = MLP([config.n_radial, width, width], "shifted_softplus")
        self.enter = nn.Linear(config.hidden, width, bias=False)
        self.leave = MLP([width, config.hidden, config.hidden], "shifted_softplus")

    def forward(self, features: Tensor, basis: Tensor, envelope: Tensor, graph: Graph) -> Tensor:
        """(n_atoms, hidden) and functions of the pairs' lengths -> update, (n_atoms, hidden)."""
        assert graph.edge_pairs is not None
        filters = (self.filters(basis) * envelope).index_select(0, graph.edge_pairs)
        messages = gather_neighbors(self.enter(features), graph) * filters
        return self.leave(sum_over_neighbors(messages, graph))


def xavier_uniform(module: nn.Module) -> None:
    """Initialise all linear layers as the authors do; biases zero."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
