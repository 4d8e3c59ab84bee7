"""BPNN in the form made for transfer: a layer that moves the features, then shared layers.

Of an atom's symmetry functions each is scaled and shifted on its own (L1: domain transfer), then
four fully connected layers and the output follow, a network for each element. The number of
functions does not change when elements are added, so nothing of a trained network has to be
widened: a new element's network starts as a copy of its host's, and only L1 need be trained anew.

Transfer Learning of Potential Energy Surfaces for Efficient Atomistic Modeling of Doping and
Alloy, IEEE Electron Device Letters (2020). Element-weighted symmetry functions: Gastegger et al.,
J. Chem. Phys. 148, 241709 (2018).

| paper symbol | name | shape |
|---|---|---|
| D_k | columns | (n_atoms, n_columns) |
| y_k = a_k x_k + b_k | slope, offset | (n_species, n_columns) |
| L2 ... L5 | layers | (n_networks, n_in, n_out) |
| L_out | readout | (n_networks, n_in), (n_species,) |

Elements enter the functions in one of two ways. `weighted`: neighbours count with a weight of
their element, which is trained with L1. `channels`: functions are resolved by the elements of the
source, and all elements that come later share one more channel, which is empty in the source; it
starts with the weights of the host, so that a substituent is at first taken for the host.

Deviations from the paper: x_k are the functions less their mean and over their deviation in the
source, and a fixed rotation to principal components (`whitening_floor`, as in BPNN) stands between
L1 and L2; both are linear, so L1 and L2 represent the same functions without them, and are learned
faster. The paper names neither its symmetry functions nor its activation.

Sources are trained jointly after `split`: a species then has a row for each source, with an L1 and
an output bias of its own, and the rows of one element share its network.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from siliforce.graph import Graph, Topology
from siliforce.models.base import Model, ModelConfig, RawOutput
from siliforce.nn.mlp import ACTIVATIONS, Activation
from siliforce.nn.species_linear import SpeciesLinear
from siliforce.nn.species_table import SpeciesTable
from siliforce.nn.symmetry_functions import SymmetryFunctions, n_pairs, shifted_radial
from siliforce.nn.whitening import whitening

PAPER_LAYERS = (200, 100, 50, 50)


class TransferBPNNConfig(ModelConfig):
    """Hyper-parameters of the network for transfer."""

    radial: tuple[tuple[float, float], ...] = Field(
        shifted_radial(6.0, 16),
        description="η [1/Å²], shift [Å] of each G2",
    )
    angular_eta: tuple[float, ...] = Field((0.0004, 0.03, 0.09), description="η of G4, 1/Å²")
    zeta: tuple[int, ...] = Field((1, 2, 4, 8), description="ζ of G4; λ is always +1 and -1")
    hidden: tuple[int, ...] = Field(PAPER_LAYERS, description="widths of L2, L3, ...")
    activation: Activation = "tanh"
    elements: Literal["weighted", "channels"] = Field(
        "weighted", description="how elements enter the functions without changing their number"
    )
    hosts: int = Field(0, ge=0, description="elements of the source; kept by the model itself")
    whitening_floor: float = Field(
        1e-2, gt=0, description="smallest variance that is scaled to one, in units of the columns'"
    )


class TransferBPNN(Model):
    """Behler-Parrinello networks with a domain-transfer layer."""

    name = "bpnn_transfer"
    title = "BPNN for transfer"
    reference = "IEEE Electron Device Lett. (2020), transfer learning of potential energy surfaces"
    needs = Topology(triplets="unordered", closed_triplets=True)
    Config = TransferBPNNConfig
    presets: ClassVar[Mapping[str, ModelConfig]] = {
        "tiny": TransferBPNNConfig(
            cutoff=4.0,
            radial=((0.05, 0.0), (0.5, 0.0), (2.0, 2.5)),
            angular_eta=(0.01, 0.1),
            zeta=(1, 4),
            hidden=(16, 12, 8, 8),
            whitening_floor=0.1,
        ),
        "small": TransferBPNNConfig(cutoff=5.0, radial=shifted_radial(5.0, 16), activation="silu"),
        "paper": TransferBPNNConfig(cutoff=6.0),
    }
    widths = ("hidden",)
    training_presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "small": {"lr": 5e-3, "batch_size": 4, "ema": 0.99},
        "paper": {"lr": 2e-3, "batch_size": 4},
    }

    networks: Tensor

    def __init__(
        self, config: TransferBPNNConfig, n_species: int, mean_neighbors: float = 1.0
    ) -> None:
        config = config.model_copy(update={"hosts": config.hosts or n_species})
        super().__init__(config, n_species, mean_neighbors)
        self.config: TransferBPNNConfig = config
        self.symmetry_functions = SymmetryFunctions(
            config.cutoff, config.radial, config.angular_eta, config.zeta
        )
        n_host, n = self._n_columns(config.hosts), self.n_columns
        self.slope = SpeciesTable(torch.ones(n_species, n))
        self.offset = SpeciesTable(torch.zeros(n_species, n))
        if config.elements == "weighted":
            self.element_weight = SpeciesTable(1 + 0.5 * torch.arange(n_species))
        self.mean = SpeciesTable(torch.zeros(n_species, n), trainable=False)
        self.deviation = SpeciesTable(torch.ones(n_species, n), trainable=False)
        identity = torch.eye(n).expand(n_species, -1, -1)
        self.rotation = SpeciesTable(identity, trainable=False)
        self.fitted = SpeciesTable(torch.zeros(n_species), trainable=False)
        self.layers = nn.ModuleList(
            SpeciesLinear(n_species, n_in, n_out, config.activation)
            for n_in, n_out in pairwise([n, *config.hidden])
        )
        with torch.no_grad():
            first = self._linear()[0].weight.weight
            first.mul_(math.sqrt(n / n_host))
            first[:, n_host:] = 0.0
        self.activation = ACTIVATIONS[config.activation]
        last = config.hidden[-1]
        # Small: random layers on whitened features have forces far above any that occur.
        self.readout = SpeciesTable(torch.randn(n_species, last) * 0.1 / math.sqrt(last))
        self.readout_bias = SpeciesTable(torch.zeros(n_species))
        self.register_buffer("networks", torch.arange(n_species), persistent=False)

    @property
    def n_columns(self) -> int:
        """Symmetry functions, whatever elements are added."""
        channels = self.config.elements == "channels"
        return self._n_columns(self.config.hosts + 1 if channels else 1)

    def _linear(self) -> list[SpeciesLinear]:
        return [layer for layer in self.layers if isinstance(layer, SpeciesLinear)]

    def _n_columns(self, n_channels: int) -> int:
        if self.config.elements == "weighted":
            n_channels = 1
        functions = self.symmetry_functions
        return n_channels * functions.n_radial + n_pairs(n_channels) * functions.n_angular

    def forward(self, graph: Graph) -> RawOutput:
        """Normalised energies of the atoms; every network sees every atom, as in BPNN."""
        species, own = graph.species, self.networks[graph.species]
        x = (self.descriptors(graph) - self.mean(own)) / self.deviation(own)
        hidden = self.slope(species) * x + self.offset(species)
        hidden = hidden.expand(self.rotation.weight.shape[0], -1, -1) @ self.rotation.weight
        for layer in self.layers:
            hidden = self.activation(layer(hidden))
        energy = torch.einsum("nak,nk->na", hidden, self.readout.weight)
        energy = energy.gather(0, own[None, :]).squeeze(0)
        return RawOutput(energy + self.readout_bias(species))

    def descriptors(self, graph: Graph) -> Tensor:
        """Symmetry functions, (n_atoms, n_columns): those of the source's elements first."""
        if self.config.elements == "weighted":
            weight = self.element_weight(graph.species).to(graph.edge_vectors.dtype)
            alike = graph.replace(species=torch.zeros_like(graph.species))
            g2, g4 = self.symmetry_functions(alike, 1, weight)
            return torch.cat([g2.flatten(1), g4.flatten(1)], dim=1)
        hosts = self.config.hosts
        channel = graph.replace(species=graph.species.clamp(max=hosts))
        g2, g4 = self.symmetry_functions(channel, hosts + 1)
        cut = n_pairs(hosts)
        parts = (g2[:, :hosts], g4[:, :cut], g2[:, hosts:], g4[:, cut:])
        return torch.cat([part.flatten(1) for part in parts], dim=1)

    # -- constants ----------------------------------------------------------------------------

    @torch.no_grad()
    def fit_constants(self, graphs: Iterable[Graph]) -> None:
        """Fit mean, deviation and rotation of every network that has none yet, in float64."""
        n, n_networks = self._n_columns(self.config.hosts), len(self.fitted.weight)
        count = torch.zeros(n_networks, dtype=torch.float64)
        first = torch.zeros(n_networks, n, dtype=torch.float64)
        second = first.new_zeros(n_networks, n, n)
        for graph in graphs:
            exact = graph.replace(edge_vectors=graph.edge_vectors.double())
            columns, own = self.descriptors(exact)[:, :n], self.networks[graph.species]
            for k in range(n_networks):
                rows = columns[own == k].cpu()
                count[k] += len(rows)
                first[k] += rows.sum(0)
                second[k] += rows.T @ rows
        for k in range(n_networks):
            if count[k] >= 2 and not self.fitted.weight[k] > 0:
                self._fit(k, first[k] / count[k], second[k] / count[k])

    def _fit(self, k: int, mean: Tensor, square: Tensor) -> None:
        """Constants of one network from the mean of its columns and of their products."""
        covariance, n = square - mean[:, None] * mean, len(mean)
        deviation = torch.maximum(covariance.diagonal().clamp(min=0).sqrt(), 1e-4 * mean.abs())
        deviation = torch.where(deviation > 0, deviation, torch.ones_like(deviation))
        rotation = deviation[:, None] * whitening(mean, covariance, self.config.whitening_floor)
        self.mean.weight[k, :n] = mean.to(self.mean.weight)
        self.deviation.weight[k, :n] = deviation.to(self.deviation.weight)
        self.deviation.weight[k, n:] = deviation[self._twins(0)].to(self.deviation.weight)
        self.rotation.weight[k, :n, :n] = rotation.to(self.rotation.weight)
        self.fitted.weight[k] = 1.0

    def _twins(self, host: int) -> Tensor:
        """The column of a host for each column of the channel of later elements."""
        if self.config.elements == "weighted":
            return torch.zeros(0, dtype=torch.long)
        functions, hosts = self.symmetry_functions, self.config.hosts
        low, high = (torch.tensor([f(host, k) for k in range(hosts)]) for f in (min, max))
        pair = torch.cat([high * (high + 1) // 2 + low, torch.tensor([n_pairs(host + 1) - 1])])
        radial = host * functions.n_radial + torch.arange(functions.n_radial)
        angular = pair[:, None] * functions.n_angular + torch.arange(functions.n_angular)
        return torch.cat([radial, hosts * functions.n_radial + angular.flatten()])

    # -- transfer -----------------------------------------------------------------------------

    def part_of(self, name: str) -> str:
        """The paper's layers: L1 is `input`, then `L2` to `L5`, the output is `readout`."""
        child, _, rest = name.partition(".")
        if child == "layers":
            return f"L{int(rest.partition('.')[0]) + 2}"
        return "readout" if child.startswith("readout") else "input"

    def fit_new_constants(self, graphs: Iterable[Graph]) -> None:
        """Nothing: the features of a new element are measured as its host's were."""

    @torch.no_grad()
    def extend_species(self, sources: Sequence[int]) -> None:
        """Learn new species; the first ones to come make the host's channel that of all later."""
        if self.n_species == self.config.hosts and self.config.elements == "channels":
            twins, n = self._twins(sources[0]), self._n_columns(self.config.hosts)
            first = self._linear()[0].weight.weight
            through = self.rotation.weight[:, :n, :n] @ first[:, :n]
            first[:, n:] = through[:, twins]
            self.deviation.weight[:, n:] = self.deviation.weight[:, twins]
            self.slope.weight[:, n:] = self.slope.weight[:, twins]
        super().extend_species(sources)
        self.networks = torch.arange(self.n_species, device=self.networks.device)

    def split(self, rows: Sequence[int]) -> None:
        """Give several sources an L1 and an output bias each; L2 to L5 and the output are shared.

        Args:
            rows: the species that each new row is a copy of; its network stays that species'.
        """
        for table in self._own():
            table.select(rows)
        self.networks = self.networks[list(rows)]
        self.n_species = len(rows)

    @torch.no_grad()
    def merge(self, members: Sequence[Sequence[int]]) -> None:
        """Undo `split`: each species gets the mean of the L1 and the bias of some rows.

        Args:
            members: rows of each species.
        """
        for table in self._own():
            means = torch.stack([table.weight[list(rows)].mean(0) for rows in members])
            table.select(range(len(members)))
            table.weight.copy_(means)
        self.n_species = len(members)
        self.networks = torch.arange(self.n_species, device=self.networks.device)

    def _own(self) -> list[SpeciesTable]:
        """What a source has for itself."""
        own = [self.slope, self.offset, self.readout_bias]
        return [*own, self.element_weight] if self.config.elements == "weighted" else own
