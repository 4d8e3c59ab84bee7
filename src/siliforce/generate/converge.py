"""`generate converge`: how far a preset's forces are from converged, measured, not assumed."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.io import read

from siliforce.errors import ConfigError, DataError
from siliforce.generate.engines import Engine, make_engine
from siliforce.generate.frames import frame_key
from siliforce.generate.runner import Run
from siliforce.generate.runner import run as run_queue
from siliforce.jobs import Progress

EV_A3_IN_GPA = 160.21766


@dataclass(frozen=True)
class Deviation:
    """A preset against one variation of it (denser mesh, higher cutoff, spin), over some frames.

    Attributes:
        force_rms: [eV/Å], over all components.
        force_max: [eV/Å].
        energy_spread: standard deviation of the energy difference [eV/atom]; a constant
            difference does not matter to a force field, and one frame says nothing: None.
        stress_max_gpa: largest difference of a stress component; None without stress.
        seconds: time of one frame with the variation.
    """

    name: str
    force_rms: float
    force_max: float
    energy_spread: float | None
    stress_max_gpa: float | None
    seconds: float

    def line(self) -> str:
        """One line for a terminal."""
        energy = ", energy: needs two frames"
        if self.energy_spread is not None:
            energy = f", energy {1000 * self.energy_spread:.2f} meV/atom"
        stress = "" if self.stress_max_gpa is None else f", stress {self.stress_max_gpa:.2f} GPa"
        return (
            f"{self.name:30} forces {1000 * self.force_rms:6.1f} meV/Å rms "
            f"({1000 * self.force_max:.1f} max){energy}{stress}, {self.seconds:.0f} s per frame"
        )


def converge(
    frames: list[Atoms],
    engine: Engine,
    variations: dict[str, dict[str, Any]],
    folder: str | Path | None = None,
    workers: int = 1,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> list[Deviation]:
    """Measure a preset against better settings on some frames.

    Args:
        variations: changed settings by name, e.g. `{"cutoff": {"ecutwfc": 120}}`; a key with dots
            leads into a section, e.g. `{"mesh": {"settings.kpts": {"density": 3}}}`.
        folder: run folder; the same call goes on after a stop. None keeps nothing.

    Raises:
        DataError: a calculation failed.
        ConfigError: a variation names an unknown setting.
    """
    engines = [engine, *(make_engine(changed(engine, c)) for c in variations.values())]
    base, *others = _label_all(frames, engines, folder, workers, on_progress)
    return [_compare(name, base, other) for name, other in zip(variations, others, strict=True)]


def changed(engine: Engine, change: dict[str, Any]) -> dict[str, Any]:
    """Settings of an engine with some changed; a section that is given is merged, not replaced.

    Raises:
        ConfigError: a key with dots leads nowhere.
    """
    content: dict[str, Any] = engine.model_dump()
    for dotted, value in change.items():
        *path, last = dotted.split(".")
        section: Any = content
        for part in path:
            section = section.get(part)
            if not isinstance(section, dict):
                raise ConfigError(f"engine '{engine.engine}' has no section '{part}' ({dotted})")
        old = section.get(last)
        merge = not path and isinstance(old, dict) and isinstance(value, dict)
        section[last] = old | value if merge else value
    return content


def translation_error(atoms: Atoms, engine: Engine, shift: tuple[float, float, float]) -> float:
    """Change of the forces when the whole frame moves by `shift` [Å]: the grid's error [eV/Å, RMS].

    It stands for the net force where an engine removes that (Quantum ESPRESSO does).
    """
    moved = atoms.copy()
    moved.positions += np.asarray(shift)
    [[here, there]] = _label_all([atoms, moved], [engine])
    return float(np.sqrt(((here.get_forces() - there.get_forces()) ** 2).mean()))


def _label_all(
    frames: list[Atoms],
    engines: list[Engine],
    folder: str | Path | None = None,
    workers: int = 1,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> list[list[Atoms]]:
    """The labelled frames of each engine, from the runner.

    Raises:
        DataError: one failed.
    """
    with tempfile.TemporaryDirectory() as temporary:
        run = Run(folder or temporary)
        keys = [[frame_key(atoms, engine.identity()) for atoms in frames] for engine in engines]
        for engine in engines:
            run.add("converge", frames, engine)
        run_queue(run.root, workers, on_progress)
        for key in itertools.chain(*keys):
            if key not in run.folder.done_keys():
                raise DataError(f"a frame could not be labelled: {run.folder.reason(key)}")
        return [[read(run.folder.done_path(key), format="extxyz") for key in own] for own in keys]


def _compare(name: str, base: list[Atoms], other: list[Atoms]) -> Deviation:
    pairs = list(zip(base, other, strict=True))
    delta = np.concatenate([(a.get_forces() - b.get_forces()).ravel() for a, b in pairs])
    energy = [(a.get_potential_energy() - b.get_potential_energy()) / len(a) for a, b in pairs]
    stress = [
        np.abs(a.get_stress() - b.get_stress()).max() * EV_A3_IN_GPA
        for a, b in pairs
        if "stress" in a.calc.results and "stress" in b.calc.results
    ]
    return Deviation(
        name=name,
        force_rms=float(np.sqrt((delta**2).mean())),
        force_max=float(np.abs(delta).max()),
        energy_spread=float(np.std(energy)) if len(energy) > 1 else None,
        stress_max_gpa=float(max(stress)) if stress else None,
        seconds=float(np.mean([b.info["seconds"] for b in other])),
    )
