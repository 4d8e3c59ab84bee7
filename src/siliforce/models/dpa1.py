"""DPA-1: neighbours weighted by attention.

A network turns the distance of every neighbour, and the elements of both atoms, into a row of an
embedding matrix G. In the attention layers the neighbours of one atom look at each other: a row
becomes a mean of all rows, weighted by how alike they are and by the cosine of the angle between
the two neighbours. Products of G with the environment matrix R are summed to a descriptor that
rotations and exchanges of like atoms leave alone; one network for all elements makes the energy.

Zhang, Bi, Dai, Jiang, Liu, Zhang, Wang, npj Comput. Mater. 10, 94 (2024), arXiv:2208.08236.

| paper symbol | name | shape |
|---|---|---|
| R^i | matrix | (n_atoms, n_slots, 4) |
| A^i, A^j | types, neighbor_types | (n_atoms, type_width), (n_atoms, n_slots, type_width) |
| G^(i,l) | g | (n_atoms, n_slots, n_columns) |
| Q, K, V | q, k, v | (n_atoms, n_slots, attention_width) |
| N_c | mean_neighbors | () |
| D^i | descriptor | (n_atoms, n_columns * axis) |

A slot is an edge of an atom; atoms have as many as the one with most edges, the others are empty.

Equal, with the same weights, to the descriptor `se_atten` (`tebd_input_mode` concat, with
`smooth_type_embedding`, `attn_dotr` and `set_davg_zero`) and the energy fitting net of deepmd-kit
3.2.0 (LGPL-3.0), PyTorch backend. There, N_c is `sel`: the neighbours an
atom has room for divide the descriptor, and empty slots count in the denominator of the attention.
Here both are smooth functions of a number that cuts nothing off, since an empty slot weighs as
much as a neighbour at the cutoff, and the number is `mean_neighbors`, of the training set.

Deviations: no neighbour is ever left out. The environment matrix is divided by deviations over
the edges alone, where deepmd-kit counts empty slots as zeros, and their three directions share a
mean of zero; no mean is subtracted, or atoms would enter with a jump. The one-hot network of the
elements is the table that it is. Energies per element belong to the potential.

The sizes in `paper` and its learning rate, 1e-3 to 3.51e-8, are those of the authors' own example
for this descriptor (water/se_atten in deepmd-kit); the text of the paper was not at hand to
compare, nor are the settings public with which the 2023 benchmark ran DPA-1. Batches and the
loss are the benchmark's: the example raises the weight of energies while it trains.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from siliforce.graph import Graph, Topology
from siliforce.models.base import Model, ModelConfig, RawOutput
from siliforce.nn.gated_attention import gated_attention
from siliforce.nn.scatter import gather_neighbors
from siliforce.nn.species_table import SpeciesTable

SMALLEST_DEVIATION, UNKNOWN_DEVIATION = 1e-2, 1e-1
"""Least deviation to divide by, and the one of elements without a neighbour."""


class DPA1Config(ModelConfig):
    """Hyper-parameters of DPA-1."""

    smooth_from: float = Field(0.5, gt=0, description="Å, where the switch starts to fall")
    embedding: tuple[int, ...] = Field((25, 50, 100), description="widths of the embedding net")
    axis: int = Field(16, gt=0, description="columns of G in the second factor of the descriptor")
    type_width: int = Field(8, gt=0, description="features of an element")
    attention_width: int = Field(128, gt=0, description="channels of queries, keys and values")
    n_layers: int = Field(2, ge=0, description="attention layers")
    fitting: tuple[int, ...] = Field((240, 240, 240), description="widths of the fitting net")

    @model_validator(mode="after")
    def _sizes(self) -> DPA1Config:
        if self.smooth_from >= self.cutoff:
            raise ValueError(
                f"smooth_from is {self.smooth_from} Å; it must be less than the cutoff, "
                f"{self.cutoff} Å"
            )
        if self.axis > self.embedding[-1]:
            raise ValueError(
                f"axis is {self.axis}, more than the embedding's {self.embedding[-1]} columns"
            )
        return self


class DPA1(Model):
    """Neighbours weighted by attention."""

    name = "dpa1"
    title = "DPA-1"
    reference = "Zhang et al., npj Comput. Mater. 10, 94 (2024), arXiv:2208.08236"
    needs = Topology(slots=True)
    Config = DPA1Config
    presets: ClassVar[Mapping[str, ModelConfig]] = {
        "tiny": DPA1Config(
            cutoff=4.0,
            embedding=(8, 16),
            axis=4,
            type_width=3,
            attention_width=8,
            n_layers=2,
            fitting=(32, 32),
        ),
        "small": DPA1Config(
            cutoff=5.0, embedding=(16, 32), axis=8, attention_width=32, fitting=(64, 64, 64)
        ),
        "paper": DPA1Config(cutoff=6.0),
    }
    widths = ("embedding", "attention_width", "fitting")
    training_presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "small": {"lr": 6e-3, "batch_size": 8, "ema": 0.99},
        "paper": {
            "lr": 1e-3,
            "batch_size": 16,
            "schedule": {"kind": "exponential", "final": 3.51e-5},
        },
    }

    config: DPA1Config

    def __init__(self, config: DPA1Config, n_species: int, mean_neighbors: float = 1.0) -> None:
        super().__init__(config, n_species, mean_neighbors)
        n_type, n_columns = config.type_width, config.embedding[-1]
        self.types = SpeciesTable(torch.randn(n_species, n_type) / math.sqrt(n_species + n_type))
        self.deviation = SpeciesTable(torch.ones(n_species, 2), trainable=False)
        self.embedding = residual_mlp([1 + 2 * n_type, *config.embedding])
        self.attention = nn.ModuleList(
            GatedAttention(n_columns, config.attention_width) for _ in range(config.n_layers)
        )
        n_descriptor = n_columns * config.axis + n_type
        self.fitting = residual_mlp([n_descriptor, *config.fitting], learn_steps=True)
        self.readout = random_linear(config.fitting[-1], 1)

    def forward(self, graph: Graph) -> RawOutput:
        """Normalised energies of the atoms."""
        types = self.types(graph.species)
        switch, matrix, direction = self.environment(graph)
        columns = torch.cat([switch, matrix, direction, gather_neighbors(types, graph)], dim=1)
        return RawOutput(self.atom_energies(deal(columns, graph), types))

    def environment(self, graph: Graph) -> tuple[Tensor, Tensor, Tensor]:
        """Switch, rows of the environment matrix, and directions of the edges.

        Returns:
            (n_edges, 1), (n_edges, 4), (n_edges, 3).
        """
        lengths = graph.edge_lengths[:, None]
        direction = graph.edge_vectors / lengths
        switch = smooth_switch(lengths, self.config.smooth_from, self.config.cutoff)
        inverse = switch / lengths
        radial, angular = self.deviation(graph.species[graph.center]).split(1, dim=1)
        return switch, torch.cat([inverse / radial, inverse / angular * direction], 1), direction

    def atom_energies(self, slots: Tensor, types: Tensor) -> Tensor:
        """Energies from the surroundings of the atoms.

        Args:
            slots: what `forward` deals, (n_atoms, n_slots, 8 + type_width).
            types: features of the atoms' elements, (n_atoms, type_width).
        """
        sizes = (1, 4, 3, self.config.type_width)
        switch, matrix, direction, neighbor_types = slots.split(sizes, dim=2)
        own_types = types[:, None].expand_as(neighbor_types)
        g = self.embedding(torch.cat([matrix[..., :1], neighbor_types, own_types], dim=2))
        for layer in self.attention:
            g = layer(g, switch, direction, self.mean_neighbors)
        moments = matrix.mT @ g / self.mean_neighbors
        descriptor = (moments.mT @ moments[..., : self.config.axis]).flatten(1)
        return self.readout(self.fitting(torch.cat([descriptor, types], dim=1))).squeeze(1)

    def part_of(self, name: str) -> str:
        """The network that embeds a pair is `input`, each layer after it a part."""
        return "input" if name.startswith("embedding.") else super().part_of(name)

    @torch.no_grad()
    def fit_constants(self, graphs: Iterable[Graph]) -> None:
        """Fit the deviations of the environment matrix, in float64."""
        sums = torch.zeros(self.n_species, 4, dtype=torch.float64)
        for graph in graphs:
            lengths = graph.edge_lengths.double()[:, None]
            s = smooth_switch(lengths, self.config.smooth_from, self.config.cutoff) / lengths
            row = torch.cat([torch.ones_like(s), s, s.square()], dim=1).cpu()
            sums[:, :3].index_add_(0, graph.species[graph.center].cpu(), row)
        count, first, second = sums[:, 0], sums[:, 1], sums[:, 2]
        n = count.clamp(min=1)
        variance = torch.stack([second / n - (first / n).square(), second / (3 * n)], dim=1)
        deviation = variance.clamp(min=SMALLEST_DEVIATION**2).sqrt()
        deviation[count == 0] = UNKNOWN_DEVIATION
        self.deviation.weight.copy_(deviation)


class ResidualLayer(nn.Module):
    """`tanh(W x + b)`; `x + h tanh(W x + b)` where it is as wide as x, or twice with `(x, x)`.

    Attributes:
        step: h of every channel if it is learned, else None for one.
    """

    step: nn.Parameter | None

    def __init__(self, n_in: int, n_out: int, learn_step: bool) -> None:
        super().__init__()
        self.linear = random_linear(n_in, n_out)
        self.copies = n_out // n_in if n_out in (n_in, 2 * n_in) else 0
        learned = learn_step and self.copies > 0
        self.step = nn.Parameter(0.1 + 0.001 * torch.randn(n_out)) if learned else None

    def forward(self, x: Tensor) -> Tensor:
        """(..., n_in) -> (..., n_out)."""
        y = torch.tanh(self.linear(x))
        if self.step is not None:
            y = y * self.step
        return y + torch.cat([x] * self.copies, dim=-1) if self.copies else y


def residual_mlp(sizes: Sequence[int], learn_steps: bool = False) -> nn.Sequential:
    """Residual layers from their widths, input included."""
    return nn.Sequential(*(ResidualLayer(a, b, learn_steps) for a, b in pairwise(sizes)))


class GatedAttention(nn.Module):
    """The neighbours of each atom attend to each other, weighted by the cosine of their angle."""

    def __init__(self, n_columns: int, width: int) -> None:
        super().__init__()
        # The authors draw the three as one layer.
        self.query, self.key, self.value = (
            random_linear(n_columns, width, fan_out=3 * width) for _ in range(3)
        )
        self.leave = random_linear(width, n_columns)
        self.norm = nn.LayerNorm(n_columns)

    def forward(self, g: Tensor, switch: Tensor, direction: Tensor, n_slots: Tensor) -> Tensor:
        """New columns, (n_atoms, max_edges, n_columns), from what `gated_attention` takes."""
        q, k, v = self.query(g), self.key(g), self.value(g)
        mixed = gated_attention(q, k, v, switch, direction, n_slots - g.shape[1])
        return self.norm(g + self.leave(mixed))


def deal(columns: Tensor, graph: Graph) -> Tensor:
    """(n_edges, n) -> (n_atoms, max_edges, n), zero in empty slots."""
    assert graph.slots is not None
    padded = torch.cat([columns, columns.new_zeros(1, columns.shape[1])])
    return padded.index_select(0, graph.slots.flatten()).unflatten(0, graph.slots.shape)


def smooth_switch(lengths: Tensor, start: float, end: float) -> Tensor:
    """`1 - 10 u³ + 15 u⁴ - 6 u⁵` with u from 0 at `start` to 1 at `end`; twice differentiable."""
    u = ((lengths - start) / (end - start)).clamp(0, 1)
    return u**3 * (u * (15 - 6 * u) - 10) + 1


def random_linear(n_in: int, n_out: int, fan_out: int | None = None) -> nn.Linear:
    """A linear layer as the authors initialise it."""
    layer = nn.Linear(n_in, n_out)
    nn.init.normal_(layer.weight, std=1 / math.sqrt(n_in + (fan_out or n_out)))
    nn.init.normal_(layer.bias)
    return layer
