"""Symmetric powers of features, contracted to equivariants: the higher body orders of MACE."""

from __future__ import annotations

from collections import Counter
from functools import cache
from itertools import combinations_with_replacement, product
from math import factorial, prod

import torch
from torch import Tensor, nn

from siliforce.nn.o3.exact import ExactModule
from siliforce.nn.o3.wigner import wigner_3j
from siliforce.nn.species_table import SpeciesTable


class SymmetricContraction(ExactModule):
    """`B_L[M, k] = sum_ν sum_η W_{z,ν,η,L}[k] U_{ν,η}[M, c_1 .. c_ν] A[c_1, k] .. A[c_ν, k]`.

    U is an orthonormal basis of the *symmetric* couplings. The couplings of the paper's code are
    not symmetrised, and most combinations of them vanish or repeat when all factors are equal;
    both span the same functions, and weights drawn here have the same distribution of functions
    (an orthonormal set, projected onto the symmetric subspace, is a tight frame).

    Weights and U are first contracted to a table of polynomial coefficients per species and
    channel; the polynomial is then evaluated in Horner's way, its cubic part as
    `sum_a A_a (sum_{b<=c} C_{a,bc} A_b A_c)` with the inner sum one matrix product per channel.

    Attributes:
        weights: per L and ν, table of (n_basis, n_channels).

    Reference:
        Batatia et al., MACE (2022), eq. 10 and 11.
    """

    _first: Tensor
    _second: Tensor

    def __init__(
        self, l_in: int, l_out: int, correlation: int, n_species: int, n_channels: int
    ) -> None:
        super().__init__()
        if not 1 <= correlation <= 3:
            raise ValueError(f"correlation is {correlation}; 1, 2 and 3 are implemented")
        self.l_out, self.correlation = l_out, correlation
        self.dim_in, self.n_channels = (l_in + 1) ** 2, n_channels
        self.weights = nn.ModuleDict()
        for degree, order in product(range(l_out + 1), range(1, correlation + 1)):
            basis = symmetric_basis(l_in, degree, order)
            if len(basis) == 0:
                continue
            name = f"{degree}_{order}"
            self.register_constant(f"_basis_{name}", self._table(basis, order))
            initial = torch.randn(n_species, len(basis), n_channels)
            self.weights[name] = SpeciesTable(initial / n_couplings(l_in, degree, order))
        pairs = monomials(self.dim_in, 2)
        self.register_buffer("_first", torch.tensor([a for a, _ in pairs]), persistent=False)
        self.register_buffer("_second", torch.tensor([b for _, b in pairs]), persistent=False)

    def _table(self, basis: Tensor, order: int) -> Tensor:
        """Basis by outermost factor and product of the others, (n_basis, (2L+1) dim_in n_inner)."""
        inner = [m for k in range(self.correlation) for m in monomials(self.dim_in, k)]
        column = {m: k for k, m in enumerate(inner)}
        table = basis.new_zeros(*basis.shape[:2], self.dim_in, len(inner))
        for k, monomial in enumerate(monomials(self.dim_in, order)):
            table[:, :, monomial[-1], column[monomial[:-1]]] = basis[:, :, k]
        return table.flatten(1)

    def coefficients(self) -> Tensor:
        """Of the polynomials, (n_channels, n_species, (l_out + 1)² dim_in, n_inner)."""
        degrees = []
        for degree in range(self.l_out + 1):
            names = [n for n in self.weights if n.startswith(f"{degree}_")]
            tables: list[Tensor] = [self.weights.get_parameter(f"{n}.weight") for n in names]
            weights = torch.cat(tables, dim=1)
            basis = torch.cat([getattr(self, f"_basis_{n}") for n in names])
            table = weights.permute(2, 0, 1) @ basis
            shape = (*table.shape[:2], 2 * degree + 1, self.dim_in, -1)
            degrees.append(table.view(shape))
        return torch.cat(degrees, dim=2).flatten(2, 3)

    def forward(self, features: Tensor, species: Tensor) -> Tensor:
        """(n_atoms, (l_in + 1)², n_channels) -> (n_atoms, (l_out + 1)², n_channels)."""
        table = self.coefficients()
        if torch.compiler.is_compiling():  # the number of atoms of a species is no static shape
            every = torch.stack([self._evaluate(t, features) for t in table.unbind(1)])
            chosen = torch.arange(table.shape[1], device=species.device)[:, None] == species
            return (every * chosen[:, :, None, None]).sum(dim=0)
        order = torch.argsort(species, stable=True)
        counts = torch.bincount(species, minlength=table.shape[1]).tolist()
        groups = features.index_select(0, order).split(counts)
        out = torch.cat(
            [self._evaluate(*pair) for pair in zip(table.unbind(1), groups, strict=True)]
        )
        return out.index_select(0, torch.argsort(order))

    def _evaluate(self, table: Tensor, features: Tensor) -> Tensor:
        """One species' polynomials, (n, dim_in, n_channels) -> (n, (l_out + 1)², n_channels).

        Args:
            table: (n_channels, (l_out + 1)² dim_in, n_inner).
            features: of the atoms of that species.
        """
        x = features.permute(2, 1, 0).contiguous()
        inner = [torch.ones_like(x[:, :1]), x][: self.correlation]
        if self.correlation > 2:
            inner.append(x.index_select(1, self._first) * x.index_select(1, self._second))
        outer = (table @ torch.cat(inner, dim=1)).unflatten(1, (-1, self.dim_in))
        return (outer * x[:, None]).sum(dim=2).permute(2, 1, 0)


def n_couplings(l_in: int, degree: int, order: int) -> int:
    """Couplings of `order` features to one degree, the order of the factors counted."""
    states = Counter({(0, 0): 1})
    for _ in range(order):
        following: Counter[tuple[int, int]] = Counter()
        for ((left, parity), count), right in product(states.items(), range(l_in + 1)):
            for total in range(abs(left - right), left + right + 1):
                following[total, (parity + right) % 2] += count
        states = following
    return states[degree, degree % 2]


def monomials(dim: int, order: int) -> list[tuple[int, ...]]:
    """All products of `order` out of `dim` components, as sorted indices."""
    return list(combinations_with_replacement(range(dim), order))


def multiplicity(dim: int, order: int) -> Tensor:
    """Root of the number of orders a monomial's factors can have, (n_monomials,), float64.

    A symmetric tensor spreads a polynomial's coefficient over them: coefficients divided by this
    have the norm of the tensor.
    """
    counts = (Counter(m).values() for m in monomials(dim, order))
    orders = [factorial(order) // prod(map(factorial, c)) for c in counts]
    return torch.tensor(orders, dtype=torch.float64).sqrt()


@cache
def symmetric_basis(l_in: int, degree: int, order: int) -> Tensor:
    """Orthonormal symmetric couplings of `order` features of natural parity to one degree.

    Every output component is a symmetric tensor of unit norm. Couplings are taken in a fixed
    order and orthogonalised one after the other, so that the basis, which trained weights refer
    to, is the same on every machine.

    Returns:
        Polynomial coefficients, (n_basis, 2 L + 1, n_monomials), float64.
    """
    dim = (l_in + 1) ** 2
    rows = {m: k for k, m in enumerate(monomials(dim, order))}
    norm = multiplicity(dim, order)
    basis = norm.new_zeros(0, 2 * degree + 1, len(rows))
    for degrees in combinations_with_replacement(range(l_in + 1), order):
        if (sum(degrees) + degree) % 2:
            continue
        for coupling in _couplings(degrees, degree):
            candidate = polynomials(coupling, degrees, rows) / norm
            for _ in range(2):
                overlap = torch.einsum("nmq,mq->n", basis, candidate) / (2 * degree + 1)
                candidate = candidate - torch.einsum("n,nmq->mq", overlap, basis)
            size = candidate[0].norm()
            if size > 1e-6 * coupling[0].norm():
                basis = torch.cat([basis, (candidate / size)[None]])
    return basis * norm


def _couplings(degrees: tuple[int, ...], degree: int) -> list[Tensor]:
    """Coupling tensors, output component first, over all intermediate degrees."""
    states = [(degrees[0], torch.eye(2 * degrees[0] + 1, dtype=torch.float64))]
    for right in degrees[1:]:
        states = [
            (total, torch.einsum("a...,abc->c...b", tensor, wigner_3j(left, right, total)))
            for left, tensor in states
            for total in range(abs(left - right), left + right + 1)
        ]
    return [tensor for total, tensor in states if total == degree]


def polynomials(
    coupling: Tensor, degrees: tuple[int, ...], rows: dict[tuple[int, ...], int]
) -> Tensor:
    """Coefficients of all monomials, (2 L + 1, n_monomials); summing over orders symmetrises."""
    components = [range(d * d, (d + 1) ** 2) for d in degrees]
    index = torch.tensor([rows[tuple(sorted(c))] for c in product(*components)])
    out = coupling.new_zeros(coupling.shape[0], len(rows))
    return out.index_add(1, index, coupling.flatten(1))
