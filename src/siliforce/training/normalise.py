"""What the network is asked to learn: energies minus references, over a scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field, field_validator

from siliforce.species import Species
from siliforce.training.options import Options

if TYPE_CHECKING:
    from siliforce.data import DataStats


class NormaliseConfig(Options):
    """Reference energies, shift and scale of a potential."""

    kind: Literal["normalised", "centred", "none"] = Field(
        "normalised",
        description="normalised: (E - E0 - μN)/σ; centred: σ = 1 eV; none: σ = 1 eV, E0 = μ = 0",
    )
    scale: Literal["rms_force", "std_energy"] = Field(
        "rms_force", description="σ: RMS force component, or spread of (E - E0)/N"
    )
    atomic_energies: Literal["auto"] | dict[str, float] = Field(
        "auto", description="E0: eV per element; auto: isolated atoms, else least squares"
    )
    shift: Literal["auto", "mean", "zero"] = Field(
        "auto", description="μ: auto is zero where isolated atoms are pinned to known energies"
    )

    @field_validator("atomic_energies", mode="after")
    @classmethod
    def _elements(cls, value: object) -> object:
        if isinstance(value, dict):
            Species.from_symbols(value)
        return value


@dataclass(frozen=True)
class Normalisation:
    """Constants of a potential.

    Attributes:
        atomic_energies: E0, eV, (n_species,).
        shift: μ, eV per atom.
        scale: σ, eV.
        mean_neighbors: neighbours per atom.
        note: where E0 comes from, in words.
    """

    atomic_energies: np.ndarray
    shift: float
    scale: float
    mean_neighbors: float
    note: str


def given_energies(config: NormaliseConfig) -> dict[int, float] | None:
    """E0 by atomic number if the configuration names them."""
    values = config.atomic_energies
    if not isinstance(values, dict):
        return None
    return dict(zip(Species.from_symbols(values).numbers, values.values(), strict=True))


def normalisation(
    config: NormaliseConfig, stats: DataStats, species: Species, pinned: bool
) -> Normalisation:
    """The constants that `config` asks for.

    Args:
        stats: of the training set, with the reference energies of `given_energies`.
        species: of the potential.
        pinned: whether the potential pins isolated atoms to their reference energies.
    """
    if config.kind == "none":
        note = "energies as they are: E0 = 0, no shift, no scale"
        return Normalisation(np.zeros(len(species)), 0.0, 1.0, stats.mean_neighbors, note)
    references = stats.references
    energies = np.array([references.energies[z] for z in species.numbers])
    fitted = references.method == "least squares"
    shift = 0.0
    if config.shift == "mean" or (config.shift == "auto" and (fitted or not pinned)):
        shift = stats.mean_residual_per_atom
    scale = _scale(config, stats)
    values = ", ".join(f"{s} {e:.4f}" for s, e in zip(species.symbols, energies, strict=True))
    note = f"E0 by {references.method}: {values} eV; shift {shift:.4g} eV, scale {scale:.4g} eV"
    if fitted and references.undetermined:
        note += (
            f". The compositions determine only {references.rank} of {references.n_elements} E0 "
            "(the even solution is taken): energies of other compositions will mean nothing, "
            "unless train.normalise.atomic_energies gives E0"
        )
    return Normalisation(energies, shift, scale, stats.mean_neighbors, note)


def _scale(config: NormaliseConfig, stats: DataStats) -> float:
    """σ; the other choice, then 1 eV, where labels are missing or all alike."""
    if config.kind == "centred":
        return 1.0
    choices = [stats.rms_force, stats.std_residual_per_atom]
    if config.scale == "std_energy":
        choices.reverse()
    usable = [c for c in choices if np.isfinite(c) and c > 1e-8]
    return float(usable[0]) if usable else 1.0
