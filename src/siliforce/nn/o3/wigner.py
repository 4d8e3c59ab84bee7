"""Coupling coefficients of the rotation group in the real basis.

Basis of degree l: `m = -l .. l`, polar axis y, azimuth from z to x, no Condon-Shortley phase, so
that degree 1 is (x, y, z). This is e3nn's basis; tests hold every coefficient against it.

Reference:
    Edmonds, Angular Momentum in Quantum Mechanics (1957), eq. 3.6.10 and 3.7.3.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from math import factorial, sqrt

import numpy as np
import torch
from torch import Tensor


@cache
def wigner_3j(l1: int, l2: int, l3: int) -> Tensor:
    """The invariant tensor of three degrees, of unit norm, (2 l1 + 1, 2 l2 + 1, 2 l3 + 1), float64.

    Raises:
        ValueError: the degrees violate the triangle rule, so that no such tensor exists.
    """
    if not abs(l1 - l2) <= l3 <= l1 + l2:
        raise ValueError(f"no coupling of degrees {l1}, {l2}, {l3}: the triangle rule fails")
    complex_coefficients = _clebsch_gordan(l1, l2, l3)
    real = np.einsum(
        "abc,ai,bj,ck->ijk",
        complex_coefficients,
        _real_to_complex(l1),
        _real_to_complex(l2),
        _real_to_complex(l3).conj(),
    )
    return torch.from_numpy(np.ascontiguousarray(real.real) / np.linalg.norm(real.real))


def _clebsch_gordan(l1: int, l2: int, l3: int) -> np.ndarray:
    """`<l1 m1 l2 m2 | l3 m3>`, (2 l1 + 1, 2 l2 + 1, 2 l3 + 1)."""
    out = np.zeros((2 * l1 + 1, 2 * l2 + 1, 2 * l3 + 1))
    for m1 in range(-l1, l1 + 1):
        for m2 in range(max(-l2, -l3 - m1), min(l2, l3 - m1) + 1):
            out[l1 + m1, l2 + m2, l3 + m1 + m2] = _coefficient(l1, m1, l2, m2, l3)
    return out


def _coefficient(l1: int, m1: int, l2: int, m2: int, l3: int) -> float:
    """Racah's closed form, summed in exact integers."""
    f, m3 = factorial, m1 + m2
    square = Fraction(
        (2 * l3 + 1)
        * f(l3 + l1 - l2)
        * f(l3 - l1 + l2)
        * f(l1 + l2 - l3)
        * f(l3 + m3)
        * f(l3 - m3),
        f(l1 + l2 + l3 + 1) * f(l1 - m1) * f(l1 + m1) * f(l2 - m2) * f(l2 + m2),
    )
    first, last = max(-l1 + l2 + m3, -l1 + m1, 0), min(l2 + l3 + m1, l3 - l1 + l2, l3 + m3)
    total = Fraction(0)
    for v in range(first, last + 1):
        total += Fraction(
            (-1) ** (v + l2 + m2) * f(l2 + l3 + m1 - v) * f(l1 - m1 + v),
            f(v) * f(l3 - l1 + l2 - v) * f(l3 + m3 - v) * f(v + l1 - l2 - m3),
        )
    return float(total) * sqrt(square)


def _real_to_complex(degree: int) -> np.ndarray:
    """Complex spherical harmonics in terms of real ones, rows m complex; (2 l + 1, 2 l + 1)."""
    out = np.zeros((2 * degree + 1, 2 * degree + 1), dtype=complex)
    for m in range(1, degree + 1):
        out[degree - m, degree + m], out[degree - m, degree - m] = sqrt(0.5), -1j * sqrt(0.5)
        sign = (-1) ** m
        out[degree + m, degree + m], out[degree + m, degree - m] = (
            sign * sqrt(0.5),
            1j * sign * sqrt(0.5),
        )
    out[degree, degree] = 1
    # A common phase per degree makes all coupling coefficients real.
    return out * (-1j) ** degree
