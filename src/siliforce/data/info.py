"""`data info`: what a set holds, in numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from siliforce.data.dataset import Dataset
from siliforce.data.stats import reference_energies
from siliforce.errors import DataError
from siliforce.units import EV_PER_A3_IN_GPA


@dataclass(frozen=True)
class Range:
    """Of a label; None where no frame has it.

    Attributes:
        frames: that have it.
    """

    frames: int
    smallest: float | None
    mean: float | None
    largest: float | None


@dataclass(frozen=True)
class Summary:
    """What a set holds.

    Attributes:
        n_frames, n_atoms: sizes.
        atoms_per_frame: smallest and largest.
        elements: symbols.
        compositions: reduced formula -> frames.
        config_types: name -> frames.
        n_groups: named trajectories.
        tags: names.
        labels: energy (eV/atom), force (norm, eV/Å), pressure (GPa, compression positive).
        periodic: frames that are periodic in all directions.
        atomic_energies: E0 by symbol, eV.
        e0_method, e0_rank: how E0 was found, and the rank of the fit.
        e0_undetermined: sums of E0 that no frame determines, in words.
        e0_residual: RMS of the energy less the sum of E0, eV/atom.
        facts: level of theory, licence.
        label_keys: label -> key -> frames, of files that were imported.
        data_hash: of structures and labels.
    """

    n_frames: int
    n_atoms: int
    atoms_per_frame: tuple[int, int]
    elements: list[str]
    compositions: dict[str, int]
    config_types: dict[str, int]
    n_groups: int
    tags: list[str]
    labels: dict[str, Range]
    periodic: int
    atomic_energies: dict[str, float]
    e0_method: str
    e0_rank: int
    e0_undetermined: list[str]
    e0_residual: float | None
    facts: dict[str, str]
    label_keys: dict[str, dict[str, int]]
    data_hash: str

    def to_json(self) -> dict[str, Any]:
        """Plain types."""
        return asdict(self)


def summarise(dataset: Dataset) -> Summary:
    """Describe a dataset.

    Raises:
        DataError: no frames.
    """
    if len(dataset) == 0:
        raise DataError("no frames to describe")
    e0 = reference_energies(dataset)
    sizes = dataset.n_atoms
    return Summary(
        n_frames=len(dataset),
        n_atoms=int(sizes.sum()),
        atoms_per_frame=(int(sizes.min()), int(sizes.max())),
        elements=[chemical_symbols[z] for z in dataset.elements],
        compositions=dict(Counter(dataset.compositions).most_common()),
        config_types=dict(Counter(t for t in dataset.config_types if t).most_common()),
        n_groups=len({*dataset.groups} - {""}),
        tags=dataset.tag_names,
        labels=_labels(dataset),
        periodic=int(dataset.records["pbc"].all(axis=1).sum()),
        atomic_energies={chemical_symbols[z]: e for z, e in e0.energies.items()},
        e0_method=e0.method,
        e0_rank=e0.rank,
        e0_undetermined=[_shift(direction) for direction in e0.undetermined],
        e0_residual=e0.residual if np.isfinite(dataset.energies).any() else None,
        facts={k: str(v) for k, v in dataset.facts.items() if k in ("level_of_theory", "licence")},
        label_keys=dataset.label_keys,
        data_hash=dataset.hash,
    )


def _labels(dataset: Dataset) -> dict[str, Range]:
    smallest, total, largest, n_atoms, n_frames = np.inf, 0.0, -np.inf, 0, 0
    for frame in dataset:
        if frame.forces is not None:
            norms = np.linalg.norm(frame.forces, axis=1)
            smallest, largest = min(smallest, norms.min()), max(largest, norms.max())
            total, n_atoms, n_frames = total + norms.sum(), n_atoms + len(norms), n_frames + 1
    force = Range(n_frames, float(smallest), float(total / n_atoms), float(largest))
    trace = np.trace(dataset.records["stress"], axis1=1, axis2=2)
    return {
        "energy": _range(dataset.energies / dataset.n_atoms),
        "force": force if n_frames else Range(0, None, None, None),
        "pressure": _range(-trace / 3 * EV_PER_A3_IN_GPA),
    }


def _range(values: np.ndarray) -> Range:
    known = values[np.isfinite(values)]
    if not len(known):
        return Range(0, None, None, None)
    return Range(len(known), float(known.min()), float(known.mean()), float(known.max()))


def _shift(direction: dict[str, float]) -> str:
    """A direction in which E0 may move, such as 'Hf +1 eV with O -0.5 eV'."""
    parts: Sequence[str] = [f"{s} {v:+g} eV" for s, v in direction.items() if v]
    return " with ".join(parts)
