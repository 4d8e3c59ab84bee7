"""Molecular dynamics: 16 replicas as one batch, one by one, and through ASE with the same model.

    python benchmarks/simulation.py MODEL... --structure si-diamond.vasp --supercell 2

NVE of rattled crystals, the same starts and steps on every side; all in one process, the sides
take turns. Processor time per atom and step is what counts on a shared machine (on a GPU, wall
time); the memory is that of the accelerator, or the peak of a process of its own for each side.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import ase.units
import torch
from ase import Atoms
from ase.md.verlet import VelocityVerlet

from siliforce.cli.options import supercell
from siliforce.data.read import read_structure
from siliforce.files import write_atomic
from siliforce.hardware import hardware_stamp, peak_memory_gib
from siliforce.potential import Potential
from siliforce.simulation.batched import run_batch, run_md
from siliforce.simulation.calculator import SiliforceCalculator
from siliforce.simulation.md import MDConfig, prepared


def batched(potential: Potential, starts: list[Atoms], config: MDConfig) -> None:
    """All replicas at once."""
    run_batch(potential, starts, config)


def one_by_one(potential: Potential, starts: list[Atoms], config: MDConfig) -> None:
    """Our engine with a single replica, again and again."""
    for atoms in starts:
        run_md(atoms, potential, config)


def through_ase(potential: Potential, starts: list[Atoms], config: MDConfig) -> None:
    """ASE's velocity Verlet with our calculator, energies looked at as often as ours are logged."""
    for atoms in starts:
        moving, _ = prepared(atoms, config)
        moving.calc = SiliforceCalculator(potential, str(potential.device), warn=False)
        dynamics = VelocityVerlet(moving, config.timestep * ase.units.fs)
        for _ in range(config.total_steps // config.log_every):
            dynamics.run(config.log_every)
            moving.get_potential_energy()


SIDES: dict[str, Callable[[Potential, list[Atoms], MDConfig], None]] = {
    "batched": batched,
    "one_by_one": one_by_one,
    "ase": through_ase,
}


def settings(steps: int) -> MDConfig:
    """NVE, logged every tenth step."""
    return MDConfig(ensemble="nve", equilibration=0.0, production=1e-3 * steps, max_heating=50)


def starts_of(structure: Path, repeat: str, replicas: int) -> list[Atoms]:
    """Rattled copies."""
    found = []
    for k in range(replicas):
        atoms = read_structure(structure).repeat(supercell(repeat))
        atoms.rattle(0.03, seed=k)
        found.append(atoms)
    return found


def measure(args: argparse.Namespace, model: Path) -> dict[str, Any]:
    """µs per atom and step of each side, and how many times faster the batch is."""
    potential = Potential.load(model, args.device)
    starts = starts_of(args.structure, args.supercell, args.replicas)
    clock = time.process_time if potential.device.type == "cpu" else time.perf_counter
    taken: dict[str, list[float]] = {side: [] for side in SIDES}
    for repeat in range(args.repeats + 1):
        for side, run in SIDES.items():
            steps = 10 if repeat == 0 else args.steps  # the first is a warm-up
            config = settings(steps)
            if potential.device.type == "cuda":
                torch.cuda.synchronize()
            begin = clock()
            run(potential, starts, config)
            if repeat:
                work = steps * sum(len(a) for a in starts)
                taken[side].append(1e6 * (clock() - begin) / work)
    row: dict[str, Any] = {side: round(median(times), 2) for side, times in taken.items()}
    row["spread"] = {s: [round(min(t), 2), round(max(t), 2)] for s, t in taken.items()}
    row["batched_over_one_by_one"] = round(row["one_by_one"] / row["batched"], 2)
    row["batched_over_ase"] = round(row["ase"] / row["batched"], 2)
    row["model"], row["preset"] = potential.model.name, potential.preset
    row["n_atoms"], row["replicas"] = len(starts[0]), len(starts)
    row["peak_memory_gib"] = {side: memory(args, model, side) for side in SIDES}
    return row


def memory(args: argparse.Namespace, model: Path, side: str) -> float | None:
    """Peak of a process that runs only this side."""
    words = [sys.executable, __file__, str(model), "--only", side, "--structure",
             str(args.structure), "--supercell", args.supercell, "--replicas", str(args.replicas),
             "--device", args.device]  # fmt: skip
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return round(float(done.stdout), 3)


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--structure", type=Path, required=True)
    parser.add_argument("--supercell", default="2")
    parser.add_argument("--replicas", type=int, default=16)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", choices=list(SIDES), help=argparse.SUPPRESS)
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results" / "simulation.json"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.only:
        starts = starts_of(args.structure, args.supercell, args.replicas)
        SIDES[args.only](Potential.load(args.models[0], args.device), starts, settings(10))
        print(peak_memory_gib(args.device))
        return
    result = {
        "unit": "µs/atom/step, " + ("processor time" if args.device == "cpu" else "wall time"),
        "rows": [measure(args, model) for model in args.models],
        "versions": {name: version(name) for name in ("ase", "torch", "vesin")},
        "hardware": hardware_stamp(args.device),
    }
    write_atomic(args.out, json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
