"""Multi-layer perceptrons and their activations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Activation = Literal["silu", "tanh", "sigmoid", "shifted_softplus"]


def shifted_softplus(x: Tensor) -> Tensor:
    """`ln(e^x / 2 + 1 / 2)`: smooth, and zero at zero.

    Reference:
        Schütt et al., SchNet (2018), eq. 5.
    """
    return functional.softplus(x) - math.log(2.0)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "shifted_softplus": shifted_softplus,
}


def unit_gain(activation: Activation) -> float:
    """Factor that gives `activation(x)`, x standard normal, a second moment of one."""
    x = torch.linspace(-10, 10, 20001, dtype=torch.float64)
    density = torch.exp(-0.5 * x.square()) / math.sqrt(2 * math.pi)
    moment = torch.trapezoid(density * ACTIVATIONS[activation](x).square(), x)
    return float(moment.rsqrt())


class MLP(nn.Module):
    """Linear layers with an activation between them, none after the last.

    Weights are drawn so that every layer's output has unit second moment when the input has:
    the normalisation some codes carry as constant factors is folded into the weights here.

    Attributes:
        layers: the `nn.Linear` layers.
    """

    def __init__(
        self, sizes: Sequence[int], activation: Activation = "silu", bias: bool = True
    ) -> None:
        """Build from layer widths, input and output included."""
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.layers = nn.ModuleList()
        for k, (n_in, n_out) in enumerate(pairwise(sizes)):
            layer = nn.Linear(n_in, n_out, bias=bias)
            gain = unit_gain(activation) if k else 1.0
            nn.init.normal_(layer.weight, std=gain / math.sqrt(n_in))
            if bias:
                nn.init.zeros_(layer.bias)
            self.layers.append(layer)

    def forward(self, x: Tensor) -> Tensor:
        """(..., sizes[0]) -> (..., sizes[-1])."""
        last = len(self.layers) - 1
        for k, layer in enumerate(self.layers):
            x = layer(x)
            if k < last:
                x = self.activation(x)
        return x
