"""`generate --converge`: how far a preset's forces are from converged, measured, not assumed."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from siliforce.generate.engines import Engine, Labels, make_engine

EV_A3_IN_GPA = 160.21766


@dataclass(frozen=True)
class Deviation:
    """A preset against one variation of it (denser mesh, higher cutoff, spin), over some frames.

    Attributes:
        force_rms: [eV/Å], over all components.
        force_max: [eV/Å].
        energy_spread: standard deviation of the energy difference [eV/atom]; a constant
            difference does not matter to a force field.
        stress_max_gpa: largest difference of a stress component; None without stress.
        seconds: time of one frame with the variation.
    """

    name: str
    force_rms: float
    force_max: float
    energy_spread: float
    stress_max_gpa: float | None
    seconds: float

    def line(self) -> str:
        """One line for a terminal."""
        stress = "" if self.stress_max_gpa is None else f", stress {self.stress_max_gpa:.2f} GPa"
        return (
            f"{self.name:30} forces {1000 * self.force_rms:6.1f} meV/Å rms "
            f"({1000 * self.force_max:.1f} max), energy {1000 * self.energy_spread:.2f} meV/atom"
            f"{stress}, {self.seconds:.0f} s per frame"
        )


def converge(
    frames: list[Atoms], engine: Engine, variations: dict[str, dict[str, Any]]
) -> list[Deviation]:
    """Measure a preset against better settings on some frames.

    Args:
        variations: changed settings by name, e.g. `{"cutoff": {"ecutwfc": 120}}`.

    Raises:
        JobFailed: a calculation failed.
        ConfigError: a variation names an unknown setting.
    """
    base, _ = _label_all(frames, engine)
    found = []
    for name, change in variations.items():
        other = make_engine(engine.model_dump() | change)
        labels, seconds = _label_all(frames, other)
        found.append(_compare(name, base, labels, seconds / len(frames)))
    return found


def translation_error(atoms: Atoms, engine: Engine, shift: tuple[float, float, float]) -> float:
    """Change of the forces when the whole frame moves by `shift` [Å]: the grid's error [eV/Å, RMS].

    It stands for the net force where an engine removes that (Quantum ESPRESSO does).
    """
    moved = atoms.copy()
    moved.positions += np.asarray(shift)
    labels, _ = _label_all([atoms, moved], engine)
    return float(np.sqrt(((labels[0].forces - labels[1].forces) ** 2).mean()))


def _label_all(frames: list[Atoms], engine: Engine) -> tuple[list[Labels], float]:
    start = time.monotonic()
    labels = []
    for atoms in frames:
        with tempfile.TemporaryDirectory() as folder:
            labels.append(engine.label(atoms, Path(folder), safer=False))
    return labels, time.monotonic() - start


def _compare(name: str, base: list[Labels], other: list[Labels], seconds: float) -> Deviation:
    delta = np.concatenate(
        [(a.forces - b.forces).ravel() for a, b in zip(base, other, strict=True)]
    )
    energy = [(a.energy - b.energy) / len(a.forces) for a, b in zip(base, other, strict=True)]
    stress = [
        np.abs(a.stress - b.stress).max() * EV_A3_IN_GPA
        for a, b in zip(base, other, strict=True)
        if a.stress is not None and b.stress is not None
    ]
    return Deviation(
        name=name,
        force_rms=float(np.sqrt((delta**2).mean())),
        force_max=float(np.abs(delta).max()),
        energy_spread=float(np.std(energy)),
        stress_max_gpa=float(max(stress)) if stress else None,
        seconds=seconds,
    )
