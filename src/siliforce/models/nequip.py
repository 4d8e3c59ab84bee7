"""NequIP: messages that are tensors.

Features of an atom are scalars, vectors and tensors of either parity. In each layer those of the
neighbours are multiplied by spherical harmonics of the edge, weighted by learned functions of its
length, and summed; a gate then makes the result nonlinear without spoiling how it rotates.

Batzner, Musaelian, Sun, Geiger, Mailoa, Kornbluth, Molinari, Smidt, Kozinsky,
Nat. Commun. 13, 2453 (2022), arXiv:2101.03164.

| paper symbol | name | shape |
|---|---|---|
| Z_i embedding | types | (n_species, n_channels) |
| V_acm^(l,p) | features | (n_atoms, n_components, n_channels) |
| Y_m^(l)(r_ij) | harmonics | (n_slots, (l_max + 1)²) |
| B(r_ij) | basis | (n_pairs, n_radial) |
| R(r_ij) | weights | (n_slots, n_paths * n_channels) |
| L_acm^(l,p) | density | per irrep (n_atoms, 2 l + 1, n_paths * n_channels) |
| E_i | readout | (n_atoms,) |

Equal, with the same weights, to NequIPGNNModel of nequip 0.19.1 (MIT licence). Its form differs
from the paper's of 2022: the first layer has no self-connection, so that an isolated atom has
zero energy; sums over neighbours are divided by the root of their mean number; the readout is one
linear layer. The `paper` preset is its `num_layers=4, l_max=2, parity=True, num_features=32,
radial_mlp_depth=2, radial_mlp_width=64, num_bessels=8, bessel_trainable=True,
polynomial_cutoff_p=6`.

Deviations: features that no later layer can turn into a scalar (12 of the 48 couplings of the
`paper` preset lead to one, among them all to odd scalars) are left out, which changes nothing but
the time; the second moments of the activations are exact, where e3nn samples them and is up to
0.2 % off; radial weights are drawn from a normal distribution, not a uniform one. One number of
channels serves all degrees. Scale, shift and atomic energies belong to the potential.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from siliforce.graph import Graph, Topology
from siliforce.models.base import Model, ModelConfig, RawOutput
from siliforce.nn.cutoff import polynomial_envelope
from siliforce.nn.o3 import (
    SCALAR,
    Convolution,
    DegreeLinear,
    EdgeBlocks,
    Gate,
    Irrep,
    SphericalHarmonics,
    TypedLinear,
    UnitMLP,
    all_irreps,
    coupling_paths,
    layers_of_irreps,
    natural_irreps,
    split_irreps,
)
from siliforce.nn.radial import BesselBasis
from siliforce.nn.scatter import with_ghosts
from siliforce.nn.species_table import SpeciesTable


class NequIPConfig(ModelConfig):
    """Hyper-parameters of NequIP."""

    n_channels: int = Field(32, gt=0, description="channels of every degree and parity")
    l_max: int = Field(2, ge=0, description="degree of features and spherical harmonics")
    parity: bool = Field(True, description="features of either parity, not the natural one alone")
    n_layers: int = Field(4, gt=0, description="interactions")
    n_radial: int = Field(8, gt=0, description="Bessel functions")
    trainable_radial: bool = Field(True, description="whether their frequencies are learned")
    envelope: int = Field(6, gt=1, description="order p of the polynomial cutoff")
    radial_hidden: tuple[int, ...] = Field((64, 64), description="widths of radial networks")

    def irreps(self) -> list[tuple[Irrep, ...]]:
        """Features before, between and after the layers."""
        allowed = all_irreps(self.l_max) if self.parity else natural_irreps(self.l_max)
        return layers_of_irreps((SCALAR,), allowed, self.l_max, self.n_layers)


class NequIP(Model):
    """Messages that are tensors."""

    name = "nequip"
    title = "NequIP"
    reference = "Batzner et al., Nat. Commun. 13, 2453 (2022)"
    needs = Topology(pairs=True)
    Config = NequIPConfig
    presets: ClassVar[Mapping[str, ModelConfig]] = {
        # Four layers are the fewest that have a use for features of unnatural parity.
        "tiny": NequIPConfig(cutoff=4.0, n_channels=3, radial_hidden=(6,)),
        "small": NequIPConfig(cutoff=5.0, n_channels=16, n_layers=3, radial_hidden=(32, 32)),
        "paper": NequIPConfig(cutoff=6.0),
    }
    widths = ("n_channels", "radial_hidden")
    training_presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "small": {"lr": 5e-3, "batch_size": 4, "ema": 0.99},
        "paper": {"lr": 5e-3, "batch_size": 16, "ema": 0.99},
    }

    config: NequIPConfig

    def __init__(self, config: NequIPConfig, n_species: int, mean_neighbors: float = 1.0) -> None:
        super().__init__(config, n_species, mean_neighbors)
        irreps = config.irreps()
        self.types = SpeciesTable(torch.randn(n_species, config.n_channels))
        self.bessel = BesselBasis(config.cutoff, config.n_radial, config.trainable_radial)
        self.harmonics = SphericalHarmonics(config.l_max)
        self.layers = nn.ModuleList(
            Layer(config, irreps[k], irreps[k + 1], connected=k > 0) for k in range(config.n_layers)
        )
        self.readout = UnitMLP([config.n_channels, 1])

    def forward(self, graph: Graph) -> RawOutput:
        """Normalised energies of the atoms."""
        assert graph.pair_edges is not None
        blocks = EdgeBlocks.build(graph)
        lengths = graph.edge_lengths
        harmonics = self.harmonics(blocks.deal(graph.edge_vectors / lengths[:, None]))
        lengths = lengths.index_select(0, graph.pair_edges)
        envelope = polynomial_envelope(lengths / self.config.cutoff, self.config.envelope)
        # The authors' Bessel functions have 2 / r_c where others have its root.
        basis = self.bessel(lengths) * (envelope * (2 / self.config.cutoff) ** 0.5)[:, None]
        types, norm = self.types.weight, self.mean_neighbors.rsqrt()
        features = self.types(graph.species)[:, None]
        for layer in self.layers:
            features = layer(features, types, basis, harmonics, blocks, graph, norm)
        return RawOutput(self.readout(features[:, 0]).squeeze(1))


class Layer(nn.Module):
    """One interaction: tensor convolution over neighbours, self-connection, gate."""

    def __init__(
        self,
        config: NequIPConfig,
        inputs: Sequence[Irrep],
        outputs: Sequence[Irrep],
        connected: bool,
    ) -> None:
        super().__init__()
        n = config.n_channels
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)
        self.gate = Gate(outputs)
        n_gates = self.gate.n_gates * n
        paths = coupling_paths(inputs, config.l_max, outputs)
        self.convolution = Convolution(paths, config.l_max)
        fan_in = [count * n for count in self.convolution.paths_per_output]
        sizes = [config.n_radial, *config.radial_hidden, len(paths) * n]
        self.enter = DegreeLinear([n] * len(inputs), n)
        self.radial = UnitMLP(sizes, gain=2**0.5)
        self.leave = DegreeLinear(fan_in, n)
        self.leave_gates = DegreeLinear(fan_in[:1], n_gates) if n_gates else None
        shared = sum(irrep in self.outputs for irrep in self.inputs)
        self.skip = TypedLinear(shared, n, n, n) if connected else None
        self.skip_gates = TypedLinear(1, n, n, n_gates) if connected and n_gates else None

    def forward(
        self,
        features: Tensor,
        types: Tensor,
        basis: Tensor,
        harmonics: Tensor,
        blocks: EdgeBlocks,
        graph: Graph,
        norm: Tensor,
    ) -> Tensor:
        """New features of the atoms, (n_atoms, n_components, n_channels)."""
        parts = split_irreps(features, self.inputs)
        entered = with_ghosts(self.enter(parts) * norm, graph)
        weights = self.radial.last(blocks.deal_pairs(self.radial.hidden(basis)))
        density = self.convolution(entered, weights, harmonics, blocks)
        mixed = self.leave(density)
        gates = mixed[:, :0]
        if self.skip is not None:
            mixed = mixed + self._skip(parts, types, graph.species)
        if self.leave_gates is not None:
            gates = self.leave_gates(density[:1])
            if self.skip_gates is not None:
                gates = gates + self.skip_gates(parts[:1], types, graph.species)[0]
            gates = gates.unflatten(2, (-1, mixed.shape[2])).squeeze(1)
        return self.gate(mixed, gates)

    def _skip(self, parts: Sequence[Tensor], types: Tensor, species: Tensor) -> Tensor:
        """The self-connection, zero where an output is not among the inputs."""
        assert self.skip is not None
        known = [x for x, i in zip(parts, self.inputs, strict=True) if i in self.outputs]
        own = iter(self.skip(known, types, species))
        zero = parts[0][:, :1] * 0
        return torch.cat(
            [next(own) if i in self.inputs else zero.expand(-1, i.dim, -1) for i in self.outputs],
            dim=1,
        )
