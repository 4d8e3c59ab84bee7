"""Functions of a distance that go with Legendre polynomials: spherical Bessel functions.

Together, `j_l(z_ln x) P_l(cos θ)`, they are waves in a sphere that is closed at the cutoff. Angles
enter by their cosine alone: an arc cosine has no derivative where three atoms are in a line.
"""

from __future__ import annotations

import math
from functools import cache
from itertools import pairwise

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.special import spherical_jn
from torch import Tensor

from siliforce.nn.o3.exact import ExactModule


@cache
def spherical_bessel_roots(l_max: int, n_roots: int) -> Tensor:
    """`z_ln`, the first positive roots of `j_l` for l up to `l_max`; (l_max + 1, n_roots), float64.

    Between two neighbouring roots of `j_{l-1}` lies exactly one of `j_l`.
    """
    roots = np.arange(1, n_roots + l_max + 1) * math.pi
    table = [roots[:n_roots]]
    for degree in range(1, l_max + 1):
        between = pairwise(roots)
        roots = np.array(
            [
                brentq(lambda z, d=degree: spherical_jn(d, z), a, b, xtol=1e-14, rtol=1e-15)
                for a, b in between
            ]
        )
        table.append(roots[:n_roots])
    return torch.from_numpy(np.stack(table))


class SphericalBesselBasis(ExactModule):
    """`N_ln j_l(z_ln x)` with `N` such that the integral of its square times x² over [0, 1] is 1.

    The functions are entire, so that their Chebyshev series in x converge faster than any power:
    about fifty terms and one matrix product give all of them, and their derivatives, to the last
    digits of either precision. The recurrence over l and the closed forms with sines lose all
    digits at short distances.

    Reference:
        Gasteiger et al., DimeNet (2020), eq. 6, with distances in units of the cutoff.
    """

    _series: Tensor

    def __init__(self, l_max: int, n_radial: int) -> None:
        super().__init__()
        self.shape = (l_max + 1, n_radial)
        self.register_constant("_series", _bessel_series(l_max, n_radial))

    def forward(self, x: Tensor) -> Tensor:
        """Length over cutoff, (n,) -> (n, l_max + 1, n_radial); constant beyond x = 1."""
        terms = chebyshev(x.clamp(max=1.0), self._series.shape[1])
        return (self._series @ terms).t().unflatten(1, self.shape)


@cache
def _bessel_series(l_max: int, n_radial: int) -> Tensor:
    """Chebyshev coefficients, ((l_max + 1) * n_radial, n_terms), float64."""
    roots = spherical_bessel_roots(l_max, n_radial).numpy()
    # Coefficients fall from degree z on, like those of cos(z x); 40 more are beyond float64.
    degree = np.arange(int(roots.max()) + 40)
    angle = math.pi * (degree + 0.5) / len(degree)
    x = np.cos(angle)[:, None]
    values = []
    for order, root in enumerate(roots):
        norm = math.sqrt(2.0) / np.abs(spherical_jn(order + 1, root))
        values.append(norm * np.sign(x) ** order * spherical_jn(order, root * np.abs(x)))
    series = 2 / len(degree) * np.cos(degree[:, None] * angle) @ np.concatenate(values, axis=1)
    series[0] /= 2
    last = np.flatnonzero(np.abs(series).max(1) > 1e-16 * np.abs(series).max())[-1]
    return torch.from_numpy(series[: last + 1].T.copy())


def chebyshev(x: Tensor, n_terms: int) -> Tensor:
    """Polynomials `T_0 .. T_{n-1}` of x in [-1, 1]; (n,) -> (n_terms, n).

    By `T_{m+k} = 2 T_m T_k - T_{m-k}`, which doubles their number at each step.
    """
    rows = torch.stack([torch.ones_like(x), x])
    while rows.shape[0] < n_terms:
        rows = torch.cat([rows, 2 * rows[-1:] * rows[1:] - rows[:-1].flip(0)])
    return rows[:n_terms]


def zonal_norms(l_max: int) -> list[float]:
    """`sqrt((2 l + 1) / 4π)`: what makes `P_l(cos θ)` the spherical harmonic `Y_l0`."""
    return [math.sqrt((2 * degree + 1) / (4 * math.pi)) for degree in range(l_max + 1)]
