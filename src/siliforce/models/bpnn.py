"""BPNN: neural networks on symmetry functions, one per element.

The surroundings of an atom are described by fixed functions of distances and angles that do not
change when the structure is rotated or like atoms are exchanged; a feed-forward network of the
atom's element turns them into its energy.

Behler, Parrinello, Phys. Rev. Lett. 98, 146401 (2007); symmetry functions as in
Behler, J. Chem. Phys. 134, 074106 (2011).

| paper symbol | name | shape |
|---|---|---|
| G_i^2, G_i^4 | g2, g4 | (n_atoms, n_species, n_radial), (n_atoms, n_pairs, n_angular) |
| G_i (whitened) | Block | (n_species, n_atoms, n_columns) |
| a_ij^kl | SpeciesLinear.weight | (n_species, n_in, n_out) |
| b_i^l | SpeciesLinear.bias | (n_species, n_out) |
| E_i | atom_energy | (n_atoms,) |

Deviations from the paper: symmetry functions are whitened by principal components, as in the 2023
benchmark (497,282 parameters for two elements), instead of being scaled to a fixed range;
components that hardly vary in the training set are amplified tenfold at most (`whitening_floor`):
without that bound they extrapolate wildly from few frames. Each triplet is counted once. `small`
has more radial functions, shifted ones, in place of the centred ones, a further power of the
angle, and networks of 2 x 64 with silu in place of 5 x 240 with sigmoid.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar

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

_ETA_2023 = (0.003214, 0.035711, 0.071421, 0.124987, 0.214264, 0.357106, 0.714213, 1.428426)


class BPNNConfig(ModelConfig):
    """Hyper-parameters of BPNN."""

    radial: tuple[tuple[float, float], ...] = Field(
        tuple((eta, 0.0) for eta in _ETA_2023), description="η [1/Å²], shift [Å] of each G2"
    )
    angular_eta: tuple[float, ...] = Field(
        (0.000357, 0.028569, 0.089277), description="η of G4, 1/Å²"
    )
    zeta: tuple[int, ...] = Field((1, 2, 4), description="ζ of G4; λ is always +1 and -1")
    hidden: tuple[int, ...] = Field((240,) * 5, description="widths of the hidden layers")
    activation: Activation = "sigmoid"
    whitening_floor: float = Field(
        1e-2, gt=0, description="smallest variance that is scaled to one, in units of the columns'"
    )
    extensions: tuple[int, ...] = Field(
        (), description="species each later extension added; kept by the model itself"
    )


class BPNN(Model):
    """Behler-Parrinello networks."""

    name = "bpnn"
    title = "BPNN"
    reference = "Behler & Parrinello, Phys. Rev. Lett. 98, 146401 (2007)"
    needs = Topology(triplets="unordered", closed_triplets=True)
    Config = BPNNConfig
    presets: ClassVar[Mapping[str, ModelConfig]] = {
        "tiny": BPNNConfig(
            cutoff=4.0,
            radial=((0.05, 0.0), (0.5, 0.0), (2.0, 2.5)),
            angular_eta=(0.01, 0.1),
            zeta=(1, 4),
            hidden=(12, 12),
            whitening_floor=0.1,
        ),
        "small": BPNNConfig(
            cutoff=5.0,
            radial=shifted_radial(5.0, 16),
            angular_eta=(0.0004, 0.03, 0.09),
            zeta=(1, 2, 4, 8),
            hidden=(64, 64),
            activation="silu",
        ),
        "paper": BPNNConfig(cutoff=6.0),
    }
    widths = ("hidden",)
    training_presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "small": {"lr": 1e-2, "batch_size": 8, "ema": 0.99},
        "paper": {"lr": 5e-3, "weight_decay": 1e-6, "batch_size": 16},
    }

    def __init__(self, config: BPNNConfig, n_species: int, mean_neighbors: float = 1.0) -> None:
        super().__init__(config, n_species, mean_neighbors)
        self.config: BPNNConfig = config
        self.symmetry_functions = SymmetryFunctions(
            config.cutoff, config.radial, config.angular_eta, config.zeta
        )
        steps = range(len(config.extensions) + 1)
        self.ends = [n_species - sum(config.extensions[k:]) for k in steps]
        blocks = [
            Block(self._columns(start, end), config.hidden[0], n_species)
            for start, end in pairwise([0, *self.ends])
        ]
        for block in blocks:
            nn.init.normal_(block.weight.weight, std=1.5 / math.sqrt(block.n_columns))
        self.blocks = nn.ModuleList(blocks)
        self.first_bias = SpeciesTable(torch.zeros(n_species, config.hidden[0]))
        self.activation = ACTIVATIONS[config.activation]
        self.layers = nn.ModuleList(
            SpeciesLinear(n_species, n_in, n_out, config.activation)
            for n_in, n_out in pairwise([*config.hidden, 1])
        )

    def forward(self, graph: Graph) -> RawOutput:
        """Normalised energies of the atoms.

        Every element's network sees every atom and the right answer is picked: the networks cost
        little beside the symmetry functions, and shapes do not depend on the composition.
        """
        hidden = self.first_bias.weight[:, None, :]
        for block, columns in zip(self.blocks, self.descriptors(graph), strict=True):
            hidden = hidden + block(columns)
        for layer in self.layers:
            hidden = layer(self.activation(hidden))
        return RawOutput(hidden.squeeze(2).gather(0, graph.species[None, :]).squeeze(0))

    def descriptors(self, graph: Graph) -> list[Tensor]:
        """Symmetry functions, (n_atoms, n_columns) for each block of columns."""
        g2, g4 = self.symmetry_functions(graph, self.n_species)
        blocks = []
        for start, end in pairwise([0, *self.ends]):
            angular = g4[:, n_pairs(start) : n_pairs(end)]
            blocks.append(torch.cat([g2[:, start:end].flatten(1), angular.flatten(1)], dim=1))
        return blocks

    def _columns(self, start: int, end: int) -> int:
        functions = self.symmetry_functions
        new_pairs = n_pairs(end) - n_pairs(start)
        return (end - start) * functions.n_radial + new_pairs * functions.n_angular

    @torch.no_grad()
    def fit_constants(self, graphs: Iterable[Graph]) -> None:
        """Fit the whitening of every block and element that has none yet, in float64.

        Once some are fitted, those that follow leave the network's answers as they are.
        """
        n_species = self.n_species
        blocks = self._blocks()
        count = torch.zeros(n_species, dtype=torch.float64)
        first = [torch.zeros(n_species, b.n_columns, dtype=torch.float64) for b in blocks]
        second = [s.new_zeros(*s.shape, s.shape[1]) for s in first]
        for graph in graphs:
            exact = graph.replace(edge_vectors=graph.edge_vectors.double())
            for k, columns in enumerate(self.descriptors(exact)):
                for s in range(n_species):
                    rows = columns[graph.species == s].cpu()
                    first[k][s] += rows.sum(0)
                    second[k][s] += rows.T @ rows
            count += torch.bincount(graph.species, minlength=n_species).cpu()
        bias = self.first_bias.weight if blocks[0].fitted.weight.any() else None
        for block, sum1, sum2 in zip(blocks, first, second, strict=True):
            block.fit(count, sum1, sum2, self.config.whitening_floor, bias)

    def fit_new_constants(self, graphs: Iterable[Graph]) -> None:
        """Fit the whitening of the columns that new elements brought; answers stay the same."""
        self.fit_constants(graphs)

    def part_of(self, name: str) -> str:
        """The first layer is `input`, whatever elements its columns belong to."""
        if name.startswith(("blocks.", "first_bias.")):
            return "input"
        last = f"layers.{len(self.layers) - 1}."
        return "readout" if name.startswith(last) else super().part_of(name)

    @torch.no_grad()
    def extend_species(self, sources: Sequence[int]) -> None:
        """Learn new species; as neighbours, too, they are at first taken for their sources."""
        known = self.n_species
        super().extend_species(sources)
        taken_for = [*range(known), *sources]
        pairs = [
            sorted((taken_for[a], taken_for[b]))
            for b in range(known, self.n_species)
            for a in range(b + 1)
        ]
        radial, angular = self._unfolded()
        new = Block(self._columns(known, self.n_species), self.config.hidden[0], self.n_species).to(
            self.mean_neighbors
        )
        weights = (radial[:, list(sources)], angular[:, [n_pairs(b) + a for a, b in pairs]])
        new.weight.weight.copy_(torch.cat([part.flatten(1, 2) for part in weights], dim=1))
        self.blocks.append(new)
        self.ends.append(self.n_species)
        extensions = (*self.config.extensions, len(sources))
        self.config = self.config.model_copy(update={"extensions": extensions})

    def _unfolded(self) -> tuple[Tensor, Tensor]:
        """Weights of the first layer on the functions themselves, without the whitening.

        Of G2 by element, (n_species, n_elements, n_radial, n_hidden), and of G4 by pair,
        (n_species, n_pairs, n_angular, n_hidden).
        """
        functions, radial, angular = self.symmetry_functions, [], []
        for block, (start, end) in zip(self._blocks(), pairwise([0, *self.ends]), strict=True):
            weights = block.whitening.weight @ block.weight.weight
            cut = (end - start) * functions.n_radial
            radial.append(weights[:, :cut].unflatten(1, (-1, functions.n_radial)))
            angular.append(weights[:, cut:].unflatten(1, (-1, functions.n_angular)))
        return torch.cat(radial, dim=1), torch.cat(angular, dim=1)

    def _blocks(self) -> list[Block]:
        return [block for block in self.blocks if isinstance(block, Block)]


class Block(nn.Module):
    """Columns of the descriptor that came together: whitening and first layer of every element.

    Attributes:
        mean: (n_species, n_columns).
        whitening: (n_species, n_columns, n_columns).
        fitted: whether an element's whitening is fitted, (n_species,).
        weight: (n_species, n_columns, n_hidden).
    """

    def __init__(self, n_columns: int, n_hidden: int, n_species: int) -> None:
        super().__init__()
        self.n_columns = n_columns
        self.mean = SpeciesTable(torch.zeros(n_species, n_columns), trainable=False)
        identity = torch.eye(n_columns).expand(n_species, -1, -1)
        self.whitening = SpeciesTable(identity, trainable=False)
        self.fitted = SpeciesTable(torch.zeros(n_species), trainable=False)
        self.weight = SpeciesTable(torch.zeros(n_species, n_columns, n_hidden))

    def forward(self, columns: Tensor) -> Tensor:
        """(n_atoms, n_columns) -> (n_species, n_atoms, n_hidden)."""
        centered = columns[None] - self.mean.weight[:, None, :]
        return centered @ self.whitening.weight @ self.weight.weight

    def fit(
        self, count: Tensor, first: Tensor, second: Tensor, floor: float, bias: Tensor | None
    ) -> None:
        """Whitening from sums over atoms of the columns and of their products.

        Args:
            count, first, second: by element; float64.
            floor: see `BPNNConfig.whitening_floor`.
            bias: of the first layer, (n_species, n_hidden). If given, it and the weights change
                such that the layer's answer does not; a new network's are drawn for whitened
                columns and stay.
        """
        for s in range(len(count)):
            if count[s] < 2 or self.fitted.weight[s] > 0:
                continue
            mean = first[s] / count[s]
            matrix = whitening(mean, second[s] / count[s] - mean[:, None] * mean, floor)
            before, rows = self._constant(s), self.whitening.weight[s] @ self.weight.weight[s]
            self.mean.weight[s] = mean.to(self.mean.weight)
            self.whitening.weight[s] = matrix.to(self.mean.weight)
            if bias is not None:
                self.weight.weight[s] = torch.linalg.solve(matrix, rows.to(mean)).to(rows)
                bias[s] += (before - self._constant(s)).to(bias)
            self.fitted.weight[s] = 1.0

    def _constant(self, s: int) -> Tensor:
        """What an element's layer says of columns that are all zero, (n_hidden,), in float64."""
        constants = (self.mean.weight, self.whitening.weight, self.weight.weight)
        mean, matrix, weight = (table[s].double() for table in constants)
        return -(mean @ matrix) @ weight
