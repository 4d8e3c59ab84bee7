"""DimeNet++: messages that know the direction they come from.

Features belong to directed edges. The message from j to i is updated from the messages that come
in to j, each weighted by a function of its length and of the angle between the two edges: waves in
a sphere around j. Energies of atoms are read from their incoming messages after every block.

Gasteiger, Giri, Margraf, Günnemann, NeurIPS ML for Molecules workshop 2020, arXiv:2011.14115;
Gasteiger, Groß, Günnemann, ICLR 2020, arXiv:2003.03123 (DimeNet).

| paper symbol | name | shape |
|---|---|---|
| m_ji | messages | (n_edges, hidden) |
| e_RBF(d_ji) | rbf | (n_pairs, n_radial) |
| a_SBF(d_kj, α) | sbf, harmonics | (n_pairs, n_spherical, n_radial), (n_edges, n_spherical²) |
| W_SBF | directions | (n_spherical, n_radial, interaction_hidden) |
| h_i | embedding | (n_species, hidden) |
| t_i | readout | (n_atoms,) |

The edge of atom i to neighbour j carries the message from j to i; α is the angle between the
directions in which two messages travel.

Equal, with the same weights, to DimeNetPlusPlus of PyTorch Geometric 2.8.1 (MIT licence), given
complete lists of edges and triplets: its own cap of 32 neighbours makes the energy discontinuous,
and its own triplets leave out every image of atom i among the k, where a periodic structure must
leave out the reverse of edge ji alone. Nothing else in it is discontinuous: an edge at the cutoff
adds to no other edge and to no atom, since both are multiplied by bases that vanish there.

Shared with it, other than in the papers: spherical waves too are multiplied by u(x) / x in place
of u(x), x = d / c; bases lack powers of the cutoff. Our own: radial functions keep the factor
sqrt(2) of DimeNet's eq. 7, which the package leaves to the weights; the last layers of the
readouts start as zero in `paper` alone. Sums over triplets are done at the cost of edges
(`nn.directional`), and the two matrices of the spherical waves are multiplied first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from siliforce.graph import Graph, Topology
from siliforce.models.base import Model, ModelConfig, RawOutput
from siliforce.nn.angular import SphericalBesselBasis, zonal_norms
from siliforce.nn.cutoff import polynomial_envelope
from siliforce.nn.directional import Directions
from siliforce.nn.o3.exact import ExactModule
from siliforce.nn.o3.spherical_harmonics import SphericalHarmonics
from siliforce.nn.radial import BesselBasis
from siliforce.nn.scatter import gather_neighbors, sum_over_neighbors
from siliforce.nn.silu import silu
from siliforce.nn.species_table import SpeciesTable


class DimeNetPPConfig(ModelConfig):
    """Hyper-parameters of DimeNet++."""

    hidden: int = Field(128, gt=0, description="channels of a message")
    out_hidden: int = Field(256, gt=0, description="channels of an atom in the readouts")
    interaction_hidden: int = Field(64, gt=0, description="channels of messages that are summed")
    basis_hidden: int = Field(8, gt=0, description="channels of the bases' projections")
    n_blocks: int = Field(4, gt=0, description="interactions")
    n_radial: int = Field(6, gt=0, description="radial functions (of each degree)")
    n_spherical: int = Field(7, gt=1, description="degrees of the spherical waves")
    n_before_skip: int = Field(1, ge=0, description="residual layers before the skip connection")
    n_after_skip: int = Field(2, ge=0, description="residual layers after it")
    n_readout: int = Field(3, ge=0, description="hidden layers of a readout")
    envelope: int = Field(6, gt=1, description="order p of the polynomial cutoff")
    zero_output: bool = Field(False, description="readouts' last layers start as zero")


class DimeNetPP(Model):
    """Messages that know the direction they come from."""

    name = "dimenet_pp"
    title = "DimeNet++"
    reference = "Gasteiger et al., arXiv:2011.14115 (2020)"
    needs = Topology(reverse_edges=True, pairs=True)
    Config = DimeNetPPConfig
    presets: ClassVar[Mapping[str, ModelConfig]] = {
        "tiny": DimeNetPPConfig(
            cutoff=4.0,
            hidden=8,
            out_hidden=10,
            interaction_hidden=6,
            basis_hidden=4,
            n_blocks=2,
            n_radial=4,
            n_spherical=4,
            n_after_skip=1,
            n_readout=1,
        ),
        "small": DimeNetPPConfig(cutoff=5.0, hidden=64, out_hidden=128, interaction_hidden=32),
        "paper": DimeNetPPConfig(cutoff=6.0, zero_output=True),
    }
    widths = ("hidden", "out_hidden", "interaction_hidden")
    training_presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "small": {"lr": 1e-3, "batch_size": 4, "ema": 0.99},
        "paper": {"lr": 1e-4, "batch_size": 8},
    }

    config: DimeNetPPConfig

    def __init__(
        self, config: DimeNetPPConfig, n_species: int, mean_neighbors: float = 1.0
    ) -> None:
        super().__init__(config, n_species, mean_neighbors)
        # In units of the cutoff.
        self.bessel = BesselBasis(1.0, config.n_radial, trainable=True)
        self.waves = SphericalBesselBasis(config.n_spherical - 1, config.n_radial)
        self.harmonics = SphericalHarmonics(config.n_spherical - 1)
        self.embedding = Embedding(config, n_species)
        self.interactions = nn.ModuleList(Interaction(config) for _ in range(config.n_blocks))
        self.readouts = nn.ModuleList(Readout(config) for _ in range(config.n_blocks + 1))

    def forward(self, graph: Graph) -> RawOutput:
        """Normalised energies of the atoms."""
        assert graph.pair_edges is not None
        lengths = graph.edge_lengths
        harmonics = self.harmonics(graph.edge_vectors / lengths[:, None])
        x = lengths.index_select(0, graph.pair_edges) / self.config.cutoff
        envelope = polynomial_envelope(x, self.config.envelope)
        rbf = self.bessel(x) * envelope[:, None]
        sbf = self.waves(x) * (envelope / x)[:, None, None]
        directions = Directions.build(harmonics, sbf, graph)
        messages = self.embedding(rbf, graph)
        energy = self.readouts[0](messages, rbf, graph)
        for interaction, readout in zip(self.interactions, self.readouts[1:], strict=True):
            messages = interaction(messages, rbf, directions, graph)
            energy = energy + readout(messages, rbf, graph)
        return RawOutput(energy)


class Dense(nn.Linear):
    """`silu(W x + b)`."""

    def __init__(self, n_in: int, n_out: int, bias: bool = True) -> None:
        super().__init__(n_in, n_out, bias)
        glorot_orthogonal(self)

    def forward(self, x: Tensor) -> Tensor:
        """(..., n_in) -> (..., n_out)."""
        return silu(functional.linear(x, self.weight, self.bias))


class Residual(nn.Module):
    """`x + dense(dense(x))`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(Dense(width, width), Dense(width, width))

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        return x + self.layers(x)


class Embedding(nn.Module):
    """First messages, `silu(W [h_i, h_j, silu(W_rbf e_RBF + b)] + b)`."""

    def __init__(self, config: DimeNetPPConfig, n_species: int) -> None:
        super().__init__()
        self.species = SpeciesTable(
            torch.empty(n_species, config.hidden).uniform_(-math.sqrt(3), math.sqrt(3))
        )
        self.radial = nn.Linear(config.n_radial, config.hidden)
        self.mix = nn.Linear(3 * config.hidden, config.hidden)

    def forward(self, rbf: Tensor, graph: Graph) -> Tensor:
        """(n_pairs, n_radial) -> (n_edges, hidden)."""
        assert graph.edge_pairs is not None
        element = self.species(graph.species)
        receive, send, both = self.mix.weight.chunk(3, dim=1)
        pair = functional.linear(silu(self.radial(rbf)), both, self.mix.bias)
        return silu(
            (element @ receive.t()).index_select(0, graph.center)
            + gather_neighbors(element @ send.t(), graph)
            + pair.index_select(0, graph.edge_pairs)
        )


class Interaction(ExactModule):
    """New messages from the messages that come in to the sender."""

    _scale: Tensor

    def __init__(self, config: DimeNetPPConfig) -> None:
        super().__init__()
        hidden, width, basis = config.hidden, config.interaction_hidden, config.basis_hidden
        self.shape = (config.n_spherical, config.n_radial)
        self.radial = nn.Sequential(
            plain_linear(config.n_radial, basis), plain_linear(basis, hidden)
        )
        self.directions = nn.Sequential(
            plain_linear(config.n_spherical * config.n_radial, basis), plain_linear(basis, width)
        )
        self.incoming = Dense(hidden, hidden)
        self.own = Dense(hidden, hidden)
        self.down = Dense(hidden, width, bias=False)
        self.up = Dense(width, hidden, bias=False)
        self.before_skip = nn.Sequential(*(Residual(hidden) for _ in range(config.n_before_skip)))
        self.skip = Dense(hidden, hidden)
        self.after_skip = nn.Sequential(*(Residual(hidden) for _ in range(config.n_after_skip)))
        # Y_l0(θ) = norm P_l(cos θ), P_l comes with 2 l + 1, and the angle is the one between an
        # incoming edge and the reverse of the outgoing one.
        norms = zonal_norms(config.n_spherical - 1)
        scale = [(-1.0) ** degree * n / (2 * degree + 1) for degree, n in enumerate(norms)]
        self.register_constant("_scale", torch.tensor(scale, dtype=torch.float64)[:, None, None])

    def forward(
        self, messages: Tensor, rbf: Tensor, directions: Directions, graph: Graph
    ) -> Tensor:
        """(n_edges, hidden) and the bases -> (n_edges, hidden)."""
        assert graph.edge_pairs is not None
        assert graph.reverse_edges is not None
        radial = self.radial(rbf).index_select(0, graph.edge_pairs)
        incoming = self.down(self.incoming(messages) * radial)
        # What all but this edge bring to its atom is what the reverse edge takes to the next.
        summed = directions.sum(incoming, self.direction_weights())
        reverse = directions.blocks.slot.index_select(0, graph.reverse_edges)
        updated = self.before_skip(self.own(messages) + self.up(summed.index_select(0, reverse)))
        return self.after_skip(messages + self.skip(updated))

    def direction_weights(self) -> Tensor:
        """Both projections of the spherical waves in one, (n_spherical, n_radial, width)."""
        first, second = self.directions.parameters()
        return (second @ first).t().unflatten(0, self.shape) * self._scale


class Readout(nn.Module):
    """Energies of the atoms from their incoming messages."""

    def __init__(self, config: DimeNetPPConfig) -> None:
        super().__init__()
        width = config.out_hidden
        self.radial = plain_linear(config.n_radial, config.hidden)
        self.up = plain_linear(config.hidden, width)
        self.layers = nn.Sequential(*(Dense(width, width) for _ in range(config.n_readout)))
        self.last = plain_linear(width, 1)
        if config.zero_output:
            nn.init.zeros_(self.last.weight)

    def forward(self, messages: Tensor, rbf: Tensor, graph: Graph) -> Tensor:
        """(n_edges, hidden), (n_pairs, n_radial) -> (n_atoms,)."""
        assert graph.edge_pairs is not None
        radial = self.radial(rbf).index_select(0, graph.edge_pairs)
        atoms = self.up(sum_over_neighbors(messages * radial, graph))
        return self.last(self.layers(atoms)).squeeze(1)


def plain_linear(n_in: int, n_out: int) -> nn.Linear:
    """A linear layer without bias, initialised as the authors do."""
    layer = nn.Linear(n_in, n_out, bias=False)
    glorot_orthogonal(layer)
    return layer


@torch.no_grad()
def glorot_orthogonal(layer: nn.Linear) -> None:
    """Orthogonal weights with the variance of Glorot & Bengio; biases zero."""
    nn.init.orthogonal_(layer.weight)
    variance = layer.weight.var() if layer.weight.numel() > 1 else layer.weight.square().sum()
    layer.weight *= (2.0 / (sum(layer.weight.shape) * variance)).sqrt()
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
