"""Real spherical harmonics as polynomials of the unit vector."""

from __future__ import annotations

from functools import cache
from itertools import combinations_with_replacement
from math import comb, factorial, sqrt

import torch
from torch import Tensor

from siliforce.nn.o3.exact import ExactModule

Polynomial = dict[tuple[int, int, int], float]
"""Exponents of x, y, z -> coefficient."""


class SphericalHarmonics(ExactModule):
    """`Y_lm` of all degrees up to `l_max`, mean square 1 over the sphere for each m.

    Monomials of the unit vector are built degree by degree, each from the one below, and one
    matrix product turns them into harmonics: a handful of kernels whatever `l_max`, and exact to
    any order of differentiation.
    """

    _matrix: Tensor

    def __init__(self, l_max: int) -> None:
        super().__init__()
        self.l_max = l_max
        self.register_constant("_matrix", harmonic_matrix(l_max).t())
        for degree in range(2, l_max + 1):
            lower, axis = _raising(degree)
            self.register_buffer(f"_lower_{degree}", torch.tensor(lower), persistent=False)
            self.register_buffer(f"_axis_{degree}", torch.tensor(axis), persistent=False)

    def forward(self, unit_vectors: Tensor) -> Tensor:
        """(n_edges, 3), of length 1 -> (n_edges, (l_max + 1)²), ordered as in `wigner`."""
        # The transpose is a view: a product with it from the left runs over contiguous edges.
        return (self._matrix @ torch.cat(self._monomials(unit_vectors))).t()

    def slopes(self, unit_vectors: Tensor, tangents: Tensor) -> Tensor:
        """Derivatives of the harmonics along tangents of the unit sphere.

        Args:
            unit_vectors: (n_edges, 3).
            tangents: (n_edges, 3), each at a right angle to its unit vector.

        Returns:
            (n_edges, (l_max + 1)²).
        """
        v, t = unit_vectors.t().contiguous(), tangents.t().contiguous()
        values = self._monomials(unit_vectors)
        slopes = [torch.zeros_like(v[:1]), t][: self.l_max + 1]
        for degree in range(2, self.l_max + 1):
            lower, axis = getattr(self, f"_lower_{degree}"), getattr(self, f"_axis_{degree}")
            value, slope = (x[-1].index_select(0, lower) for x in (values[:degree], slopes))
            slopes.append(slope * v.index_select(0, axis) + value * t.index_select(0, axis))
        return (self._matrix @ torch.cat(slopes)).t()

    def _monomials(self, unit_vectors: Tensor) -> list[Tensor]:
        """Per degree, (n_monomials, n_edges)."""
        v = unit_vectors.t().contiguous()
        monomials = [torch.ones_like(v[:1]), v][: self.l_max + 1]
        for degree in range(2, self.l_max + 1):
            lower = monomials[-1].index_select(0, getattr(self, f"_lower_{degree}"))
            monomials.append(lower * v.index_select(0, getattr(self, f"_axis_{degree}")))
        return monomials


@cache
def harmonic_matrix(l_max: int) -> Tensor:
    """Harmonics in terms of monomials, (n_monomials, (l_max + 1)²), float64."""
    rows = [e for degree in range(l_max + 1) for e in _exponents(degree)]
    matrix = torch.zeros(len(rows), (l_max + 1) ** 2, dtype=torch.float64)
    for degree in range(l_max + 1):
        for m in range(-degree, degree + 1):
            for exponents, coefficient in _harmonic(degree, m).items():
                matrix[rows.index(exponents), degree * (degree + 1) + m] = coefficient
    return matrix


def _exponents(degree: int) -> list[tuple[int, int, int]]:
    axes = combinations_with_replacement(range(3), degree)
    return [(a.count(0), a.count(1), a.count(2)) for a in axes]


def _raising(degree: int) -> tuple[list[int], list[int]]:
    """For every monomial of a degree: one of the degree below, and the axis that completes it."""
    below = _exponents(degree - 1)
    lower, axis = [], []
    for exponents in _exponents(degree):
        last = max(k for k in range(3) if exponents[k])
        reduced = tuple(n - (k == last) for k, n in enumerate(exponents))
        lower.append(below.index(reduced))  # type: ignore[arg-type]
        axis.append(last)
    return lower, axis


def _harmonic(degree: int, m: int) -> Polynomial:
    """One harmonic, homogeneous of its degree.

    `N Π(y, r²) Re or Im (z + i x)^|m|`, with Π the |m|-th derivative of the Legendre polynomial
    made homogeneous by powers of r², and N such that the mean square on the sphere is 1.
    """
    order = abs(m)
    norm = sqrt((2 * degree + 1) * factorial(degree - order) / factorial(degree + order))
    norm *= sqrt(2) if m else 1.0
    azimuthal: Polynomial = {}
    for k in range(order + 1):
        # (i x)^k: even k belong to the real part (m >= 0), odd ones to the imaginary part.
        if k % 2 == (m < 0):
            azimuthal[(k, 0, order - k)] = comb(order, k) * (-1.0) ** (k // 2)
    polar: Polynomial = {}
    for k in range((degree - order) // 2 + 1):
        factor = (-1) ** k * comb(degree, k) * comb(2 * degree - 2 * k, degree)
        power = degree - 2 * k
        factor *= factorial(power) // factorial(power - order)
        term = {(0, power - order, 0): factor / 2**degree * norm}
        for _ in range(k):
            term = _multiply(term, {(2, 0, 0): 1.0, (0, 2, 0): 1.0, (0, 0, 2): 1.0})
        for exponents, value in term.items():
            polar[exponents] = polar.get(exponents, 0.0) + value
    return _multiply(polar, azimuthal)


def _multiply(a: Polynomial, b: Polynomial) -> Polynomial:
    out: Polynomial = {}
    for ea, va in a.items():
        for eb, vb in b.items():
            key = (ea[0] + eb[0], ea[1] + eb[1], ea[2] + eb[2])
            out[key] = out.get(key, 0.0) + va * vb
    return out
