"""One labelled structure."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from ase import Atoms

from siliforce.errors import DataError
from siliforce.graph.neighbors import completed_cell
from siliforce.species import MAX_Z

Tag = str | float


@dataclass(frozen=True)
class Frame:
    """A structure and what ab-initio says of it; what is missing is NaN or None.

    Attributes:
        numbers: atomic numbers, (n_atoms,).
        positions: (n_atoms, 3), Å.
        cell: lattice vectors as rows, (3, 3), Å; zeros where there is none.
        pbc: (3,).
        energy: eV.
        forces: (n_atoms, 3), eV/Å.
        stress: (3, 3), eV/Å³, positive under tension.
        group: trajectory or run it belongs to; empty if unknown.
        config_type: kind of structure; empty if unknown.
        tags: further facts, such as temperature or phase.
        weight: in the loss.
        velocities: (n_atoms, 3), ASE's unit; of trajectories as they are read, no store keeps them.
        source: file and position it was read from.
    """

    numbers: np.ndarray
    positions: np.ndarray
    cell: np.ndarray
    pbc: np.ndarray
    energy: float = np.nan
    forces: np.ndarray | None = None
    stress: np.ndarray | None = None
    group: str = ""
    config_type: str = ""
    tags: dict[str, Tag] = field(default_factory=dict)
    weight: float = 1.0
    velocities: np.ndarray | None = None
    source: str = ""

    @classmethod
    def from_atoms(cls, atoms: Atoms, **labels: Any) -> Frame:
        """The structure of `atoms` with the given labels; labels inside `atoms` are not read."""
        return cls(
            numbers=np.asarray(atoms.numbers, dtype=np.int64),
            positions=np.asarray(atoms.positions, dtype=np.float64),
            cell=np.asarray(atoms.cell.array, dtype=np.float64),
            pbc=np.asarray(atoms.pbc, dtype=bool),
            **labels,
        )

    def to_atoms(self) -> Atoms:
        """Structure alone."""
        return Atoms(self.numbers, self.positions, cell=self.cell, pbc=self.pbc)

    @property
    def n_atoms(self) -> int:
        return len(self.numbers)

    def replace(self, **changes: Any) -> Frame:
        """A copy with some fields replaced."""
        return replace(self, **changes)

    def digest(self) -> bytes:
        """16 bytes that name structure and labels, whatever file they came from."""
        h = hashlib.blake2b(digest_size=16)
        h.update(np.asarray(self.numbers, dtype=np.uint8).tobytes())
        for array in (self.positions, self.cell, self.energy, self.forces, self.stress):
            h.update(b"-" if array is None else np.asarray(array, dtype="<f8").tobytes())
        h.update(np.asarray(self.pbc, dtype=bool).tobytes())
        return h.digest()

    def check(self) -> None:
        """Refuse what no potential can learn from.

        Raises:
            DataError: no atoms, unknown elements, wrong shapes, NaN or infinite values, a cell
                without volume.
        """
        n = self.n_atoms
        if n == 0:
            raise DataError(f"{self._name}: holds no atoms")
        if self.numbers.min() < 1 or self.numbers.max() > MAX_Z:
            raise DataError(
                f"{self._name}: atomic numbers lie between {self.numbers.min()} and "
                f"{self.numbers.max()}; allowed are 1 to {MAX_Z}"
            )
        for name, array, shape in (
            ("positions", self.positions, (n, 3)),
            ("forces", self.forces, (n, 3)),
            ("stress", self.stress, (3, 3)),
        ):
            if array is None:
                continue
            if np.shape(array) != shape:
                raise DataError(f"{self._name}: {name} have shape {np.shape(array)}, not {shape}")
            if not np.isfinite(array).all():
                raise DataError(
                    f"{self._name}: {name} hold NaN or infinite values; remove the frame "
                    "(--skip-bad leaves such frames out) or label it again"
                )
        if np.isinf(self.energy):
            raise DataError(f"{self._name}: the energy is infinite")
        try:
            completed_cell(self.cell, self.pbc)
        except DataError as error:
            raise DataError(f"{self._name}: {error}") from None

    @property
    def _name(self) -> str:
        return self.source or "frame"
