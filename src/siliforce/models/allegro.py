"""Allegro: strictly local tensors on edges.

Every edge carries scalars and tensors. In each layer its tensors are multiplied by those of all
edges of the same atom, weighted by what their scalars say, and the invariant part of the product
is fed to a network that updates the scalars. No atom sees farther than the cutoff, so that the
model can be cut into spatial domains; the energy is a sum over edges.

Musaelian, Batzner, Johansson, Sun, Owen, Kornbluth, Kozinsky, Nat. Commun. 14, 579 (2023),
arXiv:2204.05249.

| paper symbol | name | shape |
|---|---|---|
| x^{ij,0} before its last layer | hidden | (n_edges, embed_hidden[-1]) |
| x^{ij,L} before its last layer | sources | (n_edges, latent_hidden) each |
| w^{ij,L} | weights | (n_edges, (l_max + 1) * n_channels) |
| V^{ij,L}_{n,l,p} | tensors | (n_blocks, n_channels, BLOCK, n_components) |
| Y^{ij}_{l,p} | harmonics | (n_slots, (l_max + 1)²) |
| sum_k w^{ik,L} Y^{ik} | surroundings | (n_atoms, (l_max + 1)², n_channels) |
| E_ij | energy | (n_edges,) |

Equal, with the same weights, to AllegroModel of nequip-allegro 0.8.3 (MIT licence) with
TwoBodyBesselScalarEmbed. Its form differs from the paper's of 2023: the scalars of all layers are
concatenated, not added up with learned weights; elements enter by a product of embeddings of both
ends with the projected Bessel functions; the envelope is applied to these alone. The paper's
two-body network [64, 128, 256, 512] becomes an embedding of 64, hidden layers of 256 and 256 (the
package has one width for all) and 512 scalars; its latent networks [512] one hidden layer of 512,
and its edge energy network [128] one of 128.

A network's last layer is linear, and so is the first of the next: both are multiplied out before
edges come in, so that scalars are never written down. That halves the work per edge and changes
rounding only. Deviations: weights are drawn from a normal distribution, not a uniform one; scale,
shift and atomic energies belong to the potential.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from siliforce.graph import Graph, Topology
from siliforce.models.base import Model, ModelConfig, RawOutput
from siliforce.nn.cutoff import polynomial_envelope
from siliforce.nn.o3 import (
    BLOCK,
    EdgeBlocks,
    EnvironmentProduct,
    Irrep,
    SphericalHarmonics,
    UnitMLP,
    all_irreps,
    environment,
    layers_of_irreps,
    natural_irreps,
)
from siliforce.nn.radial import BesselBasis
from siliforce.nn.scatter import gather_neighbors, sum_over_neighbors
from siliforce.nn.species_table import SpeciesTable

GAIN = 2**0.5
"""The authors' factor after each silu."""


class AllegroConfig(ModelConfig):
    """Hyper-parameters of Allegro."""

    n_scalars: int = Field(512, gt=0, description="scalar features of an edge and layer")
    n_channels: int = Field(32, gt=0, description="channels of the tensor features")
    l_max: int = Field(2, ge=0, description="degree of tensors and spherical harmonics")
    parity: bool = Field(True, description="tensors of either parity, not the natural one alone")
    n_layers: int = Field(3, gt=0, description="tensor products")
    n_radial: int = Field(8, gt=0, description="Bessel functions")
    trainable_radial: bool = Field(True, description="whether their frequencies are learned")
    envelope: int = Field(6, gt=1, description="order p of the polynomial cutoff")
    n_embedding: int = Field(
        64, gt=1, multiple_of=2, description="products of element and distance embeddings"
    )
    embed_hidden: tuple[int, ...] = Field(
        (256, 256), min_length=1, description="widths of the two-body network"
    )
    latent_hidden: int = Field(512, gt=0, description="width of each layer's network")
    readout_hidden: int = Field(128, gt=0, description="width of the readout")

    def irreps(self) -> list[tuple[Irrep, ...]]:
        """Tensors before, between and after the layers."""
        natural = natural_irreps(self.l_max)
        allowed = all_irreps(self.l_max) if self.parity else natural
        return layers_of_irreps(natural, allowed, self.l_max, self.n_layers)


class Allegro(Model):
    """Strictly local tensors on edges."""

    name = "allegro"
    title = "Allegro"
    reference = "Musaelian et al., Nat. Commun. 14, 579 (2023)"
    needs = Topology(pairs=True)
    Config = AllegroConfig
    presets: ClassVar[Mapping[str, ModelConfig]] = {
        "tiny": AllegroConfig(
            cutoff=4.0,
            n_scalars=6,
            n_channels=3,
            n_embedding=6,
            embed_hidden=(8, 8),
            latent_hidden=8,
            readout_hidden=5,
        ),
        "small": AllegroConfig(
            cutoff=5.0,
            n_scalars=64,
            n_channels=16,
            n_layers=2,
            n_embedding=32,
            embed_hidden=(64, 64),
            latent_hidden=64,
            readout_hidden=32,
        ),
        "paper": AllegroConfig(cutoff=6.0),
    }
    widths = (
        "n_scalars",
        "n_channels",
        "n_embedding",
        "embed_hidden",
        "latent_hidden",
        "readout_hidden",
    )
    training_presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "small": {"lr": 5e-3, "batch_size": 4, "ema": 0.99},
        "paper": {"lr": 5e-3, "batch_size": 16, "ema": 0.99},
    }

    config: AllegroConfig

    def __init__(self, config: AllegroConfig, n_species: int, mean_neighbors: float = 1.0) -> None:
        super().__init__(config, n_species, mean_neighbors)
        n, n_layers, half = config.n_scalars, config.n_layers, config.n_embedding // 2
        n_weights = (config.l_max + 1) * config.n_channels
        self.bessel = BesselBasis(config.cutoff, config.n_radial, config.trainable_radial)
        self.harmonics = SphericalHarmonics(config.l_max)
        self.center_types = SpeciesTable(torch.randn(n_species, half))
        self.neighbor_types = SpeciesTable(torch.randn(n_species, half))
        self.radial = UnitMLP([config.n_radial, config.n_embedding])
        self.embed = UnitMLP([config.n_embedding, *config.embed_hidden, n], GAIN)
        self.tensor_weights = UnitMLP([n, n_weights])
        self.project = UnitMLP([n, n + n_weights])
        irreps = config.irreps()
        self.products = nn.ModuleList(
            EnvironmentProduct(irreps[k], config.l_max, irreps[k + 1], config.n_channels)
            for k in range(n_layers)
        )
        self.latents = nn.ModuleList(
            UnitMLP([n * (k + 1) + config.n_channels, config.latent_hidden, n_out], GAIN)
            for k in range(n_layers)
            for n_out in [n + n_weights if k < n_layers - 1 else n]
        )
        self.readout = UnitMLP([n * (n_layers + 1), config.readout_hidden, 1], GAIN)

    def part_of(self, name: str) -> str:
        """A layer is its tensor product and its latent network."""
        child, _, rest = name.partition(".")
        if child in ("products", "latents"):
            return f"layers.{rest.partition('.')[0]}"
        return super().part_of(name)

    def forward(self, graph: Graph) -> RawOutput:
        """Normalised energies of the atoms."""
        n, norm = self.config.n_scalars, self.mean_neighbors.rsqrt()
        blocks = EdgeBlocks.build(graph)
        directions = graph.edge_vectors / graph.edge_lengths[:, None]
        harmonics = self.harmonics(blocks.deal(directions))
        hidden = self.embed.hidden(self._two_body(graph))
        embed, (project,) = self.embed.matrices()[-1], self.project.matrices()
        (tensor_weights,) = self.tensor_weights.matrices()
        # Scalars of layer k are sources[k] @ maps[k], which is never evaluated.
        sources, maps = [hidden], [embed @ project[:, :n]]
        weights = hidden @ (embed @ project[:, n:])
        tensors = self._tensors(hidden @ (embed @ tensor_weights), harmonics, blocks)
        for product, latent in zip(self.products, self.latents, strict=True):
            assert isinstance(latent, UnitMLP)
            dealt = self._dealt(weights, blocks)
            surroundings = environment(dealt, harmonics, blocks, len(graph.species)) * norm
            tensors = product(tensors, surroundings, blocks)
            invariant = tensors[..., 0].transpose(1, 2).flatten(0, 1)
            enter, leave = latent.matrices()
            own = invariant.index_select(0, blocks.slot) @ enter[n * len(maps) :]
            sources.append(functional.silu(_combine(own, sources, maps, enter)))
            maps.append(leave[:, :n])
            weights = sources[-1] @ leave[:, n:]
        enter, leave = self.readout.matrices()
        start = hidden.new_zeros(len(hidden), enter.shape[1])
        energy = functional.silu(_combine(start, sources, maps, enter)) @ leave
        # Half of the derivative of an edge's energy is that of its reverse: the authors' root of 2.
        return RawOutput(sum_over_neighbors(energy.squeeze(1), graph) * (norm * 0.5**0.5))

    def _two_body(self, graph: Graph) -> Tensor:
        """Products of embeddings of distance and elements, (n_edges, n_embedding)."""
        assert graph.pair_edges is not None
        assert graph.edge_pairs is not None
        lengths, cutoff = graph.edge_lengths.index_select(0, graph.pair_edges), self.config.cutoff
        # The authors' Bessel functions have r_c / π where others have the root of 2 / r_c.
        factor = polynomial_envelope(lengths / cutoff, self.config.envelope) * (
            cutoff**1.5 / (2**0.5 * torch.pi)
        )
        radial = self.radial(self.bessel(lengths) * factor[:, None])
        center = self.center_types(graph.species).index_select(0, graph.center)
        neighbor = gather_neighbors(self.neighbor_types(graph.species), graph)
        return radial.index_select(0, graph.edge_pairs) * torch.cat([center, neighbor], dim=1)

    def _dealt(self, weights: Tensor, blocks: EdgeBlocks) -> Tensor:
        """Weights of the harmonics in slots, (n_slots, l_max + 1, n_channels)."""
        return blocks.deal(weights).unflatten(1, (self.config.l_max + 1, -1))

    def _tensors(self, weights: Tensor, harmonics: Tensor, blocks: EdgeBlocks) -> Tensor:
        """Weighted harmonics, (n_blocks, n_channels, BLOCK, (l_max + 1)²)."""
        degree = [d for d in range(self.config.l_max + 1) for _ in range(2 * d + 1)]
        columns = torch.tensor(degree, device=weights.device)
        values = self._dealt(weights, blocks).transpose(1, 2).index_select(2, columns)
        values = values * harmonics[:, None]
        return values.unflatten(0, (-1, BLOCK)).transpose(1, 2)


def _combine(
    own: Tensor, sources: Sequence[Tensor], maps: Sequence[Tensor], enter: Tensor
) -> Tensor:
    """`own` plus the concatenated scalars times the first rows of `enter`."""
    for k, (source, to_scalars) in enumerate(zip(sources, maps, strict=True)):
        n = to_scalars.shape[1]
        own = torch.addmm(own, source, to_scalars @ enter[k * n : (k + 1) * n])
    return own
