"""Points on the sphere at which functions are evaluated, and sums over them."""

from __future__ import annotations

from math import pi, sqrt

import numpy as np
import torch
from torch import Tensor

from siliforce.nn.o3.spherical_harmonics import SphericalHarmonics


def harmonics_at(points: Tensor, l_max: int) -> Tensor:
    """Harmonics of unit norm on the sphere, (n_points, (l_max + 1)²), float64.

    Args:
        points: (n_points, 3), float64; lengths other than 1 count to the power of the degree.
        l_max: largest degree.
    """
    return SphericalHarmonics(l_max).double()(points) / sqrt(4 * pi)


def sphere_grid(l_max: int) -> tuple[Tensor, Tensor]:
    """Evaluation on a grid of latitudes and longitudes, and the projection back.

    Latitudes stand half a step off the poles, `2 (l_max + 1)` of them, with the weights that
    integrate all polynomials of lower degree; one longitude more. The projection of an expansion
    on the grid is the expansion.

    Returns:
        Values of the harmonics, (n_points, (l_max + 1)²), and the projection, transposed to the
        same shape; float64.

    Reference:
        Driscoll & Healy, Adv. Appl. Math. 15, 202 (1994).
    """
    n_polar, n_azimuth = 2 * (l_max + 1), 2 * (l_max + 1) + 1
    polar = pi * (np.arange(n_polar) + 0.5) / n_polar
    azimuth = 2 * pi * np.arange(n_azimuth) / n_azimuth
    sine, cosine = np.sin(polar)[:, None], np.cos(polar)[:, None]
    # Polar axis y, azimuth from z to x.
    shape = (n_polar, n_azimuth)
    points = [sine * np.sin(azimuth), np.broadcast_to(cosine, shape), sine * np.cos(azimuth)]
    odd = 2 * np.arange(n_polar // 2) + 1
    weight = 4 / n_polar * np.sin(polar) * (np.sin(np.outer(polar, odd)) / odd).sum(axis=1)
    weights = np.repeat(2 * pi / n_azimuth * weight, n_azimuth)
    values = harmonics_at(torch.from_numpy(np.stack(points, axis=-1).reshape(-1, 3)), l_max)
    return values, values * torch.from_numpy(weights)[:, None]


def spiral_points(n_points: int) -> Tensor:
    """Points on a spiral from pole to pole, each with about the same area; (n_points, 3), float64.

    Reference:
        Vogel, Math. Biosci. 44, 179 (1979); the golden angle between neighbours in order.
    """
    index = torch.arange(n_points, dtype=torch.float64)
    height = 1 - (2 * index + 1) / n_points
    angle = 2 * pi * index * (2 / (1 + sqrt(5)))
    radius = (1 - height.square()).sqrt()
    return torch.stack([angle.cos() * radius, angle.sin() * radius, height], dim=1)


def weighted_spiral_points(n_points: int) -> Tensor:
    """Spiral points, longer where they are sparser than usual; (n_points, 3), float64.

    Reference:
        The implementation of Zitnick et al., SCN (2022), arXiv:2206.14331.
    """
    points = spiral_points(n_points)
    distances = (points[:, None] - points).square().sum(dim=2)
    sparsity = 1 / torch.exp(-distances / 0.15).sum(dim=1)
    return points * (sparsity / sparsity.mean())[:, None]


def gauss_points(n_polar: int) -> tuple[Tensor, Tensor]:
    """Points in opposite pairs, with weights that integrate degrees up to `2 n_polar - 1`.

    Returns:
        (2 n_polar², 3) and their weights, which sum to 1, (2 n_polar²,); float64.
    """
    height, weight = np.polynomial.legendre.leggauss(n_polar)
    angle = pi * (np.arange(2 * n_polar) + 0.5) / n_polar
    radius = np.sqrt(1 - height**2)[:, None]
    level = np.broadcast_to(height[:, None], (n_polar, 2 * n_polar))
    points = np.stack([radius * np.cos(angle), radius * np.sin(angle), level], axis=-1)
    weights = np.repeat(weight / (4 * n_polar), 2 * n_polar)
    return torch.from_numpy(points.reshape(-1, 3)), torch.from_numpy(weights)
