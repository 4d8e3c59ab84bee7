"""Maps between channels, and the network that turns distances into path weights.

Features are (n, (l_max + 1)², n_channels): components by degree, channels last.

Weights are drawn with unit variance and the fan-in factor is applied at each call, as in the
papers' code: with an optimiser of fixed step size the two parametrisations train differently.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from siliforce.nn.mlp import unit_gain


def split_degrees(features: Tensor) -> tuple[Tensor, ...]:
    """(n, (l_max + 1)², n_channels) -> one (n, 2 l + 1, n_channels) per degree."""
    l_max = round(features.shape[1] ** 0.5) - 1
    return features.split([2 * degree + 1 for degree in range(l_max + 1)], dim=1)


class DegreeLinear(nn.Module):
    """One matrix between channels for every degree.

    Attributes:
        weights: per degree, (n_in, n_out).
    """

    def __init__(self, n_in: Sequence[int], n_out: int) -> None:
        """Build for `n_in[l]` input channels of degree l."""
        super().__init__()
        self.weights = nn.ParameterList(torch.randn(n, n_out) for n in n_in)

    def forward(self, parts: Sequence[Tensor]) -> Tensor:
        """Per degree (n, 2 l + 1, n_in[l]) -> (n, (l_max + 1)², n_out)."""
        mixed = [
            part @ (weight * weight.shape[0] ** -0.5)
            for part, weight in zip(parts, self.weights, strict=True)
        ]
        return torch.cat(mixed, dim=1)


class UnitMLP(nn.Module):
    """Bias-free perceptron with silu, each layer's output of unit second moment at first.

    Zero in, zero out: what it says of a pair vanishes with the pair's radial basis.

    Attributes:
        weights: per layer, (n_in, n_out).
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        """Build from the widths, input and output included."""
        super().__init__()
        self.weights = nn.ParameterList(torch.randn(a, b) for a, b in pairwise(sizes))
        self.gain = unit_gain("silu")

    def hidden(self, x: Tensor) -> Tensor:
        """All but the last layer."""
        gain = 1.0
        for weight in list(self.weights)[:-1]:
            x = functional.silu(x @ (weight * (gain * weight.shape[0] ** -0.5)))
            gain = self.gain
        return x

    def last(self, x: Tensor) -> Tensor:
        """The last layer."""
        weight = self.weights[-1]
        gain = self.gain if len(self.weights) > 1 else 1.0
        return x @ (weight * (gain * weight.shape[0] ** -0.5))

    def forward(self, x: Tensor) -> Tensor:
        """(..., sizes[0]) -> (..., sizes[-1])."""
        return self.last(self.hidden(x))
