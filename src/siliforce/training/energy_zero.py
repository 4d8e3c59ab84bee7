"""Reference energies in transfer: those of new elements, and a target with another energy zero.

What the source says of the target's frames differs from their labels by sums of constants per
element, apart from the source's errors. A new element's constant is always open. A constant of a
known element says that the target was calculated with other settings (functional,
pseudopotentials, code); it can be told from a new element's only if compositions vary.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from ase.data import chemical_symbols

from siliforce.data import Dataset
from siliforce.potential import Potential
from siliforce.training.sampler import within_budget

TOLERANCE = 0.03
"""Mean error of the source, eV/atom, from which on the energy zero counts as another."""

TIMES_SOURCE_ERROR = 5.0
"""The same in units of the source's own error, whichever is larger."""


@dataclass(frozen=True)
class EnergyZero:
    """What is added to reference energies.

    Attributes:
        shifts: eV by atomic number, of elements that the target has.
        offset: of the known elements, mean over the target's atoms, eV/atom; 0 unless detected.
        notes: how they were found.
        warnings: what the user should look at.
    """

    shifts: dict[int, float] = field(default_factory=dict)
    offset: float = 0.0
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def apply(self, potential: Potential) -> None:
        """Add the shifts to the potential's reference energies."""
        for z, shift in self.shifts.items():
            row = potential.species.numbers.index(z)
            potential.atomic_energies.weight[row] += shift


def find_energy_zero(
    potential: Potential, data: Dataset, new: tuple[int, ...], given: Mapping[int, float]
) -> EnergyZero:
    """Compare the source with the labels of the target.

    Args:
        potential: the source, extended; new elements have the reference energies of their sources.
        data: the target's training frames.
        new: elements that the source did not know.
        given: reference energies of new elements, eV, instead of fitting them.
    """
    elements, counts = data.counts
    known = np.isfinite(data.energies)
    if not known.any():
        return EnergyZero(notes=["no energies: reference energies stay as they are"])
    own = potential.atomic_energies.weight.cpu().numpy()
    rows = {z: own[potential.species.numbers.index(z)] for z in elements}
    shifts = {z: given[z] - rows[z] for z in elements if z in given}
    per_atom = counts[known] / counts[known].sum(axis=1, keepdims=True)
    error = (data.energies - predicted_energies(potential, data))[known] / data.n_atoms[known]
    error -= per_atom @ np.array([shifts.get(z, 0.0) for z in elements])
    fitted = [k for k, z in enumerate(elements) if z in new and z not in given]
    old = [k for k, z in enumerate(elements) if z not in new]
    notes, warnings, offset = [], [], 0.0
    separable = per_atom[:, old] - _projected(per_atom[:, fitted], per_atom[:, old])
    if np.abs(separable).max(initial=0.0) > 1e-9:
        constants = np.linalg.pinv(separable, rcond=1e-9) @ error
        mean = float((per_atom[:, old] @ constants).mean())
        if abs(mean) > _tolerance(potential):
            offset = mean
            error = error - per_atom[:, old] @ constants
            shifts |= {elements[k]: float(c) for k, c in zip(old, constants, strict=True)}
            rank = int(np.linalg.matrix_rank(separable, tol=1e-9))
            warnings.append(_other_zero(mean, [elements[k] for k in old], shifts, rank))
    elif fitted and old:
        names = _names(elements[k] for k in old)
        notes.append(
            f"the compositions cannot tell an energy zero of {names} that differs from the "
            f"source's from E0 of {_names(elements[k] for k in fitted)}, which takes it up"
        )
    if fitted:
        matrix = per_atom[:, fitted]
        constants = np.linalg.pinv(matrix) @ error
        shifts |= {elements[k]: float(c) for k, c in zip(fitted, constants, strict=True)}
        if np.linalg.matrix_rank(matrix) < len(fitted):
            notes.append(
                f"only sums of E0 of {_names(elements[k] for k in fitted)} are determined: they "
                "always come together; adapt.atomic_energies may give them"
            )
    if shifts:
        listed = (f"{chemical_symbols[z]} {rows[z] + s:.4f}" for z, s in sorted(shifts.items()))
        notes.insert(0, f"E0 fitted to the target, eV: {', '.join(listed)}")
    return EnergyZero(shifts, offset, notes, warnings)


def predicted_energies(potential: Potential, data: Dataset) -> np.ndarray:
    """Energies that a potential gives the frames, (n_frames,), eV."""
    energies = np.empty(len(data))
    costs = data.edge_counts(potential.cutoff) + data.n_atoms
    for rows in within_budget(np.arange(len(data)), costs, max(int(costs.max()), 50_000)):
        batch = data.batch(rows, potential.cutoff, potential.model.needs, potential.dtype)
        with torch.no_grad():
            found = potential(batch.to(potential.device).graph, forces=False)
        energies[rows] = found.energy.cpu().numpy()
    return energies


def _projected(onto: np.ndarray, what: np.ndarray) -> np.ndarray:
    """The part of the columns of `what` that columns of `onto` can make."""
    return onto @ (np.linalg.pinv(onto) @ what) if onto.shape[1] else np.zeros_like(what)


def _tolerance(potential: Potential) -> float:
    own = potential.card.errors.get("valid_energy_rmse_mev")
    return max(TOLERANCE, TIMES_SOURCE_ERROR * 1e-3 * float(own or 0.0))


def _other_zero(mean: float, known: list[int], shifts: dict[int, float], rank: int) -> str:
    each = ", ".join(f"{chemical_symbols[z]} {shifts[z]:+.4f}" for z in known)
    text = (
        f"the target's energies have another zero than the source's: {mean:+.4f} eV/atom over the "
        f"known elements. Other functional, pseudopotentials or code? It is fitted ({each} eV)"
    )
    if rank < len(known):
        text += "; only the sum is determined, its parts are not"
    return text + ". Energies of the adapted potential are the target's, not the source's"


def _names(numbers: Iterable[int]) -> str:
    return ", ".join(chemical_symbols[z] for z in numbers)
