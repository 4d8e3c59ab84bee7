"""Relaxation of positions, and of the cell, through ASE."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.filters import FrechetCellFilter
from ase.optimize import LBFGS

from siliforce.errors import ConfigError


@dataclass(frozen=True)
class Relaxation:
    """Where a relaxation ended, and its way there.

    Attributes:
        atoms: relaxed, or as far as the steps led.
        converged: whether the largest force fell below the limit.
        steps: taken.
        max_force: eV/Å, at the end.
        energy: eV, at the end.
        log: one entry per step, the start first: `step`, `energy` (eV), `max_force` (eV/Å) and,
            of periodic structures, `volume` (Å³).
        path: the structures of the log.
    """

    atoms: Atoms
    converged: bool
    steps: int
    max_force: float
    energy: float
    log: dict[str, list[float]] = field(default_factory=dict)
    path: list[Atoms] = field(default_factory=list)


def relax(
    atoms: Atoms,
    calculator: Calculator,
    fmax: float = 0.01,
    max_steps: int = 500,
    cell: bool = False,
) -> Relaxation:
    """Move the atoms, and on request the cell, downhill until forces are small.

    Args:
        atoms: the start; left as it is.
        calculator: any of ASE's.
        fmax: largest force at the end, eV/Å.
        max_steps: not reaching `fmax` in these is no error; see `converged`.
        cell: relax the lattice as well; needs stress.

    Raises:
        ConfigError: the cell of a structure that is not periodic, or with a direct model.
    """
    moving = atoms.copy()
    moving.calc = calculator
    if cell and not moving.pbc.all():
        raise ConfigError("only a cell that is periodic in three directions can be relaxed")
    if cell and not getattr(calculator, "has_stress", True):
        raise ConfigError(
            "this model predicts forces directly and has no stress, so the cell cannot be "
            "relaxed; relax positions only, or choose a gradient model"
        )
    optimizer = LBFGS(FrechetCellFilter(moving) if cell else moving, logfile=None)
    log: dict[str, list[float]] = {}
    path: list[Atoms] = []

    def record() -> None:
        path.append(moving.copy())
        row = {
            "step": float(len(path) - 1),
            "energy": float(moving.get_potential_energy()),
            "max_force": float(np.linalg.norm(moving.get_forces(), axis=1).max(initial=0.0)),
        }
        if moving.pbc.all():
            row["volume"] = moving.get_volume()
        for name, value in row.items():
            log.setdefault(name, []).append(value)

    optimizer.attach(record)
    converged = bool(optimizer.run(fmax=fmax, steps=max_steps))
    if not path:
        record()
    last = {name: column[-1] for name, column in log.items()}
    steps = optimizer.nsteps
    return Relaxation(moving, converged, steps, last["max_force"], last["energy"], log, path)
