"""The algebra against e3nn, number by number."""

from __future__ import annotations

import pytest
import torch
from e3nn import o3

from siliforce.nn.o3 import SphericalHarmonics, wigner_3j


def unit_vectors(n: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(n, 3, dtype=torch.float64, generator=generator)
    axes = torch.eye(3, dtype=torch.float64)
    return torch.nn.functional.normalize(torch.cat([v, axes, -axes]), dim=1)


@pytest.mark.parametrize("l_max", [0, 1, 2, 3, 6])
def test_spherical_harmonics(l_max: int) -> None:
    vectors = unit_vectors(40)
    theirs = o3.spherical_harmonics(list(range(l_max + 1)), vectors, False, "component")
    ours = SphericalHarmonics(l_max).double()(vectors)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_harmonics_differentiate_twice() -> None:
    harmonics = SphericalHarmonics(3).double()
    vectors = unit_vectors(4).requires_grad_()
    assert torch.autograd.gradgradcheck(harmonics, vectors)


def test_harmonics_keep_float64_constants() -> None:
    """A detour through float32 must not round the constants."""
    vectors = unit_vectors(10)
    detour = SphericalHarmonics(4).float().double()
    expected = SphericalHarmonics(4).double()(vectors)
    assert torch.equal(detour(vectors), expected)


def test_wigner_3j() -> None:
    n_odd = 0
    for l1 in range(5):
        for l2 in range(5):
            for l3 in range(abs(l1 - l2), min(l1 + l2, 4) + 1):
                theirs = o3.wigner_3j(l1, l2, l3, dtype=torch.float64)
                torch.testing.assert_close(wigner_3j(l1, l2, l3), theirs, rtol=0, atol=1e-12)
                n_odd += (l1 + l2 + l3) % 2
    assert n_odd > 10, "couplings that change natural parity belong to the test"


def test_wigner_3j_refuses_what_does_not_couple() -> None:
    with pytest.raises(ValueError, match="triangle"):
        wigner_3j(1, 1, 3)
