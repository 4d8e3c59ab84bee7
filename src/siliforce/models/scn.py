"""SCN: messages between functions on the sphere, computed in the frames of edges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from siliforce.graph import Graph, Topology
from siliforce.models.base import Model, ModelConfig, RawOutput
from siliforce.nn.cutoff import polynomial_envelope
from siliforce.nn.mlp import unit_gain
from siliforce.nn.o3.exact import ExactModule
from siliforce.nn.o3.frames import FrameHarmonics, bisector_frames
from siliforce.nn.o3.sphere import gauss_points, harmonics_at, sphere_grid, spiral_points
from siliforce.nn.pieces import in_pieces
from siliforce.nn.radial import GaussianBasis
from siliforce.nn.scatter import with_ghosts
from siliforce.nn.segments import Segments
from siliforce.nn.species_table import SpeciesTable

BLOCK = 8
"""Edges of one atom that share a matrix product."""


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
    needs = Topology()
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
    training_presets: ClassVar[Mapping[str, Mapping[str, Any]]] = dict.fromkeys(
        ("small", "paper"),
        {"optimizer": "adamw", "amsgrad": True, "lr": 4e-4, "batch_size": 6, "ema": 0.999},
    )

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
        near = Messages.build(graph, rows, near_weight, self.config.l_max)
        far = Messages.build(graph, rows, far_weight, self.config.far_l_max)
        radial = self.gaussians(lengths)
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


@dataclass(frozen=True)
class Messages:
    """Where messages of one resolution come from and go to, and the rotations on the way.

    In the frame of its edge a function on the sphere has coefficients f_0, f_-, f_+ of order
    m = 0, -1, +1. A turn about the edge by φ leaves f_0 and mixes the others, so that every linear
    map of all of them is `A + cos φ P + sin φ Q`. Edges are dealt into blocks of one target atom,
    and once more into blocks of one source atom.

    Attributes:
        targets, sources: the two ways of dealing.
        edge: of each target slot, (n_slots,); one past the last in unused ones.
        source_slot: slot among the sources of each target slot, (n_slots,).
        from_targets, from_sources: (A, P, Q) in terms of products of the atom's coefficients with
            weights for m = 0, -1, +1, (n_blocks, block * 3, n_components * 3).
        leave: from rows (m, l) in the edge's frame to components, times the message's weight,
            (n_blocks, block * n_rows, n_components).
    """

    targets: Segments
    sources: Segments
    edge: Tensor
    source_slot: Tensor
    from_targets: Tensor
    from_sources: Tensor
    leave: Tensor

    @classmethod
    def build(cls, graph: Graph, rows: Tensor, weight: Tensor, l_max: int) -> Messages:
        """Deal the edges whose weight is not zero.

        Args:
            graph: the edges.
            rows: of Wigner matrices, (n_edges, 3, at least (l_max + 1)²).
            weight: of the messages, (n_edges,).
            l_max: degree of the messages.
        """
        rows, n_atoms = rows[:, :, : (l_max + 1) ** 2], graph.species.shape[0]
        edges = torch.arange(graph.n_edges, device=weight.device)
        # A compiler wants sizes that do not depend on data: there all edges are computed.
        if not torch.compiler.is_compiling():
            edges = weight.detach().nonzero().squeeze(1)
            rows, weight = rows[edges], weight[edges]
        targets = Segments.build(graph.center[edges], n_atoms, BLOCK)
        sources = Segments.build(graph.neighbor[edges], n_atoms, BLOCK)
        zero, minus, plus = rows.unbind(1)
        none = torch.zeros_like(zero)
        products = (zero, none, none, none, minus, plus, none, -plus, minus)
        enter = torch.stack(products, dim=2).unflatten(2, (3, 3)).transpose(1, 2).flatten(2)
        order, mask = message_rows(l_max, rows)
        leave = rows.index_select(1, order) * mask * weight[:, None, None]
        return cls(
            targets,
            sources,
            edge=torch.cat([edges, edges.new_full((1,), graph.n_edges)])[targets.row],
            source_slot=torch.cat([sources.slot, edges.new_zeros(1)])[targets.row],
            from_targets=targets.deal(enter),
            from_sources=sources.deal(enter),
            leave=targets.deal(leave),
        )


def message_rows(l_max: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of a message: (m = 0, l = 0 ..), (m = -1, l = 1 ..), (m = +1, l = 1 ..).

    Returns:
        0, 1 or 2 for m = 0, -1, +1 of each row, and which components have its degree,
        (n_rows, (l_max + 1)²).
    """
    degrees = torch.arange(l_max + 1, device=like.device)
    order = torch.arange(3, device=like.device).repeat_interleave(l_max + 1)
    of_row = degrees.repeat(3)
    keep = [*range(l_max + 1), *range(l_max + 2, 2 * l_max + 2), *range(2 * l_max + 3, 3 * l_max + 3)]
    of_component = degrees.repeat_interleave(2 * degrees + 1)
    index = torch.tensor(keep, device=like.device)
    return order[index], (of_row[index][:, None] == of_component).to(like.dtype)


class Layer(nn.Module):
    """One interaction: messages of both resolutions, summed, and a network on the sphere."""

    def __init__(self, config: SCNConfig, n_species: int) -> None:
        super().__init__()
        self.edges = EdgeNetwork(config, n_species)
        self.near = MessageNetwork(config, config.l_max, config.hidden)
        self.far = MessageNetwork(config, config.far_l_max, config.far_hidden)
        self.sphere = SphereNetwork(config)

    def forward(
        self, features: Tensor, radial: Tensor, near: Messages, far: Messages, graph: Graph
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
        """(n_edges, n_radial) -> (n_edges, n_basis)."""
        source = with_ghosts(self.source(graph.species), graph)[graph.neighbor]
        elements = source + self.target(graph.species)[graph.center]
        return functional.silu(self.mix(functional.silu(elements + self.distance(radial))))


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
        self, features: Tensor, described: Tensor, messages: Messages, graph: Graph
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
        hidden = functional.silu(self.hidden(entered)).unflatten(0, (-1, BLOCK))
        parameters = (self.leave.weight, self.leave.bias, self._turns)
        width = BLOCK * hidden.shape[2] * self.leave.out_features
        sums = in_pieces(self._left, width, (hidden, messages.leave), parameters)
        n_atoms = features.shape[0]
        out = sums.new_zeros(n_atoms, *sums.shape[1:])
        return out.index_add(0, messages.targets.owner, sums)

    def _entered(
        self, features: Tensor, described: Tensor, messages: Messages, graph: Graph
    ) -> Tensor:
        """First hidden layer at every turn, (n_slots, n_taps, n_hidden)."""
        source, target = self._products(features)
        source = with_ghosts(source, graph)
        at_target = messages.from_targets @ target.index_select(0, messages.targets.owner)
        at_source = messages.from_sources @ source.index_select(0, messages.sources.owner)
        n_hidden = target.shape[2]
        at_source = at_source.view(-1, 3, n_hidden).index_select(0, messages.source_slot)
        parts = at_target.view(-1, 3, n_hidden) + at_source
        padded = torch.cat([described, described.new_zeros(1, described.shape[1])])
        radial = functional.silu(self.radial(padded.index_select(0, messages.edge)))
        return functional.silu(self._turns @ parts + self.enter_bias) * radial[:, None]

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
        self, hidden: Tensor, leave: Tensor, weight: Tensor, bias: Tensor, turns: Tensor
    ) -> Tensor:
        """Messages of each block, summed, in the frame of all.

        Args:
            hidden: (n_blocks, BLOCK, n_taps, n_hidden).
            leave: (n_blocks, BLOCK * n_rows, (l_max + 1)²).
            weight, bias: of the last layer.
            turns: 1, cos φ, sin φ of each tap, (n_taps, 3).

        Returns:
            (n_blocks, (l_max + 1)², n_channels).
        """
        values = functional.silu(functional.linear(hidden.flatten(0, 1), weight, bias))
        mean, cos, sin = ((turns.t() / len(turns)) @ values).unbind(1)
        n = (self.l_max + 1) * self.n_channels
        half = n - self.n_channels
        if self.mirror:
            rows = torch.cat([mean[:, :n], sin[:, n:], cos[:, n:]], dim=1)
        else:
            minus = cos[:, n : n + half] + sin[:, n + half :]
            plus = cos[:, n + half :] - sin[:, n : n + half]
            rows = torch.cat([mean[:, :n], minus, plus], dim=1)
        return leave.transpose(1, 2) @ rows.view(*leave.shape[:2], self.n_channels)


class SphereNetwork(ExactModule):
    """A network at every point of the sphere, on an atom's old and received functions.

    The first and the last layer are linear and are applied to coefficients, of which there are
    fewer than points. A function and the same function without its highest degrees ("bands") are
    separate inputs: for coefficients that is a sum of weights.
    """

    _values: Tensor
    _project: Tensor

    def __init__(self, config: SCNConfig) -> None:
        super().__init__()
        n, n_bands = config.n_channels, config.n_bands
        self.l_max, self.n_bands = config.l_max, n_bands
        self.first = nn.Linear(2 * n_bands * n, 2 * n_bands * n)
        self.second = nn.Linear(2 * n_bands * n, 2 * n)
        self.third = nn.Linear(2 * n, n)
        values, project = sphere_grid(config.l_max)
        self.register_constant("_values", values)
        self.register_constant("_project", project.t())

    def forward(self, old: Tensor, received: Tensor) -> Tensor:
        """Both and the result are (n_atoms, (l_max + 1)², n_channels)."""
        both = torch.cat([old, received], dim=2)
        n_out = self.first.out_features
        # Input columns: old and received, then band, then channel.
        weight = self.first.weight.view(n_out, 2, self.n_bands, -1).permute(2, 1, 3, 0)
        parts, start = [], 0
        for band in reversed(range(self.n_bands)):
            stop = (self.l_max - band + 1) ** 2
            parts.append(both[:, start:stop] @ weight[: band + 1].sum(0).flatten(0, 1))
            start = stop
        tensors = (self.first.bias, self.second.weight, self.second.bias)
        width = len(self._values) * n_out
        shared = (*tensors, self._values, self._project)
        hidden = in_pieces(_on_grid, width, (torch.cat(parts, dim=1),), shared)
        constant = self._project.sum(dim=1)[:, None] * self.third.bias
        return hidden @ self.third.weight.t() + constant


def _on_grid(
    x: Tensor, bias: Tensor, weight: Tensor, bias2: Tensor, values: Tensor, project: Tensor
) -> Tensor:
    hidden = functional.silu(values @ x + bias)
    return project @ functional.silu(functional.linear(hidden, weight, bias2))


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
            points = authors_points(config.n_samples)
            weights = torch.full((config.n_samples,), 1 / config.n_samples, dtype=torch.float64)
        self.register_constant("_harmonics", harmonics_at(points, config.l_max))
        self.register_constant("_weights", weights)
        self.register_constant("_weighted_points", weights[:, None] * points)
        n = config.n_channels
        self.energy = nn.ModuleList([nn.Linear(n, n), nn.Linear(n, n), nn.Linear(n, 1)])
        # A constant is no force where points balance.
        last = nn.Linear(n, 1, bias=not config.smooth)
        self.force = nn.ModuleList([nn.Linear(n, n), nn.Linear(n, n), last])

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(n_atoms, (l_max + 1)², n_channels) -> (n_atoms,) and (n_atoms, 3)."""
        energy = self._sampled(self.energy, features) @ self._weights
        return energy, self._sampled(self.force, features) @ self._weighted_points

    def _sampled(self, layers: nn.ModuleList, features: Tensor) -> Tensor:
        """A network's answer in every direction, (n_atoms, n_samples)."""
        first, second, third = layers
        x = self._harmonics @ (features @ first.weight.t()) + first.bias
        return third(functional.silu(second(functional.silu(x)))).squeeze(2)


def authors_points(n_points: int) -> Tensor:
    """The authors' points, longer where they are fewer; (n_points, 3), float64.

    Harmonics and forces see the lengths, as powers of the degree and as weights; energies do not.
    """
    points = spiral_points(n_points)
    distances = (points[:, None] - points).square().sum(dim=2)
    sparsity = 1 / torch.exp(-distances / 0.15).sum(dim=1)
    return points * (sparsity / sparsity.mean())[:, None]
