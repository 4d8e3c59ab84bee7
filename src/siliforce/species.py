"""Which elements a potential knows, and in which order its per-species tables hold them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from ase.data import atomic_numbers, chemical_symbols, covalent_radii

from siliforce.errors import DataError

MAX_Z = len(chemical_symbols) - 1
NOBLE_GASES = (0, 2, 10, 18, 36, 54, 86, 118)


@dataclass(frozen=True)
class Species:
    """Ordered elements; row `k` of every species table belongs to `numbers[k]`.

    New elements are appended (`extended`), so that the rows of the old ones never move.
    """

    numbers: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(set(self.numbers)) != len(self.numbers):
            raise DataError(f"an element is listed twice: {self.symbols}")
        for z in self.numbers:
            if not 1 <= z <= MAX_Z:
                raise DataError(f"{z} is not an atomic number (1 to {MAX_Z})")

    @classmethod
    def from_symbols(cls, symbols: Iterable[str]) -> Species:
        """The elements in the given order.

        Raises:
            DataError: a symbol is not a chemical element, or is listed twice.
        """
        symbols = list(symbols)
        unknown = [s for s in symbols if s not in atomic_numbers]
        if unknown:
            raise DataError(f"not chemical symbols: {', '.join(unknown)}")
        return cls(tuple(atomic_numbers[s] for s in symbols))

    @property
    def symbols(self) -> tuple[str, ...]:
        return tuple(chemical_symbols[z] for z in self.numbers)

    def __len__(self) -> int:
        return len(self.numbers)

    def extended(self, numbers: Iterable[int]) -> Species:
        """These elements followed by the ones of `numbers` that are new, by atomic number."""
        new = sorted({int(z) for z in numbers} - set(self.numbers))
        return Species(self.numbers + tuple(new))

    def lookup(self) -> np.ndarray:
        """Table from atomic number to row, -1 for elements that are not known; (MAX_Z + 1,)."""
        table = np.full(MAX_Z + 1, -1, dtype=np.int64)
        table[list(self.numbers)] = np.arange(len(self.numbers))
        return table

    def unknown(self, numbers: np.ndarray) -> tuple[str, ...]:
        """Symbols among `numbers` that are not in this list."""
        missing = sorted({int(z) for z in np.unique(numbers)} - set(self.numbers))
        return tuple(chemical_symbols[z] for z in missing)


def group(z: int) -> int:
    """Column of the periodic table, 1 to 18; lanthanides and actinides count as 3."""
    before = max(noble for noble in NOBLE_GASES if noble < z)
    length = NOBLE_GASES[NOBLE_GASES.index(before) + 1] - before
    position = z - before
    if position <= (1 if length == 2 else 2):
        return position
    return max(position + 18 - length, 3)


def neighbor_in_table(z: int, known: Iterable[int]) -> int:
    """The element of `known` that is most like `z`: of the same group, else of any.

    Among those the one of nearest covalent radius. The group leads because it decides how many
    electrons an atom brings and so how many bonds it makes; what differs is then mostly a length.
    """

    def distance(other: int) -> tuple[bool, float]:
        return group(other) != group(z), abs(covalent_radii[other] - covalent_radii[z])

    return min(known, key=distance)
