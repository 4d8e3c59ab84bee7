"""MACE: higher body orders in each message.

Two message-passing layers suffice when each message is of high body order. The neighbours'
features, multiplied by spherical harmonics and learned radial functions, are summed to a density
A of two-body functions; symmetric products of A with itself then give functions of up to
`correlation + 1` bodies at the cost of one atom, not of its pairs or triplets.

Batatia, Kovács, Simm, Ortner, Csányi, NeurIPS 2022, arXiv:2206.07697.

| paper symbol | name | shape |
|---|---|---|
| h_i,kLM | features | (n_atoms, (hidden_l_max + 1)², n_channels) |
| Y_lm(r_ij) | harmonics | (n_edges, (l_max + 1)²) |
| j_n(r_ij) f_cut | basis | (n_pairs, n_radial) |
| R_kη(r_ij) | weights | (n_slots, n_paths * n_channels) |
| A_i,klm | density | (n_atoms, (l_max + 1)², n_channels) |
| B_i | products | (n_atoms, (hidden_l_max + 1)², n_channels) |
| E_i | readouts | (n_atoms,) |

Equal, with the same weights, to ScaleShiftMACE of mace-torch 0.3.16 (MIT licence) with
RealAgnosticResidualInteractionBlock in all layers, whose settings the `paper` preset follows.
Deviations: the symmetric products use an orthonormal basis of the symmetric couplings, where
mace-torch without cuEquivariance keeps couplings that coincide after symmetrisation (23 in place
of 8 for four-body invariants): same functions, same initial distribution, fewer parameters. Scale,
shift and atomic energies belong to the potential.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from siliforce.graph import Graph, Topology
from siliforce.models.base import Model, ModelConfig, RawOutput
from siliforce.nn.cutoff import polynomial_envelope
from siliforce.nn.o3 import (
    Convolution,
    DegreeLinear,
    EdgeBlocks,
    SphericalHarmonics,
    SymmetricContraction,
    UnitMLP,
    natural_paths,
    split_degrees,
)
from siliforce.nn.radial import BesselBasis
from siliforce.nn.scatter import with_ghosts
from siliforce.nn.species_table import SpeciesTable


class MACEConfig(ModelConfig):
    """Hyper-parameters of MACE."""

    n_channels: int = Field(32, gt=0, description="channels of every degree")
    hidden_l_max: int = Field(1, ge=0, description="degree of the features between layers")
    l_max: int = Field(3, ge=0, description="degree of the spherical harmonics")
    correlation: int = Field(3, ge=1, le=3, description="factors in the products, bodies - 1")
    n_layers: int = Field(2, gt=0, description="interactions")
    n_radial: int = Field(8, gt=0, description="Bessel functions")
    envelope: int = Field(5, gt=1, description="order p of the polynomial cutoff")
    radial_hidden: tuple[int, ...] = Field((64, 64, 64), description="widths of radial networks")
    readout_hidden: int = Field(16, gt=0, description="width of the last readout")

    @model_validator(mode="after")
    def _degrees(self) -> MACEConfig:
        if self.hidden_l_max > self.l_max:
            raise ValueError(
                f"hidden_l_max is {self.hidden_l_max}, more than l_max = {self.l_max}; features "
                "are made from the harmonics' degrees and cannot exceed them"
            )
        return self


class MACE(Model):
    """Higher body orders in each message."""

    name = "mace"
    title = "MACE"
    reference = "Batatia et al., NeurIPS 2022, arXiv:2206.07697"
    needs = Topology(pairs=True)
    Config = MACEConfig
    presets: ClassVar[Mapping[str, ModelConfig]] = {
        "tiny": MACEConfig(
            cutoff=4.0, n_channels=4, hidden_l_max=1, l_max=2, radial_hidden=(8,), readout_hidden=4
        ),
        "small": MACEConfig(cutoff=5.0, n_channels=24, hidden_l_max=1, radial_hidden=(64, 64)),
        "paper": MACEConfig(cutoff=6.0, n_channels=32, hidden_l_max=2),
    }
    widths = ("n_channels", "radial_hidden", "readout_hidden")
    training_presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "small": {"lr": 1e-2, "weight_decay": 5e-7, "batch_size": 4, "ema": 0.99},
        "paper": {"lr": 1e-2, "weight_decay": 5e-7, "batch_size": 16, "ema": 0.99},
    }

    config: MACEConfig

    def __init__(self, config: MACEConfig, n_species: int, mean_neighbors: float = 1.0) -> None:
        super().__init__(config, n_species, mean_neighbors)
        self.embedding = SpeciesTable(torch.randn(n_species, config.n_channels) / n_species**0.5)
        self.bessel = BesselBasis(config.cutoff, config.n_radial)
        self.harmonics = SphericalHarmonics(config.l_max)
        last = config.n_layers - 1
        self.layers = nn.ModuleList(
            Layer(
                config,
                n_species,
                l_in=config.hidden_l_max if k else 0,
                l_out=config.hidden_l_max if k < last else 0,
            )
            for k in range(config.n_layers)
        )
        self.readouts = nn.ModuleList(
            UnitMLP([config.n_channels, *([config.readout_hidden] if k == last else []), 1])
            for k in range(config.n_layers)
        )

    def forward(self, graph: Graph) -> RawOutput:
        """Normalised energies of the atoms."""
        assert graph.pair_edges is not None
        blocks = EdgeBlocks.build(graph)
        lengths = graph.edge_lengths
        harmonics = self.harmonics(blocks.deal(graph.edge_vectors / lengths[:, None]))
        lengths = lengths.index_select(0, graph.pair_edges)
        envelope = polynomial_envelope(lengths / self.config.cutoff, self.config.envelope)
        basis = self.bessel(lengths) * envelope[:, None]
        features = self.embedding(graph.species)[:, None]
        energy = torch.zeros_like(features[:, 0, 0])
        for layer, readout in zip(self.layers, self.readouts, strict=True):
            features = layer(features, basis, harmonics, blocks, graph, 1 / self.mean_neighbors)
            energy = energy + readout(features[:, 0]).squeeze(1)
        return RawOutput(energy)


class Layer(nn.Module):
    """One interaction: density of neighbours, its symmetric products, and a skip connection."""

    def __init__(self, config: MACEConfig, n_species: int, l_in: int, l_out: int) -> None:
        super().__init__()
        n = config.n_channels
        paths = natural_paths(l_in, config.l_max, config.l_max)
        self.convolution = Convolution(paths, config.l_max)
        per_degree = self.convolution.paths_per_degree
        self.enter = DegreeLinear([n] * (l_in + 1), n)
        self.radial = UnitMLP([config.n_radial, *config.radial_hidden, len(paths) * n])
        self.leave = DegreeLinear([count * n for count in per_degree], n)
        self.products = SymmetricContraction(config.l_max, l_out, config.correlation, n_species, n)
        self.mix = DegreeLinear([n] * (l_out + 1), n)
        # Self-interaction of the features that the layer keeps, one matrix per species.
        self.skip = SpeciesTable(
            torch.randn(n_species, min(l_in, l_out) + 1, n, n) * (n * n_species) ** -0.5
        )

    def forward(
        self,
        features: Tensor,
        basis: Tensor,
        harmonics: Tensor,
        blocks: EdgeBlocks,
        graph: Graph,
        norm: Tensor,
    ) -> Tensor:
        """New features of the atoms, (n_atoms, (l_out + 1)², n_channels)."""
        entered = with_ghosts(self.enter(split_degrees(features)), graph)
        weights = self.radial.last(blocks.deal_pairs(self.radial.hidden(basis)))
        density = self.leave(self.convolution(entered, weights, harmonics, blocks)) * norm
        products = self.mix(split_degrees(self.products(density, graph.species)))
        return products + self._skip(features, graph.species, products.shape[1])

    def _skip(self, features: Tensor, species: Tensor, dim: int) -> Tensor:
        """Features times the matrix of the atom's species, zero-padded to `dim` components."""
        table = self.skip.weight
        chosen = nn.functional.one_hot(species, table.shape[0]).to(features.dtype)
        kept = []
        for part, matrices in zip(split_degrees(features), table.unbind(1), strict=False):
            every = part @ matrices.transpose(0, 1).flatten(1)
            kept.append(
                (every.unflatten(2, (table.shape[0], -1)) * chosen[:, None, :, None]).sum(2)
            )
        out = torch.cat(kept, dim=1)
        return nn.functional.pad(out, (0, 0, 0, dim - out.shape[1]))
