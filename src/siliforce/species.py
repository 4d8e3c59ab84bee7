"""Which elements a potential knows, and in which order its per-species tables hold them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from ase.data import atomic_numbers, chemical_symbols

from siliforce.errors import DataError

MAX_Z = len(chemical_symbols) - 1


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
    def from_numbers(cls, numbers: Iterable[int] | np.ndarray) -> Species:
        """The distinct elements among `numbers`, by increasing atomic number."""
        return cls(tuple(sorted({int(z) for z in numbers})))

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
