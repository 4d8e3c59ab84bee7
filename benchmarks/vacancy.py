"""Does an adapted potential simulate? Its vacancy beside what made its labels, and its dynamics.

    python benchmarks/vacancy.py Ge runs/ge runs/scratch --reference engine.yaml --out vacancy.json

For a diamond crystal of 64 atoms, each potential at its own lattice constant: the formation energy
of a vacancy, the barrier of its jump to a neighbouring site (climbing-image nudged elastic band,
63 atoms), and, but for the reference, how many of several molecular-dynamics runs of the cell with
the vacancy hold. The reference is any engine (`siliforce generate`): DFT, or the universal
potential that made the labels and so knows the truth.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator

from siliforce.files import write_atomic
from siliforce.generate import load_engine
from siliforce.generate.sampling import EngineCalculator
from siliforce.hardware import hardware_stamp
from siliforce.potential import Potential
from siliforce.simulation.batched import run_batch
from siliforce.simulation.calculator import SiliforceCalculator
from siliforce.simulation.md import MDConfig
from siliforce.simulation.neb import reaction_path
from siliforce.simulation.relax import relax

FMAX = 0.02
"""Largest force of relaxed structures, eV/Å."""


def crystal(symbol: str, calculator: Calculator) -> Atoms:
    """64 atoms at the potential's lattice constant."""
    start = bulk(symbol, "diamond", a=5.5, cubic=True)
    return relax(start, calculator, fmax=0.002, cell=True).atoms * (2, 2, 2)


def vacancy_and_jump(perfect: Atoms) -> tuple[Atoms, Atoms]:
    """The cell without its first atom, before and after a neighbour has moved into its place."""
    neighbor = int(np.argmin(perfect.get_distances(0, range(1, len(perfect)), mic=True))) + 1
    before = perfect.copy()
    before.calc = None
    after = before.copy()
    after.positions[neighbor] = before.positions[0]
    del before[0], after[0]
    return before, after


def defect(symbol: str, calculator: Calculator) -> tuple[dict[str, Any], Atoms]:
    """Numbers of the vacancy, and the relaxed cell with it; energies in eV."""
    perfect = crystal(symbol, calculator)
    perfect.calc = calculator
    of_an_atom = float(perfect.get_potential_energy()) / len(perfect)
    before, after = vacancy_and_jump(perfect)
    relaxed = relax(before, calculator, fmax=FMAX)
    path = reaction_path(before, after, calculator, images=3, fmax=0.05)
    return (
        {
            "lattice_constant": float(perfect.cell.lengths()[0] / 2),
            "formation_energy": relaxed.energy - len(before) * of_an_atom,
            "relaxed": relaxed.converged,
            "barrier": path.barrier,
            "band_converged": path.converged,
        },
        relaxed.atoms,
    )


def dynamics(source: Potential, start: Atoms, config: MDConfig, replicas: int) -> dict[str, Any]:
    """How many replicas hold, and why the others do not."""
    failures = [run.failure for run in run_batch(source, [start] * replicas, config)]
    return {
        "held": failures.count(None),
        "of": replicas,
        "reasons": [str(failure) for failure in failures if failure is not None],
    }


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("symbol")
    parser.add_argument("models", nargs="+", type=Path, help="run folders or model files")
    parser.add_argument("--reference", required=True, help="settings of the engine")
    parser.add_argument("--temperature", type=float, default=900.0)
    parser.add_argument("--ps", type=float, default=10.0)
    parser.add_argument("--replicas", type=int, default=4)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    config = MDConfig(temperature=args.temperature, timestep=2.0, equilibration=1.0,
                      production=args.ps)  # fmt: skip
    sources: dict[str, Any] = {"reference": EngineCalculator(load_engine(args.reference))}
    sources |= {str(path): Potential.load(path) for path in args.models}
    found: dict[str, Any] = {}
    for name, source in sources.items():
        ours = isinstance(source, Potential)
        numbers, cell = defect(args.symbol, SiliforceCalculator(source) if ours else source)
        if ours:
            numbers["md"] = dynamics(source, cell, config, args.replicas)
        found[name] = numbers
        print(name, json.dumps(numbers), flush=True)
        write_atomic(
            args.out,
            json.dumps(
                {"symbol": args.symbol, "md": config.model_dump(), "potentials": found,
                 "hardware": hardware_stamp()}, indent=1,
            ) + "\n",
        )  # fmt: skip


if __name__ == "__main__":
    main()
