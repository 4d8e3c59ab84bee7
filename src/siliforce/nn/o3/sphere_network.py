"""Networks on functions on the sphere, point by point."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from siliforce.nn.o3.exact import ExactModule
from siliforce.nn.o3.sphere import sphere_grid
from siliforce.nn.pieces import in_pieces


class SphereNetwork(ExactModule):
    """A network at every point of the sphere, on an atom's old and received functions.

    The first and the last layer are linear and are applied to coefficients, of which there are
    fewer than points. A function and the same function without its highest degrees ("bands") are
    separate inputs: for coefficients that is a sum of weights.
    """

    _values: Tensor
    _project: Tensor

    def __init__(self, l_max: int, n: int, n_bands: int) -> None:
        """Build for functions of degrees up to `l_max`, `n` of them old and received, each."""
        super().__init__()
        self.l_max, self.n_bands = l_max, n_bands
        self.first = nn.Linear(2 * n_bands * n, 2 * n_bands * n)
        self.second = nn.Linear(2 * n_bands * n, 2 * n)
        self.third = nn.Linear(2 * n, n)
        values, project = sphere_grid(l_max)
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
        x = torch.cat(parts, dim=1) + self._constant(self.first.bias)
        shared = (self.second.weight, self.second.bias, self._values, self._project)
        hidden = in_pieces(_on_grid, len(self._values) * n_out, (x,), shared)
        return hidden @ self.third.weight.t() + self._constant(self.third.bias)

    def _constant(self, bias: Tensor) -> Tensor:
        """Coefficients of functions that are the same everywhere, ((l_max + 1)², n)."""
        zonal = bias[None] * (4 * torch.pi) ** 0.5
        return functional.pad(zonal, (0, 0, 0, (self.l_max + 1) ** 2 - 1))


def _on_grid(x: Tensor, weight: Tensor, bias: Tensor, values: Tensor, project: Tensor) -> Tensor:
    """Middle of the network: from coefficients to points, a layer there, and back."""
    hidden = functional.silu(values @ x)
    return project @ functional.silu(functional.linear(hidden, weight, bias))
