"""Atom-centred symmetry functions: fixed descriptors of an atom's surroundings."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from siliforce.graph import Graph
from siliforce.nn.cutoff import cosine_cutoff
from siliforce.nn.scatter import gather_neighbors


class SymmetryFunctions(nn.Module):
    """Radial (G2) and angular (G4) symmetry functions, resolved by the neighbours' elements.

    `G2 = Σ_j exp(-η (r_ij - r_s)²) f_c(r_ij)` for every element of j, and
    `G4 = 2^(1-ζ) Σ_{j<k} (1 + λ cos θ)^ζ exp(-η (r_ij² + r_ik² + r_jk²)) f_c f_c f_c` for every
    unordered pair of elements of j and k, each triplet counted once; f_c is the cosine cutoff.

    Reference:
        Behler, J. Chem. Phys. 134, 074106 (2011), eqs. 6 and 8.
    """

    def __init__(
        self,
        cutoff: float,
        radial: Sequence[tuple[float, float]],
        angular_eta: Sequence[float],
        zeta: Sequence[int],
    ) -> None:
        """Choose the parameters.

        Args:
            cutoff: Å.
            radial: η [1/Å²] and r_s [Å] of each G2.
            angular_eta: η of G4, 1/Å²; every combination with ζ and λ = +1, -1 is taken.
            zeta: positive integers.
        """
        super().__init__()
        self.cutoff = cutoff
        self.radial = tuple(radial)
        self.angular_eta = tuple(angular_eta)
        self.zeta = tuple(zeta)

    @property
    def n_radial(self) -> int:
        """G2 per element."""
        return len(self.radial)

    @property
    def n_angular(self) -> int:
        """G4 per pair of elements; λ varies slowest, then η, then ζ."""
        return 2 * len(self.angular_eta) * len(self.zeta)

    def forward(
        self, graph: Graph, n_species: int, weight: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Descriptors of every atom.

        Args:
            graph: with (closed) unordered triplets.
            n_species: elements to resolve.
            weight: with which atoms count as neighbours, (n_atoms,): terms of G2 are multiplied
                by that of j, terms of G4 by those of j and k (Gastegger et al., J. Chem. Phys.
                148, 241709 (2018)).

        Returns:
            G2, (n_atoms, n_species, n_radial), and G4, (n_atoms, n_species (n_species + 1) / 2,
            n_angular). The pair of elements a <= b stands at `b (b + 1) / 2 + a`, so that the
            pairs of the first species come first whatever is added later.
        """
        n_atoms = graph.species.shape[0]
        lengths = graph.edge_lengths
        envelope = cosine_cutoff(lengths, self.cutoff)
        elements = gather_neighbors(graph.species, graph)
        slot = graph.center * n_species + elements
        g2 = lengths.new_zeros(self.n_radial, n_atoms * n_species)
        of_edge = None if weight is None else gather_neighbors(weight, graph)
        radial = self._radial(lengths) * (envelope if of_edge is None else envelope * of_edge)
        g2 = g2.index_add(1, slot, radial)
        pairs = n_pairs(n_species)
        values, slot = self._angular(graph, lengths, envelope, elements, pairs)
        if of_edge is not None:
            assert graph.triplets is not None
            j, k = graph.triplets
            values = values * (of_edge.index_select(0, j) * of_edge.index_select(0, k))
        g4 = lengths.new_zeros(self.n_angular, n_atoms * pairs).index_add(1, slot, values)
        return (
            g2.t().reshape(n_atoms, n_species, self.n_radial),
            g4.t().reshape(n_atoms, pairs, self.n_angular),
        )

    # Functions come first and edges or triplets last in what follows: the long axis is then the
    # contiguous one, and products of few by few functions run several times faster.

    def _radial(self, lengths: Tensor) -> Tensor:
        """(n_radial, n_edges)."""
        eta, shift = lengths.new_tensor(self.radial).reshape(-1, 2, 1).unbind(1)
        return torch.exp(-eta * (lengths - shift).square())

    def _angular(
        self, graph: Graph, lengths: Tensor, envelope: Tensor, elements: Tensor, pairs: int
    ) -> tuple[Tensor, Tensor]:
        """Terms of every triplet, (n_angular, n_triplets), and where they are summed."""
        assert graph.triplets is not None
        j, k = graph.triplets
        vectors = graph.edge_vectors.t().contiguous()
        dot = (vectors.index_select(1, j) * vectors.index_select(1, k)).sum(0)
        square = lengths.square()
        two_sides = square.index_select(0, j) + square.index_select(0, k)
        third = two_sides - 2 * dot
        cosine = dot / (lengths.index_select(0, j) * lengths.index_select(0, k))
        cut = envelope.index_select(0, j) * envelope.index_select(0, k)
        cut = cut * cosine_cutoff(third.sqrt(), self.cutoff)
        eta = lengths.new_tensor(self.angular_eta)[:, None]
        radial = torch.exp(-eta * (two_sides + third)) * cut
        # 2^(1-ζ) (1 ± cos θ)^ζ = 2 ((1 ± cos θ) / 2)^ζ
        base = torch.stack([0.5 + 0.5 * cosine, 0.5 - 0.5 * cosine])
        angular = 2 * torch.stack(integer_powers(base, self.zeta), dim=1)
        values = angular[:, None] * radial[:, None]
        first, second = elements.index_select(0, j), elements.index_select(0, k)
        low, high = torch.minimum(first, second), torch.maximum(first, second)
        slot = graph.center.index_select(0, j) * pairs + high * (high + 1) // 2 + low
        return values.flatten(0, 2), slot


def n_pairs(n_species: int) -> int:
    """Unordered pairs of elements, an element with itself included."""
    return n_species * (n_species + 1) // 2


def integer_powers(base: Tensor, exponents: Sequence[int]) -> list[Tensor]:
    """`base` to each of the positive exponents, by repeated squaring."""
    squares = [base]
    while 2 ** len(squares) <= max(exponents):
        squares.append(squares[-1].square())
    powers = []
    for exponent in exponents:
        factors = [s for bit, s in enumerate(squares) if exponent >> bit & 1]
        power = factors[0]
        for factor in factors[1:]:
            power = power * factor
        powers.append(power)
    return powers


def shifted_radial(cutoff: float, n: int) -> tuple[tuple[float, float], ...]:
    """Gaussians at even distances, each as wide as the spacing."""
    start = 1.5
    spacing = (cutoff - start) / n
    return tuple((round(0.5 / spacing**2, 6), round(start + k * spacing, 6)) for k in range(n))
