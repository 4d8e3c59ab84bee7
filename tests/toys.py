"""Potentials with a known answer, for tests of what surrounds a model."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import nn

from siliforce.graph import Graph
from siliforce.models.base import Model, ModelConfig, RawOutput
from siliforce.nn.cutoff import polynomial_envelope
from siliforce.potential import Card, Potential
from siliforce.species import Species


class MorseConfig(ModelConfig):
    """A Morse pair potential: eV, 1/Å, Å."""

    cutoff: float = 6.0
    depth: float = 0.3429
    stiffness: float = 1.3588
    distance: float = 2.866


class Morse(Model):
    """Pair energies that a few lines of NumPy can check; the defaults are near fcc copper."""

    name = "morse-toy"
    title = "Morse"
    reference = "Girifalco and Weizer, Phys. Rev. 114, 687 (1959)"
    Config = MorseConfig
    presets: ClassVar = {"tiny": MorseConfig(), "small": MorseConfig(), "paper": MorseConfig()}

    def __init__(self, config: MorseConfig, n_species: int, mean_neighbors: float = 1.0) -> None:
        super().__init__(config, n_species, mean_neighbors)
        self.depth = nn.Parameter(torch.tensor(config.depth))

    def forward(self, graph: Graph) -> RawOutput:
        """Half of every pair's energy to either atom."""
        config = self.config
        lengths = graph.edge_lengths
        decay = torch.exp(-config.stiffness * (lengths - config.distance))
        pair = self.depth * (decay * decay - 2 * decay)
        pair = 0.5 * pair * polynomial_envelope(lengths / config.cutoff, 6)
        n_atoms = graph.species.shape[0]
        return RawOutput(pair.new_zeros(n_atoms).index_add(0, graph.center, pair))


class DirectMorse(Morse):
    """The same energies, with forces that are answered directly."""

    name = "direct-toy"
    title = "Direct Morse"
    force_mode: ClassVar[Literal["gradient", "direct"]] = "direct"

    def forward(self, graph: Graph) -> RawOutput:
        """Repulsive forces along the edges; not the gradient of anything."""
        energy = super().forward(graph).atom_energy
        push = torch.exp(-graph.edge_lengths)[:, None] * graph.edge_vectors
        forces = push.new_zeros(len(energy), 3).index_add(0, graph.center, -push)
        return RawOutput(energy, forces)


TOYS = {"morse-toy": "tests.toys:Morse", "direct-toy": "tests.toys:DirectMorse"}


def toy_potential(
    symbols: tuple[str, ...] = ("Cu",),
    model: type[Morse] = Morse,
    dtype: torch.dtype = torch.float64,
    card: Card | None = None,
    atomic_energies: tuple[float, ...] | None = None,
    **config: float,
) -> Potential:
    """A potential of known energies; `config` changes the Morse parameters."""
    species = Species.from_symbols(symbols)
    settings = MorseConfig.model_validate(config)
    e0 = atomic_energies or (0.0,) * len(species)
    potential = Potential(model(settings, len(species)), species, e0, card=card, preset="tiny")
    return potential.set_dtype(dtype).eval()
