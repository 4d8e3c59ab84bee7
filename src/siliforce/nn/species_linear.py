"""A linear layer for every element."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from siliforce.nn.mlp import Activation
from siliforce.nn.species_table import SpeciesTable


class SpeciesLinear(nn.Module):
    """A linear layer for every element, applied to all atoms by all elements.

    Attributes:
        weight: (n_species, n_in, n_out).
        bias: (n_species, n_out).
    """

    def __init__(self, n_species: int, n_in: int, n_out: int, activation: Activation) -> None:
        super().__init__()
        sigmoid = activation == "sigmoid"
        # Four undoes a sigmoid's slope at zero, 1.5 about the shrinking of the others.
        weight = torch.randn(n_species, n_in, n_out) * ((4.0 if sigmoid else 1.5) / math.sqrt(n_in))
        # A sigmoid is one half on average: the bias centres what the layer puts out.
        bias = -0.5 * weight.sum(1) if sigmoid else torch.zeros(n_species, n_out)
        self.weight, self.bias = SpeciesTable(weight), SpeciesTable(bias)

    def forward(self, x: Tensor) -> Tensor:
        """(n_species, n_atoms, n_in) -> (n_species, n_atoms, n_out)."""
        return torch.baddbmm(self.bias.weight[:, None, :], x, self.weight.weight)
