"""A potential's answers beside the labels, for a whole set of structures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError
from ase.data import chemical_symbols

from siliforce.errors import ConfigError, DataError
from siliforce.potential import Potential

if TYPE_CHECKING:
    from siliforce.data import Dataset

EDGE_BUDGET = 50_000
"""Edges in one batch: some hundred MB for the largest models."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Predictions:
    """Answers and labels; NaN where there is none.

    Attributes:
        energy, energy_ref: (n_frames,), eV.
        forces, forces_ref: (n_atoms, 3), eV/Å.
        stress, stress_ref: (n_frames, 3, 3), eV/Å³.
        n_atoms: (n_frames,).
        numbers: of all atoms, (n_atoms,).
        labels: per frame: `group`, `config_type`, `formula`, and tags that were asked for.
    """

    energy: np.ndarray
    energy_ref: np.ndarray
    forces: np.ndarray
    forces_ref: np.ndarray
    stress: np.ndarray
    stress_ref: np.ndarray
    n_atoms: np.ndarray
    numbers: np.ndarray
    labels: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def frame_of_atom(self) -> np.ndarray:
        """(n_atoms,)."""
        return np.repeat(np.arange(len(self.n_atoms)), self.n_atoms)

    def arrays(self) -> dict[str, np.ndarray]:
        """Compact form for a file: forces and stress in float32, labels as text."""
        kept = {
            "energy": self.energy,
            "energy_ref": self.energy_ref,
            "forces": self.forces.astype(np.float32),
            "forces_ref": self.forces_ref.astype(np.float32),
            "n_atoms": self.n_atoms.astype(np.int32),
            "numbers": self.numbers.astype(np.uint8),
        }
        if np.isfinite(self.stress_ref).any():
            kept["stress"] = self.stress.astype(np.float32)
            kept["stress_ref"] = self.stress_ref.astype(np.float32)
        return kept | {f"label_{name}": values for name, values in self.labels.items()}


def predict(
    source: Potential | Calculator,
    dataset: Dataset,
    tags: tuple[str, ...] = (),
    edge_budget: int = EDGE_BUDGET,
    progress: Progress = lambda done, total: None,
) -> Predictions:
    """Answers of a potential, in batches, or of any ASE calculator, frame by frame.

    Args:
        source: what is asked.
        dataset: the labelled frames.
        tags: names of tags to keep as labels; those that the data lack are left out.
        edge_budget: edges of one batch; lowered when memory runs out.
        progress: called with frames done and frames in all.

    Raises:
        DataError: no frames, or elements that the potential does not know.
    """
    if len(dataset) == 0:
        raise DataError("there are no frames to evaluate")
    table = _empty_table(dataset, tags)
    if isinstance(source, Potential):
        source.check_elements(np.array(dataset.elements))
        _ask_potential(source, dataset, table, edge_budget, progress)
    else:
        _ask_calculator(source, dataset, table, progress)
    return table


def _empty_table(dataset: Dataset, tags: tuple[str, ...]) -> Predictions:
    sizes = np.asarray(dataset.n_atoms)
    n_frames, n_atoms = len(sizes), int(sizes.sum())
    labels = {"group": np.asarray(dataset.groups, dtype=str)}
    labels["config_type"] = np.asarray(dataset.config_types, dtype=str)
    labels["formula"] = np.empty(n_frames, dtype="U64")
    for name in tags:
        values = _tag(dataset, name)
        if values is not None:
            labels[name] = values
    return Predictions(
        energy=np.full(n_frames, np.nan),
        energy_ref=np.full(n_frames, np.nan),
        forces=np.full((n_atoms, 3), np.nan),
        forces_ref=np.full((n_atoms, 3), np.nan),
        stress=np.full((n_frames, 3, 3), np.nan),
        stress_ref=np.full((n_frames, 3, 3), np.nan),
        n_atoms=sizes,
        numbers=np.zeros(n_atoms, dtype=np.int64),
        labels=labels,
    )


def _tag(dataset: Dataset, name: str) -> np.ndarray | None:
    """Values of a tag as text, empty where a frame has none; None if no frame has it."""
    try:
        values = dataset.tags(name)
    except KeyError:
        return None
    texts = [f"{v:g}" if isinstance(v, float) else "" if v is None else str(v) for v in values]
    return np.array(texts)


def packed(edge_counts: np.ndarray, budget: int) -> Iterator[np.ndarray]:
    """Frames in groups of at most `budget` edges, the largest first; one frame may exceed it."""
    order = np.argsort(-edge_counts, kind="stable")
    start, used = 0, 0
    for position, index in enumerate(order):
        count = int(edge_counts[index])
        if position > start and used + count > budget:
            yield order[start:position]
            start, used = position, 0
        used += count
    if start < len(order):
        yield order[start:]


def _ask_potential(
    potential: Potential, dataset: Dataset, table: Predictions, budget: int, progress: Progress
) -> None:
    counts = np.asarray(dataset.edge_counts(potential.cutoff))
    todo, done = list(packed(counts, budget)), 0
    while todo:
        indices = todo.pop(0)
        try:
            _ask_batch(potential, dataset, table, indices)
        except torch.OutOfMemoryError:
            if len(indices) == 1:
                raise DataError(
                    f"a frame of {dataset.n_atoms[indices[0]]} atoms does not fit into memory; "
                    "evaluate on a larger device or on the processor"
                ) from None
            torch.cuda.empty_cache()
            half = len(indices) // 2
            todo[:0] = [indices[:half], indices[half:]]
            continue
        done += len(indices)
        progress(done, len(dataset))


def _ask_batch(
    potential: Potential, dataset: Dataset, table: Predictions, indices: np.ndarray
) -> None:
    needs = potential.model.needs
    batch = dataset.batch(indices, potential.cutoff, needs, potential.dtype)
    batch = batch.to(potential.device)
    found = potential(batch.graph, forces=True, stress=potential.has_stress)
    offsets = np.cumsum(table.n_atoms) - table.n_atoms
    rows = np.concatenate([offsets[i] + np.arange(table.n_atoms[i]) for i in indices])

    def numpy(tensor: torch.Tensor) -> np.ndarray:
        return tensor.detach().double().cpu().numpy()

    table.energy[indices] = numpy(found.energy)
    table.energy_ref[indices] = numpy(batch.targets.energy)
    table.forces[rows] = numpy(found.forces)
    table.forces_ref[rows] = numpy(batch.targets.forces)
    if found.stress is not None:
        table.stress[indices] = numpy(found.stress)
    table.stress_ref[indices] = numpy(batch.targets.stress)
    table.numbers[rows] = batch.graph.numbers.cpu().numpy()
    for index in indices:
        start = offsets[index]
        numbers = table.numbers[start : start + table.n_atoms[index]]
        table.labels["formula"][index] = formula(numbers)


def _ask_calculator(
    calculator: Calculator, dataset: Dataset, table: Predictions, progress: Progress
) -> None:
    start = 0
    for index in range(len(dataset)):
        frame = dataset[index]
        rows = slice(start, start := start + len(frame.numbers))
        atoms = frame.to_atoms()
        atoms.calc = calculator
        table.energy[index] = atoms.get_potential_energy()
        table.forces[rows] = atoms.get_forces()
        table.stress[index] = _stress(atoms)
        table.energy_ref[index] = frame.energy
        if frame.forces is not None:
            table.forces_ref[rows] = frame.forces
        if frame.stress is not None:
            table.stress_ref[index] = frame.stress
        table.numbers[rows] = frame.numbers
        table.labels["formula"][index] = formula(frame.numbers)
        progress(index + 1, len(dataset))


def _stress(atoms: Atoms) -> Any:
    try:
        return atoms.get_stress(voigt=False)
    except (PropertyNotImplementedError, NotImplementedError, ConfigError):
        return np.nan


def formula(numbers: np.ndarray) -> str:
    """Composition with the most frequent element first, `Si63Ge`."""
    elements, counts = np.unique(numbers, return_counts=True)
    order = sorted(zip(-counts, elements, strict=True))
    parts = (f"{chemical_symbols[z]}{-n if n < -1 else ''}" for n, z in order)
    return "".join(parts)
