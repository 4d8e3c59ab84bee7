"""Frames along edges, and the part of a rotation into them that low orders need."""

from __future__ import annotations

import torch
from torch import Tensor

from siliforce.nn.o3.exact import ExactModule
from siliforce.nn.o3.spherical_harmonics import SphericalHarmonics

POLE = ((0.8, -0.6, 0.0), (0.36, 0.48, 0.8), (-0.48, -0.64, 0.6))
"""A right-handed frame whose second axis, and its opposite, is no direction of a usual crystal."""


def bisector_frames(unit_vectors: Tensor) -> Tensor:
    """A rotation for every edge that takes it to the y axis, smooth but at one direction.

    The fixed frame `POLE` is turned by half a turn about the bisector of its second axis and the
    edge, so that this axis comes to lie on the edge. No field of frames is smooth on all of the
    sphere; this one whirls about the direction opposite to the axis, where no usual crystal has
    an edge. It is finite there too; rounding grows as one over the angle to that direction.

    Args:
        unit_vectors: (n_edges, 3).

    Returns:
        (n_edges, 3, 3), rows the axes x', y' (the edge) and z', right-handed.
    """
    pole = unit_vectors.new_tensor(POLE)
    bisector = unit_vectors + pole[1]
    square = bisector.square().sum(dim=1)[:, None, None]
    tiny = torch.finfo(square.dtype).tiny
    along = (bisector @ pole.t())[:, :, None] * bisector[:, None, :]
    return 2 * along / square.clamp(min=tiny) - pole


class FrameHarmonics(ExactModule):
    """Rows m = 0, -1, +1 of the Wigner matrices of rotations into edge frames.

    The row m = 0 of degree l is the harmonic of the edge itself (addition theorem), and the rows
    m = ±1 are its derivatives along the other two axes of the frame, so that neither angles nor
    full Wigner matrices are needed and no direction is special:
    `D_0 = Y(e) / sqrt(2 l + 1)`, `D_±1 = t_±·∇Y(e) / sqrt((2 l + 1) l (l + 1) / 2)`.
    """

    _scale: Tensor

    def __init__(self, l_max: int) -> None:
        super().__init__()
        self.harmonics = SphericalHarmonics(l_max)
        degrees = [degree for degree in range(l_max + 1) for _ in range(2 * degree + 1)]
        degree = torch.tensor(degrees, dtype=torch.float64)
        # Harmonics of degree 0 have no slope: any factor will do.
        slope = 0.5 * (degree * (degree + 1)).clamp(min=1)
        norm = torch.stack([torch.ones_like(slope), slope, slope])
        self.register_constant("_scale", ((2 * degree + 1) * norm).rsqrt())

    def forward(self, frames: Tensor) -> Tensor:
        """(n_edges, 3, 3), rows x', y' (the edge), z' -> (n_edges, 3, (l_max + 1)²)."""
        x, y, z = frames.unbind(1)
        h = self.harmonics
        return torch.stack([h(y), h.slopes(y, x), h.slopes(y, z)], dim=1) * self._scale
