"""SCN: messages between functions on the sphere, computed in the frames of edges.

Every atom carries functions on the sphere around it, as coefficients of spherical harmonics. A
message turns the functions of source and target into the frame of their edge, where a plain
network may act on all coefficients of order |m| <= 1, and turns the answer back. Received and old
functions then pass a network point by point on the sphere. Energy and force are integrals over
directions: forces are predicted, not derived.

Zitnick, Das, Kolluru, Lan, Shuaibi, Sriram, Ulissi, Wood, NeurIPS 2022, arXiv:2206.14331.

| paper symbol | name | shape |
|---|---|---|
| s_i^(k) | features | (n_atoms, (l_max + 1)², n_channels) |
| R_st | frames | (n_edges, 3, 3) |
| D_R | EdgeMessages.from_*, leave | (n_blocks, .., ..) |
| φ | turns | (n_taps, 3) |
| F_e | MessageNetwork | (n_atoms, (l_max + 1)², n_channels) |
| G, G^-1 | values, project of SphereNetwork | (n_points, (l_max + 1)²) |
| F_c | SphereNetwork | (n_atoms, (l_max + 1)², n_channels) |
| E_i, f_i | Readout | (n_atoms,), (n_atoms, 3) |

With `smooth=False`, as in `paper`, and the same weights and frames this equals
SphericalChannelNetwork of fairchem-core 1.10.0 (MIT licence) at m_max = 1; its three "taps" are
four turns. Deviations of that form: frames follow from the edge where the package draws them at
random; all neighbours as far as the `n_near`-th get near messages, where the package cuts through
shells; an atom without neighbours has no force. Initial weights keep the size of the layers'
outputs, where the package's shrink by orders of magnitude.

The same numbers come with less work: rows of Wigner matrices are harmonics and their slopes; a map
of coefficients in the frame is `A + cos φ P + sin φ Q` for all turns φ, of products made once per
atom; linear layers act on coefficients, not on points, and both bands of the paper become one.

The default form is smooth. Near messages fade into far ones with the distance, not with the rank,
and far ones vanish at the cutoff. Networks in the frame see the coefficients m = 0 and +1 alone:
turns about the edge show them those of m = -1, and mirror images become equal. Energy and force
are integrated by Gauss's rule.

Symmetries hold approximately, as well as sampling resolves the functions. Errors over the size of
forces, root mean square, `tiny` with random weights (in brackets: those of messages doubled):

| | smooth | authors' form |
|---|---|---|
| rotation | 1e-5 (1e-2) | 1e-2 (2e-1) |
| inversion | 5e-6 (9e-3) | 9e-2 (1) |
| roll of the frames | 4e-9 (3e-3) | 2e-5 (1e-1) |
| jump at the cutoff | none | 0.3 |
| jump as ranks change | none | 0.2 |

Rotation errors fall with samples (smooth, 8, 18, 32, 72: 5e-1, 1e-2, 3e-5, 1e-5; authors', 16, 64,
256: 1e-1, 1e-2, 2e-3), errors by the roll with turns (doubled weights, 4, 8, 12: 3e-3, 6e-5,
2e-6).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from siliforce.graph import Graph, Topology
from siliforce.models.base import Model, ModelConfig, RawOutput
from siliforce.nn.cutoff import polynomial_envelope
from siliforce.nn.mlp import unit_gain
from siliforce.nn.o3.edge_messages import BLOCK, EdgeMessages
from siliforce.nn.o3.exact import ExactModule
from siliforce.nn.o3.frames import FrameHarmonics, bisector_frames
from siliforce.nn.o3.sphere import (
    gauss_points,
    harmonics_at,
    weighted_spiral_points,
)
from siliforce.nn.o3.sphere_network import SphereNetwork
from siliforce.nn.pieces import in_pieces
from siliforce.nn.radial import GaussianBasis
from siliforce.nn.scatter import with_ghosts
from siliforce.nn.species_table import SpeciesTable

TRAINING = {"optimizer": "adamw", "amsgrad": True, "lr": 4e-4, "batch_size": 6, "ema": 0.999}


class SCNConfig(ModelConfig):
    """Hyper-parameters of SCN."""

    n_channels: int = Field(32, gt=0, description="functions on the sphere per atom")
    n_layers: int = Field(3, gt=0, description="interactions")
    l_max: int = Field(4, ge=1, description="degree of the functions, and of near messages")
    hidden: int = Field(32, gt=0, description="hidden units of near messages")
    far_l_max: int = Field(3, ge=1, description="degree of far messages")
    far_hidden: int = Field(16, gt=0, description="hidden units of far messages")
    smooth: bool = Field(
        True,
        description="near messages fade into far ones with the distance, and these at the cutoff; "
        "messages know no handedness; false: the authors' form, whose energy jumps",
    )
    near_cutoff: float = Field(4.0, gt=0, description="where near messages end if smooth, Å")
    n_near: int = Field(12, gt=0, description="neighbours with near messages if not smooth")
    n_taps: int = Field(4, ge=4, description="turns about the edge over which messages average")
    n_bands: Literal[1, 2] = Field(2, description="bands of degrees in the sum of messages")
    n_samples: int = Field(
        72, gt=1, description="directions in which functions are read out; 2 n² if smooth"
    )
    n_radial: int = Field(250, gt=1, description="Gaussians between 0 and the cutoff")
    radial_width: float = Field(2.0, gt=0, description="of a Gaussian, in spacings")
    n_basis: int = Field(6, gt=0, description="numbers that describe distance and elements")

    @model_validator(mode="after")
    def _consistent(self) -> SCNConfig:
        if self.far_l_max > self.l_max:
            raise ValueError(
                f"far_l_max is {self.far_l_max}, more than l_max = {self.l_max}, the degree of "
                "the features"
            )
        if self.smooth and self.n_samples != 2 * round((self.n_samples / 2) ** 0.5) ** 2:
            raise ValueError(f"n_samples is {self.n_samples}; a smooth model has 2 n² of them")
        return self


class SCN(Model):
    """Messages between functions on the sphere, computed in the frames of edges."""

    name = "scn"
    title = "SCN"
    reference = "Zitnick et al., NeurIPS 2022, arXiv:2206.14331"
    force_mode = "direct"
    needs = Topology(pairs=True)
    Config = SCNConfig
    presets: ClassVar[Mapping[str, ModelConfig]] = {
        "tiny": SCNConfig(
            cutoff=4.0,
            near_cutoff=3.0,
            n_channels=8,
            n_layers=2,
            l_max=3,
            far_l_max=2,
            hidden=8,
            far_hidden=4,
            n_radial=40,
        ),
        "small": SCNConfig(cutoff=5.0),
        "paper": SCNConfig(
            cutoff=6.0,
            n_channels=64,
            n_layers=4,
            l_max=6,
            hidden=64,
            far_l_max=4,
            far_hidden=16,
            smooth=False,
            n_samples=64,
            n_radial=300,
        ),
    }
    widths = ("n_channels", "hidden", "far_hidden")
    training_presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "small": TRAINING,
        "paper": TRAINING,
    }

    config: SCNConfig

    def __init__(self, config: SCNConfig, n_species: int, mean_neighbors: float = 1.0) -> None:
        super().__init__(config, n_species, mean_neighbors)
        self.embedding = SpeciesTable(torch.randn(n_species, config.n_channels))
        self.gaussians = GaussianBasis(config.cutoff, config.n_radial, config.radial_width)
        self.harmonics = FrameHarmonics(config.l_max)
        self.layers = nn.ModuleList(Layer(config, n_species) for _ in range(config.n_layers))
        self.readout = Readout(config)
        unit_variance(self)

    def forward(self, graph: Graph) -> RawOutput:
        """Normalised energies of the atoms and forces on them."""
        lengths = graph.edge_lengths
        near_weight, far_weight = self.weights(lengths, graph)
        rows = self.harmonics(self.frames(graph.edge_vectors / lengths[:, None]))
        near = EdgeMessages.build(graph, rows, near_weight, self.config.l_max)
        far = EdgeMessages.build(graph, rows, far_weight, self.config.far_l_max)
        assert graph.pair_edges is not None
        radial = self.gaussians(lengths.index_select(0, graph.pair_edges))
        zonal = self.embedding(graph.species)[:, None]
        features = functional.pad(zonal, (0, 0, 0, (self.config.l_max + 1) ** 2 - 1))
        for k, layer in enumerate(self.layers):
            update = layer(features, radial, near, far, graph)
            features = features + update if k else update
        energy, force = self.readout(features)
        has_neighbors = (graph.edge_ptr.diff() > 0)[:, None]
        return RawOutput(energy, torch.where(has_neighbors, force, torch.zeros_like(force)))

    def frames(self, unit_vectors: Tensor) -> Tensor:
        """Rotations that take each edge to the y axis, (n_edges, 3, 3); to be replaced in tests."""
        return bisector_frames(unit_vectors)

    def weights(self, lengths: Tensor, graph: Graph) -> tuple[Tensor, Tensor]:
        """Factors of the near and of the far message of each edge, (n_edges,)."""
        config = self.config
        if config.smooth:
            near = polynomial_envelope(lengths / config.near_cutoff, 6)
            return near, (1 - near) * polynomial_envelope(lengths / config.cutoff, 6)
        near = nearest_shells(lengths.detach(), graph, config.n_near).to(lengths.dtype)
        return near, 1 - near


def unit_variance(module: nn.Module) -> None:
    """Initialise all linear layers so that their outputs are about as large as their inputs."""
    gain = unit_gain("silu")
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=gain * layer.in_features**-0.5)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def nearest_shells(lengths: Tensor, graph: Graph, n_near: int) -> Tensor:
    """Which edges are no longer than the `n_near`-th shortest of their atom; (n_edges,).

    Neighbours at one distance are all near or all far, whatever the order of the atoms: lengths
    that differ by less than 1e-4 of themselves count as one.
    """
    if not len(lengths):
        return lengths > 0
    by_length = torch.argsort(lengths)
    order = by_length[torch.argsort(graph.center[by_length], stable=True)]
    last = torch.minimum(graph.edge_ptr[:-1] + n_near, graph.edge_ptr[1:]) - 1
    farthest = lengths[order[last.clamp(min=0)]]
    return lengths <= farthest[graph.center] * (1 + 1e-4)


class Layer(nn.Module):
    """One interaction: messages of both resolutions, summed, and a network on the sphere."""

    def __init__(self, config: SCNConfig, n_species: int) -> None:
        super().__init__()
        self.edges = EdgeNetwork(config, n_species)
        self.near = MessageNetwork(config, config.l_max, config.hidden)
        self.far = MessageNetwork(config, config.far_l_max, config.far_hidden)
        self.sphere = SphereNetwork(config.l_max, config.n_channels, config.n_bands)

    def forward(
        self, features: Tensor, radial: Tensor, near: EdgeMessages, far: EdgeMessages, graph: Graph
    ) -> Tensor:
        """Update of the features, (n_atoms, (l_max + 1)², n_channels)."""
        described = self.edges(radial, graph)
        received = self.near(features, described, near, graph)
        distant = self.far(features, described, far, graph)
        rest = received.shape[1] - distant.shape[1]
        return self.sphere(features, received + functional.pad(distant, (0, 0, 0, rest)))


class EdgeNetwork(nn.Module):
    """A few numbers of each edge, from its length and the elements at its ends."""

    def __init__(self, config: SCNConfig, n_species: int) -> None:
        super().__init__()
        n = config.n_basis
        self.distance = nn.Linear(config.n_radial, n)
        self.source = SpeciesTable(torch.empty(n_species, n).uniform_(-1e-3, 1e-3))
        self.target = SpeciesTable(torch.empty(n_species, n).uniform_(-1e-3, 1e-3))
        self.mix = nn.Linear(n, n)

    def forward(self, radial: Tensor, graph: Graph) -> Tensor:
        """(n_pairs, n_radial) -> (n_edges, n_basis)."""
        assert graph.edge_pairs is not None
        distance = self.distance(radial).index_select(0, graph.edge_pairs)
        source = with_ghosts(self.source(graph.species), graph)[graph.neighbor]
        elements = source + self.target(graph.species)[graph.center]
        return functional.silu(self.mix(functional.silu(elements + distance)))


class MessageNetwork(ExactModule):
    """A network in the frame of every edge, averaged over turns about the edge.

    Attributes:
        enter: weights of the rows of source and target, (2, n_rows, n_channels, n_hidden).
    """

    _turns: Tensor

    def __init__(self, config: SCNConfig, l_max: int, n_hidden: int) -> None:
        super().__init__()
        n_channels = config.n_channels
        self.l_max, self.n_channels, self.mirror = l_max, n_channels, config.smooth
        n_rows = (2 if self.mirror else 3) * l_max + 1
        self._n_zero = (l_max + 1) * n_channels
        self.radial = nn.Linear(config.n_basis, n_hidden)
        enter = torch.randn(2, n_rows, n_channels, n_hidden)
        self.enter = nn.Parameter(enter * (2 * n_rows * n_channels) ** -0.5)
        self.enter_bias = nn.Parameter(torch.zeros(n_hidden))
        self.hidden = nn.Linear(n_hidden, n_hidden)
        self.leave = nn.Linear(n_hidden, n_rows * n_channels)
        angle = torch.arange(config.n_taps, dtype=torch.float64) * (2 * torch.pi / config.n_taps)
        turns = torch.stack([torch.ones_like(angle), angle.cos(), angle.sin()], dim=1)
        # Quarter turns exactly.
        self.register_constant("_turns", turns.where(turns.abs() > 1e-15, torch.zeros_like(turns)))

    def forward(
        self, features: Tensor, described: Tensor, messages: EdgeMessages, graph: Graph
    ) -> Tensor:
        """Sum of the messages to each atom.

        Args:
            features: (n_atoms, at least (l_max + 1)², n_channels).
            described: numbers of each edge, (n_edges, n_basis).
            messages: where they go.
            graph: for neighbours.

        Returns:
            (n_atoms, (l_max + 1)², n_channels).
        """
        entered = self._entered(features, described, messages, graph)
        hidden = functional.silu(self.hidden(entered)).transpose(0, 1)
        # The bias as weight of a constant input: a matrix product is faster without.
        hidden = functional.pad(hidden, (0, 1), value=1.0).unflatten(0, (-1, BLOCK))
        weight = torch.cat([self.leave.weight, self.leave.bias[:, None]], dim=1)
        width = BLOCK * hidden.shape[2] * self.leave.out_features
        parameters = (weight, self._turns)
        sums = in_pieces(self._left, width, (hidden, *messages.leave), parameters)
        n_atoms = features.shape[0]
        out = sums.new_zeros(n_atoms, *sums.shape[1:])
        return out.index_add(0, messages.targets.owner, sums)

    def _entered(
        self, features: Tensor, described: Tensor, messages: EdgeMessages, graph: Graph
    ) -> Tensor:
        """First hidden layer at every turn, (n_taps, n_slots, n_hidden)."""
        source, target = self._products(features)
        source = with_ghosts(source, graph)
        at_target = messages.from_targets @ target.index_select(0, messages.targets.owner)
        at_source = messages.from_sources @ source.index_select(0, messages.sources.owner)
        n_hidden = target.shape[2]
        at_source = at_source.view(-1, 3, n_hidden).index_select(0, messages.source_slot)
        parts = (at_target.view(-1, 3, n_hidden) + at_source).transpose(0, 1)
        turned = (self._turns @ parts.reshape(3, -1)).unflatten(1, (-1, n_hidden))
        padded = torch.cat([described, described.new_zeros(1, described.shape[1])])
        radial = functional.silu(self.radial(padded.index_select(0, messages.edge)))
        return functional.silu(turned + self.enter_bias) * radial

    def _products(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Coefficients times weights of m = 0, -1, +1, (n_atoms, (l_max + 1)² * 3, n_hidden) of
        atoms as sources and as targets.
        """
        n, (_, n_rows, n_channels, n_hidden) = self.l_max + 1, self.enter.shape
        zero, others = self.enter.split([n, n_rows - n], dim=1)
        missing = 1 if self.mirror else 0
        others = others.unflatten(1, (-1, self.l_max))
        others = functional.pad(others, (0, 0, 0, 0, 1, 0, missing, 0))
        table = torch.cat([zero[:, None], others], dim=1)  # (2, 3, n, n_channels, n_hidden)
        weights = table.permute(2, 3, 0, 1, 4).reshape(n, n_channels, -1)
        products = [
            features[:, degree**2 : (degree + 1) ** 2] @ weights[degree] for degree in range(n)
        ]
        both = torch.cat(products, dim=1).unflatten(2, (2, 3, n_hidden))
        source, target = both.unbind(2)
        return source.flatten(1, 2), target.flatten(1, 2)

    def _left(
        self,
        hidden: Tensor,
        zero: Tensor,
        minus: Tensor,
        plus: Tensor,
        weight: Tensor,
        turns: Tensor,
    ) -> Tensor:
        """Messages of each block, summed, in the frame of all.

        Args:
            hidden: (n_blocks, BLOCK, n_taps, n_hidden + 1).
            zero, minus, plus: `leave` of the messages.
            weight: of the last layer, (n_rows * n_channels, n_hidden + 1).
            turns: 1, cos φ, sin φ of each tap, (n_taps, 3).

        Returns:
            (n_blocks, (l_max + 1)², n_channels).
        """
        n_slots, n_taps, n_zero = zero.shape[0] * BLOCK, len(turns), self._n_zero
        x = hidden.flatten(0, 1).transpose(0, 1).flatten(0, 1)
        values = functional.silu(x @ weight[:n_zero].t())
        mean = values.view(n_taps, n_slots, n_zero).mean(0)
        values = functional.silu(x @ weight[n_zero:].t())
        turned = (turns[:, 1:].t() / n_taps) @ values.view(n_taps, values.numel() // n_taps)
        at_plus, at_minus = turned.view(2, n_slots, values.shape[1])
        if not self.mirror:
            half = n_zero - self.n_channels
            (a, b), (c, d) = at_plus.split(half, dim=1), at_minus.split(half, dim=1)
            at_minus, at_plus = d + a, b - c
        out = zero.transpose(1, 2) @ mean.view(*zero.shape[:2], self.n_channels)
        for matrix, rows in ((minus, at_minus), (plus, at_plus)):
            shape = (*matrix.shape[:2], self.n_channels)
            out = torch.baddbmm(out, matrix.transpose(1, 2), rows.reshape(shape))
        return out


class Readout(ExactModule):
    """Energy and force of an atom: integrals over the sphere of a function of its features."""

    _harmonics: Tensor
    _weights: Tensor
    _weighted_points: Tensor

    def __init__(self, config: SCNConfig) -> None:
        super().__init__()
        if config.smooth:
            points, weights = gauss_points(round((config.n_samples / 2) ** 0.5))
        else:
            points = weighted_spiral_points(config.n_samples)
            weights = torch.full((config.n_samples,), 1 / config.n_samples, dtype=torch.float64)
        self.register_constant("_harmonics", harmonics_at(points, config.l_max))
        self.register_constant("_weights", weights)
        self.register_constant("_weighted_points", weights[:, None] * points)
        self.energy = Head(config.n_channels)
        # A constant is no force where points balance.
        self.force = Head(config.n_channels, bias=not config.smooth)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(n_atoms, (l_max + 1)², n_channels) -> (n_atoms,) and (n_atoms, 3)."""
        energy = self.energy(features, self._harmonics) @ self._weights
        return energy, self.force(features, self._harmonics) @ self._weighted_points


class Head(nn.Module):
    """A number in every direction."""

    def __init__(self, n: int, bias: bool = True) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(n, n), nn.Linear(n, n)
        self.third = nn.Linear(n, 1, bias=bias)

    def forward(self, features: Tensor, harmonics: Tensor) -> Tensor:
        """Features and harmonics in each direction -> (n_atoms, n_directions)."""
        x = functional.silu(harmonics @ (features @ self.first.weight.t()) + self.first.bias)
        return self.third(functional.silu(self.second(x))).squeeze(2)
