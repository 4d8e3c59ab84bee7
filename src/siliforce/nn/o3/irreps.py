"""Kinds of features: how they answer to rotation and to inversion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


class Irrep(NamedTuple):
    """One irreducible representation of O(3).

    Harmonics of degree l have parity (-1)^l, the natural one. Products of them reach the other
    parity too: a cross product of vectors is of degree 1 and even.

    Attributes:
        degree: l.
        parity: 1 or -1, the sign under inversion.
    """

    degree: int
    parity: int

    @property
    def dim(self) -> int:
        """Number of components, 2 l + 1."""
        return 2 * self.degree + 1

    @property
    def natural(self) -> bool:
        """Whether it is what harmonics are."""
        return self.parity == (-1) ** self.degree

    def harmonics_to(self, other: Irrep, l_max: int) -> list[int]:
        """Degrees of harmonics whose product with this has a part that is like `other`."""
        low, high = abs(self.degree - other.degree), self.degree + other.degree
        sign = self.parity * other.parity
        return [k for k in range(low, min(high, l_max) + 1) if (-1) ** k == sign]

    def __str__(self) -> str:
        return f"{self.degree}{'e' if self.parity == 1 else 'o'}"


SCALAR = Irrep(0, 1)


def natural_irreps(l_max: int) -> tuple[Irrep, ...]:
    """One of every degree, parity (-1)^l."""
    return tuple(Irrep(degree, (-1) ** degree) for degree in range(l_max + 1))


def all_irreps(l_max: int) -> tuple[Irrep, ...]:
    """Two of every degree, the even one first."""
    return tuple(Irrep(degree, parity) for degree in range(l_max + 1) for parity in (1, -1))


def layers_of_irreps(
    first: Sequence[Irrep], allowed: Sequence[Irrep], l_edge: int, n_layers: int
) -> list[tuple[Irrep, ...]]:
    """What features are worth having before, between and after layers that end in scalars.

    Every layer multiplies by harmonics of degrees up to `l_edge`. A feature is kept if the layers
    before can make it and the layers after can turn it into a scalar; others would cost time and
    never have an effect.

    Args:
        first: of the input.
        allowed: of the layers between.
        l_edge: degree of the harmonics.
        n_layers: how many.

    Returns:
        n_layers + 1 sets, of which the last is the scalar alone.
    """
    sets = [tuple(first)]
    for _ in range(n_layers - 1):
        made = [b for b in allowed if any(a.harmonics_to(b, l_edge) for a in sets[-1])]
        sets.append(tuple(made))
    sets.append((SCALAR,))
    for k in reversed(range(n_layers)):
        useful = [a for a in sets[k] if any(a.harmonics_to(b, l_edge) for b in sets[k + 1])]
        sets[k] = tuple(useful)
    return sets


def split_irreps(features: Tensor, irreps: Sequence[Irrep]) -> tuple[Tensor, ...]:
    """(n, n_components, n_channels) -> one (n, 2 l + 1, n_channels) per irrep."""
    return features.split([irrep.dim for irrep in irreps], dim=1)
