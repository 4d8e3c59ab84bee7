"""Spherical Bessel functions against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.special import sph_harm_y, spherical_jn

from siliforce.nn.angular import (
    SphericalBesselBasis,
    chebyshev,
    spherical_bessel_roots,
    zonal_norms,
)

L_MAX, N_RADIAL = 6, 7
X = torch.linspace(0.0, 1.0, 401, dtype=torch.float64)


def basis(dtype: torch.dtype = torch.float64) -> SphericalBesselBasis:
    return SphericalBesselBasis(L_MAX, N_RADIAL).to(dtype)


def expected(order: int, n: int, derivative: int = 0) -> np.ndarray:
    """`N j_l(z x)` and its derivatives with respect to x."""
    root = spherical_bessel_roots(L_MAX, N_RADIAL)[order, n].item()
    norm, z = np.sqrt(2) / abs(spherical_jn(order + 1, root)), root * X.numpy()
    if derivative < 2:
        return norm * root**derivative * spherical_jn(order, z, derivative == 1)
    with np.errstate(divide="ignore", invalid="ignore"):  # the equation j_l solves
        value, slope = spherical_jn(order, z), spherical_jn(order, z, True)
        return norm * root**2 * (-2 / z * slope - (1 - order * (order + 1) / z**2) * value)


def test_roots_are_roots_in_order_and_none_is_missing() -> None:
    roots = spherical_bessel_roots(L_MAX, N_RADIAL).numpy()
    for order, row in enumerate(roots):
        assert np.abs(spherical_jn(order, row)).max() < 1e-15
        fine = np.linspace(1e-3 + (order > 0), row[-1] + 0.1, 20001)
        signs = np.sign(spherical_jn(order, fine))
        assert (np.diff(signs) != 0).sum() == N_RADIAL
    np.testing.assert_allclose(roots[1, :2], [4.493409457909064, 7.725251836937707], rtol=1e-15)


@pytest.mark.parametrize("order", range(L_MAX + 1))
def test_bessel_functions_and_two_derivatives(order: int) -> None:
    x = X.clone().requires_grad_()
    for n in range(N_RADIAL):
        value = basis()(x)[:, order, n]
        (first,) = torch.autograd.grad(value.sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), x)
        np.testing.assert_allclose(value.detach(), expected(order, n), atol=1e-13)
        # The edge itself is where the argument is clamped.
        inside = slice(20, -1)
        np.testing.assert_allclose(
            first.detach()[inside], expected(order, n, 1)[inside], atol=1e-10
        )
        np.testing.assert_allclose(second[inside], expected(order, n, 2)[inside], atol=1e-7)


def test_bessel_functions_are_normalised() -> None:
    function = basis()

    def square(x: float, order: int, n: int) -> float:
        return float(function(torch.tensor([x], dtype=torch.float64))[0, order, n]) ** 2 * x * x

    for order, n in ((0, 0), (3, 2), (6, 5)):
        assert abs(quad(square, 0, 1, args=(order, n))[0] - 1) < 1e-10


def test_single_precision_keeps_its_digits_at_short_distances() -> None:
    """Where the terms of closed forms, up to 10395 / z^7 for j_6, cancel to almost nothing."""
    exact, rounded = basis()(X.float().double()), basis(torch.float32)(X.float())
    assert (rounded - exact).abs().max() < 4e-6 * exact.abs().max()


def test_beyond_the_cutoff_finite_and_flat() -> None:
    x = torch.tensor([1.0, 1.3, 9.0], dtype=torch.float64, requires_grad=True)
    value = basis()(x)
    assert (value - value[0]).abs().max() == 0
    (slope,) = torch.autograd.grad(value.sum(), x)
    assert (slope[1:] == 0).all()


def test_chebyshev() -> None:
    terms = chebyshev(X, 50)
    k = torch.arange(50, dtype=torch.float64)
    torch.testing.assert_close(terms, torch.cos(k[:, None] * torch.acos(X)), rtol=0, atol=1e-12)


def test_zonal_norms() -> None:
    found = [sph_harm_y(order, 0, 0.0, 0.0).real for order in range(L_MAX + 1)]  # P_l(1) is 1
    np.testing.assert_allclose(zonal_norms(L_MAX), found, rtol=1e-14)
