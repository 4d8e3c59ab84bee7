"""What a model needs to know of its training set: reference energies, scales, neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from ase.data import chemical_symbols

from siliforce.data.dataset import Dataset
from siliforce.errors import DataError

VACUUM = 6.0
"""Distance to its own image from which on an atom counts as isolated, Å."""


@dataclass(frozen=True)
class ReferenceEnergies:
    """E0 of every element and where it comes from.

    Attributes:
        energies: atomic number -> eV.
        method: how each was found.
        rank: of the composition matrix; below `n_elements` the fit is not unique.
        n_elements: in the set.
        residual: RMS of energy minus the sum of E0, eV/atom.
        undetermined: compositions along which E0 can be shifted without changing any energy.
    """

    energies: dict[int, float]
    method: Literal["isolated atoms", "given", "least squares"]
    rank: int
    n_elements: int
    residual: float
    undetermined: list[dict[str, float]]


@dataclass(frozen=True)
class DataStats:
    """Statistics of a training set.

    Attributes:
        n_frames, n_atoms: sizes.
        elements: atomic numbers.
        references: E0.
        mean_energy_per_atom, std_energy_per_atom: of E/n, eV.
        std_residual_per_atom: of (E - sum of E0)/n, eV.
        mean_residual_per_atom: eV.
        rms_force: over components, eV/Å; NaN without forces.
        mean_neighbors: edges per atom within the cutoff.
        max_neighbors: the largest.
        atoms_per_volume: smallest and largest of fully periodic frames, 1/Å³, or None.
        temperature: smallest and largest tag `temperature`, K, or None.
        min_distance: smallest distance of every pair of elements within the cutoff, Å.
    """

    n_frames: int
    n_atoms: int
    elements: tuple[int, ...]
    references: ReferenceEnergies
    mean_energy_per_atom: float
    std_energy_per_atom: float
    mean_residual_per_atom: float
    std_residual_per_atom: float
    rms_force: float
    mean_neighbors: float
    max_neighbors: int
    atoms_per_volume: tuple[float, float] | None
    temperature: tuple[float, float] | None
    min_distance: dict[str, float]

    @property
    def atomic_energies(self) -> dict[int, float]:
        """Atomic number -> E0, eV."""
        return self.references.energies

    def to_json(self) -> dict[str, Any]:
        """Plain types."""
        return asdict(self)


def compute_stats(
    dataset: Dataset, cutoff: float, atomic_energies: Mapping[int, float] | None = None
) -> DataStats:
    """Statistics of a dataset, frame by frame (it need not fit in memory).

    Args:
        dataset: at least one frame.
        cutoff: for the number of neighbours, Å.
        atomic_energies: E0 to use instead of isolated atoms or a fit, eV.

    Raises:
        DataError: empty dataset, or `atomic_energies` lacks an element.
    """
    if len(dataset) == 0:
        raise DataError("no frames to take statistics of")
    elements, counts = dataset.counts
    references = reference_energies(dataset, atomic_energies)
    n = dataset.n_atoms
    residual = dataset.energies - counts @ np.array([references.energies[z] for z in elements])
    per_atom, residual = dataset.energies / n, residual / n
    square, components, distances = 0.0, 0, _Distances()
    max_neighbors = 0
    for index in range(len(dataset)):
        frame = dataset[index]
        if frame.forces is not None:
            square += float(np.square(frame.forces).sum())
            components += frame.forces.size
        max_neighbors = max(max_neighbors, distances.add(dataset, index, cutoff))
    return DataStats(
        n_frames=len(dataset),
        n_atoms=int(n.sum()),
        elements=elements,
        references=references,
        mean_energy_per_atom=_mean(per_atom),
        std_energy_per_atom=_std(per_atom),
        mean_residual_per_atom=_mean(residual),
        std_residual_per_atom=_std(residual),
        rms_force=float(np.sqrt(square / components)) if components else float("nan"),
        mean_neighbors=float(dataset.edge_counts(cutoff).sum() / n.sum()),
        max_neighbors=max_neighbors,
        atoms_per_volume=_density(dataset),
        temperature=_temperature(dataset),
        min_distance=distances.by_symbols(),
    )


def reference_energies(
    dataset: Dataset, given: Mapping[int, float] | None = None
) -> ReferenceEnergies:
    """E0: given > isolated atoms in the set > least squares with minimal norm.

    Least squares over frames with an energy; where compositions do not separate the elements, the
    solution nearest to equal energies is taken, and `undetermined` says what stays open.

    Raises:
        DataError: `given` lacks an element.
    """
    elements, counts = dataset.counts
    energies = dataset.energies
    known = np.isfinite(energies)
    matrix, target = counts[known].astype(float), energies[known]
    rank = int(np.linalg.matrix_rank(matrix)) if known.any() else 0
    isolated = {
        int(z): float(energies[i])
        for i in np.flatnonzero(known & (dataset.n_atoms == 1) & _alone(dataset.records))
        for z in [elements[int(counts[i].argmax())]]
    }
    if given is not None:
        missing = [chemical_symbols[z] for z in elements if z not in given]
        if missing:
            raise DataError(f"atomic energies are given, but not of {', '.join(missing)}")
        e0 = np.array([float(given[z]) for z in elements])
        method: Literal["isolated atoms", "given", "least squares"] = "given"
    elif set(elements) <= isolated.keys():
        e0, method = np.array([isolated[z] for z in elements]), "isolated atoms"
    elif known.any():
        # Around the mean per atom, so that the minimal-norm solution is the even one.
        level = target.sum() / matrix.sum()
        shift = np.linalg.lstsq(matrix, target - matrix.sum(axis=1) * level, rcond=None)[0]
        e0, method = level + shift, "least squares"
    else:
        e0, method = np.zeros(len(elements)), "least squares"
    rest = (target - matrix @ e0) / matrix.sum(axis=1) if known.any() else np.zeros(1)
    return ReferenceEnergies(
        energies={z: float(e) for z, e in zip(elements, e0, strict=True)},
        method=method,
        rank=rank,
        n_elements=len(elements),
        residual=float(np.sqrt(np.mean(rest**2))),
        undetermined=_null_space(matrix, elements) if known.any() else [],
    )


def _alone(records: np.ndarray) -> np.ndarray:
    """Frames without images nearer than `VACUUM`, (n_frames,): one atom may be a crystal."""
    steps = np.array([s for s in np.ndindex(3, 3, 3) if s != (1, 1, 1)]) - 1
    images = np.einsum("sa,fax->fsx", steps, records["cell"] * records["pbc"][:, :, None])
    distance = np.linalg.norm(images, axis=2)
    distance[distance == 0] = np.inf  # no period in this direction
    return distance.min(axis=1) > VACUUM


def _null_space(matrix: np.ndarray, elements: tuple[int, ...]) -> list[dict[str, float]]:
    """Combinations of E0 that no frame determines."""
    _, values, vectors = np.linalg.svd(matrix, full_matrices=True)
    rank = int((values > 1e-9 * values.max(initial=0)).sum())
    symbols = [chemical_symbols[z] for z in elements]
    return [
        {s: round(float(v / np.abs(row).max()), 3) for s, v in zip(symbols, row, strict=True)}
        for row in vectors[rank:]
    ]


class _Distances:
    """Smallest distance of every pair of elements."""

    def __init__(self) -> None:
        self.table = np.full((256, 256), np.inf)

    def add(self, dataset: Dataset, index: int, cutoff: float) -> int:
        """Look at one frame; returns its largest number of neighbours."""
        center, neighbor, lengths = dataset.edge_lengths(index, cutoff)
        if len(center) == 0:
            return 0
        numbers = dataset[index].numbers
        np.minimum.at(self.table, (numbers[center], numbers[neighbor]), lengths)
        return int(np.bincount(center).max())

    def by_symbols(self) -> dict[str, float]:
        first, second = np.nonzero(np.isfinite(self.table))
        return {
            f"{chemical_symbols[a]}-{chemical_symbols[b]}": round(float(self.table[a, b]), 4)
            for a, b in zip(first, second, strict=True)
            if a <= b
        }


def _density(dataset: Dataset) -> tuple[float, float] | None:
    records = dataset.records
    periodic = records["pbc"].all(axis=1)
    if not periodic.any():
        return None
    volume = np.abs(np.linalg.det(records["cell"][periodic]))
    density = records["n_atoms"][periodic] / volume
    return float(density.min()), float(density.max())


def _temperature(dataset: Dataset) -> tuple[float, float] | None:
    try:
        values = [float(v) for v in dataset.tags("temperature") if v is not None]
    except (KeyError, ValueError):
        return None
    return min(values), max(values)


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def _std(values: np.ndarray) -> float:
    return float(np.nanstd(values)) if np.isfinite(values).any() else float("nan")
