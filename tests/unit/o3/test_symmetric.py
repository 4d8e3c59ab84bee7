"""The symmetric couplings and their contraction."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from e3nn import o3

from siliforce.nn.o3 import SphericalHarmonics, SymmetricContraction, symmetric_basis
from siliforce.nn.o3.symmetric import monomials, multiplicity, n_couplings

CASES = list(product(range(3), range(1, 4)))


@pytest.mark.parametrize(("degree", "order"), CASES)
def test_basis_is_orthonormal(degree: int, order: int) -> None:
    basis = symmetric_basis(2, degree, order) / multiplicity(9, order)
    for component in range(2 * degree + 1):
        gram = basis[:, component] @ basis[:, component].T
        torch.testing.assert_close(gram, torch.eye(len(basis)).double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("degree", "order"), CASES)
def test_basis_is_complete(degree: int, order: int) -> None:
    """As many as rotations and inversion leave, counted by averaging characters over the group.

    The character of a symmetric power is a polynomial in the characters at multiples of the
    angle; the count is that of equivariant maps from it to the degree.
    """
    angles = (torch.arange(4000, dtype=torch.float64) + 0.5) * torch.pi / 4000
    measure = (1 - torch.cos(angles)) / 4000

    def character(degree: int, angle: torch.Tensor) -> torch.Tensor:
        return 1 + 2 * sum(torch.cos(m * angle) for m in range(1, degree + 1))

    count = torch.zeros(())
    for sign in (1, -1):

        def power(k: int, sign: int = sign) -> torch.Tensor:
            return sum(sign ** (k * d) * character(d, k * angles) for d in range(3))

        p1, p2, p3 = power(1), power(2), power(3)
        symmetric = {1: p1, 2: (p1**2 + p2) / 2, 3: (p1**3 + 3 * p1 * p2 + 2 * p3) / 6}[order]
        count = count + (symmetric * sign**degree * character(degree, angles) * measure).sum() / 2
    assert len(symmetric_basis(2, degree, order)) == round(float(count))
    assert abs(float(count) - round(float(count))) < 1e-3


def test_number_of_couplings_of_the_papers_code() -> None:
    """23, 51 and 65 four-body couplings with l_max 3, of which 8, 12 and 14 differ."""
    assert [n_couplings(3, degree, 3) for degree in range(3)] == [23, 51, 65]
    assert [len(symmetric_basis(3, degree, 3)) for degree in range(3)] == [8, 12, 14]


@pytest.mark.parametrize("correlation", [1, 2, 3])
def test_contraction_equals_the_definition(correlation: int) -> None:
    torch.manual_seed(0)
    n_species, n_channels, l_in, l_out = 2, 3, 2, 1
    module = SymmetricContraction(l_in, l_out, correlation, n_species, n_channels).double()
    a = torch.randn(5, 9, n_channels, dtype=torch.float64)
    species = torch.tensor([0, 1, 1, 0, 1])
    expected = torch.zeros(5, 4, n_channels, dtype=torch.float64)
    for degree, order in product(range(l_out + 1), range(1, correlation + 1)):
        weight = module.weights[f"{degree}_{order}"].weight[species]
        powers = torch.stack([a[:, list(m)].prod(1) for m in monomials(9, order)], dim=1)
        basis = symmetric_basis(l_in, degree, order)
        part = torch.einsum("nbk,bmq,nqk->nmk", weight, basis, powers)
        expected[:, degree**2 : (degree + 1) ** 2] += part
    torch.testing.assert_close(module(a, species), expected, rtol=0, atol=1e-11)


def representation(l_max: int, rotation: torch.Tensor) -> torch.Tensor:
    """D with Y(R v) = D Y(v), from as many directions as determine it."""
    vectors = torch.nn.functional.normalize(torch.randn(60, 3, dtype=torch.float64), dim=1)
    harmonics = SphericalHarmonics(l_max).double()
    return torch.linalg.lstsq(harmonics(vectors), harmonics(vectors @ rotation.T)).solution.T


def test_contraction_is_equivariant() -> None:
    torch.manual_seed(1)
    module = SymmetricContraction(3, 2, 3, 1, 2).double()
    a, species = torch.randn(4, 16, 2, dtype=torch.float64), torch.zeros(4, dtype=torch.long)
    rotation = -o3.rand_matrix(dtype=torch.float64)
    d_in, d_out = representation(3, rotation), representation(2, rotation)
    turned = module(torch.einsum("ab,nbk->nak", d_in, a), species)
    expected = torch.einsum("ab,nbk->nak", d_out, module(a, species))
    torch.testing.assert_close(turned, expected, rtol=0, atol=1e-10)
    assert expected.abs().max() > 0.1


def test_correlation_beyond_three_is_refused() -> None:
    with pytest.raises(ValueError, match="correlation is 4"):
        SymmetricContraction(1, 0, 4, 1, 1)
