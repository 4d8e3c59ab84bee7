"""What the network is asked to learn: energies minus references, over a scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field, field_validator

from siliforce.errors import ConfigError
from siliforce.species import Species
from siliforce.training.options import Options

if TYPE_CHECKING:
    from siliforce.data import Dataset, DataStats


class NormaliseConfig(Options):
    """Reference energies, shift and scale of a potential."""

    kind: Literal["normalised", "centred", "none"] = Field(
        "normalised",
        description="normalised: (E - E0 - μN)/σ; centred: σ = 1 eV; none: σ = 1 eV, E0 = μ = 0",
    )
    scale: Literal["rms_force", "std_energy"] = Field(
        "rms_force", description="σ: RMS force component (eV/Å) or spread of E/N (eV)"
    )
    atomic_energies: Literal["auto", "least_squares"] | dict[str, float] = Field(
        "auto", description="E0: auto (isolated atoms, else least squares) or eV per element"
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


def normalisation(
    config: NormaliseConfig, data: Dataset, stats: DataStats, species: Species, pinned: bool
) -> Normalisation:
    """The constants that `config` asks for, from a training set.

    Args:
        pinned: whether the potential pins isolated atoms to their reference energies.

    Raises:
        ConfigError: E0 given for some elements only, or a scale that the labels do not have.
    """
    if config.kind == "none":
        zeros = np.zeros(len(species))
        return Normalisation(zeros, 0.0, 1.0, stats.mean_neighbors, "E0 = 0")
    energies, how = _atomic_energies(config, stats, species)
    known = how != "least squares"
    shift = 0.0
    if config.shift == "mean" or (config.shift == "auto" and not (pinned and known)):
        shift = _mean_residual(data, energies, species)
    scale = 1.0
    if config.kind == "normalised":
        scale = stats.rms_force if config.scale == "rms_force" else stats.std_energy
        if not (np.isfinite(scale) and scale > 0):
            if config.scale == "rms_force":
                scale = stats.std_energy
            scale = scale if np.isfinite(scale) and scale > 0 else 1.0
    values = ", ".join(f"{s} {e:.4f}" for s, e in zip(species.symbols, energies, strict=True))
    note = f"E0 by {how} (eV): {values}; shift {shift:.4f} eV, scale {scale:.4f} eV"
    return Normalisation(energies, shift, float(scale), stats.mean_neighbors, note)
