"""Functions of the distance that networks read.

Constants are made in the dtype of the lengths at each call: a grid that was rounded to float32
when the model was built would stay rounded when the model is used in float64.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class GaussianBasis(nn.Module):
    """`exp(-(r - μ_k)² / (2 w² Δ²))` on an even grid of centres from 0 to the cutoff, spacing Δ.

    Reference:
        Schütt et al., SchNet (2018), eq. 4.
    """

    def __init__(self, cutoff: float, n_radial: int, width: float = 1.0) -> None:
        """Choose the grid, and the Gaussians' width w in units of its spacing."""
        super().__init__()
        self.n_radial = n_radial
        self.spacing = cutoff / (n_radial - 1)
        self.width = width

    def forward(self, lengths: Tensor) -> Tensor:
        """(n_edges,), Å -> (n_edges, n_radial)."""
        steps = torch.arange(self.n_radial, dtype=lengths.dtype, device=lengths.device)
        offsets = (lengths[:, None] / self.spacing - steps) / self.width
        return torch.exp(-0.5 * offsets.square())


class BesselBasis(nn.Module):
    """`sqrt(2 / r_c) sin(n π x) / r` with `x = r / r_c`; the frequencies `n π` can be trained.

    Attributes:
        frequencies: (n_radial,), or None where they are fixed.

    Reference:
        Gasteiger et al., DimeNet (2020), eq. 7.
    """

    frequencies: nn.Parameter | None

    def __init__(self, cutoff: float, n_radial: int, trainable: bool = False) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.n_radial = n_radial
        initial = torch.arange(1, n_radial + 1) * math.pi
        self.frequencies = nn.Parameter(initial) if trainable else None

    def forward(self, lengths: Tensor) -> Tensor:
        """(n_edges,), Å, none zero -> (n_edges, n_radial)."""
        column = lengths[:, None]
        steps = torch.arange(1, self.n_radial + 1, dtype=column.dtype, device=column.device)
        frequencies = steps * math.pi if self.frequencies is None else self.frequencies
        factor = math.sqrt(2.0 / self.cutoff)
        return factor * torch.sin(column / self.cutoff * frequencies) / column
