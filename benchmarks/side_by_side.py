"""Two programs on the same frames, in processes of their own, in turn.

Only NumPy and torch are imported at the top: workers run in environments that hold nothing of ours.
"""

from __future__ import annotations

import json
import resource
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

Evaluate = Callable[[bool], tuple[torch.Tensor, torch.Tensor]]
"""`evaluate(training) -> energy, forces`; differentiable if training."""
Side = Callable[[dict[str, torch.Tensor]], tuple[torch.nn.Module, Evaluate]]
MATERIALS = {"HfO2": ("c-HfO2", (2, 2, 2)), "Si3N4": ("beta-Si3N4", (2, 2, 2))}
"""Crystal and repeats: 96 and 112 atoms."""


def work(build: Side, task: str, frames: Path, threads: int, repeats: int) -> dict[str, Any]:
    """Time one task in this process."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model, evaluate = build(read_frames(frames))
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-5)

    def step() -> None:
        energy, forces = evaluate(task == "training")
        if task == "training":
            optimiser.zero_grad()
            (energy.square().mean() + forces.square().mean()).backward()
            optimiser.step()

    return timed(step, model, repeats)


def write_frames(path: Path, material: str, n_frames: int, cutoff: float) -> None:
    """Rattled crystals with their pairs, concatenated, as all sides read them."""
    from siliforce.generate.crystals import crystal
    from siliforce.graph import System

    name, repeats = MATERIALS[material]
    arrays: dict[str, list[np.ndarray]] = {}
    for k in range(n_frames):
        atoms = crystal(name) * repeats
        atoms.rattle(0.1, seed=k)
        system = System.build(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, cutoff)
        frame = {
            "numbers": system.numbers,
            "positions": system.positions,
            "system": np.full(len(atoms), k),
            "cell": system.cell[None],
            "center": system.edges.center + k * len(atoms),
            "neighbor": system.edges.neighbor + k * len(atoms),
            "shifts": system.edges.cell_shifts.astype(float),
        }
        for key, array in frame.items():
            arrays.setdefault(key, []).append(array)
    np.savez(path, **{key: np.concatenate(parts) for key, parts in arrays.items()})


def read_frames(path: Path) -> dict[str, torch.Tensor]:
    """What `write_frames` wrote."""
    return {name: torch.from_numpy(array) for name, array in np.load(path).items()}


def timed(step: Callable[[], Any], model: torch.nn.Module, repeats: int) -> dict[str, Any]:
    """Wall and processor seconds of each repeat after a warm-up, and this process's peak memory."""
    step()
    wall, processor = [], []
    for _ in range(repeats):
        start, start_processor = time.perf_counter(), time.process_time()
        step()
        wall.append(time.perf_counter() - start)
        processor.append(time.process_time() - start_processor)
    return {
        "seconds": wall,
        "processor_seconds": processor,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "n_weights": sum(p.numel() for p in model.parameters()),
    }


def compare(
    script: Path, pythons: Mapping[str, str], frames: Path, rounds: int, words: list[str]
) -> dict[str, Any]:
    """Run `python script --worker SIDE FRAMES WORDS..` for every side, `rounds` times.

    Args:
        script: prints the result of `timed` as its last line.
        pythons: side -> interpreter; the first side is ours.
        frames: from `write_frames`.
        rounds: the sides take turns, so that a busy moment of the machine hits all of them.
        words: passed on.
    """
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in pythons}
    for _ in range(rounds):
        for side, python in pythons.items():
            command = [python, str(script), "--worker", side, str(frames), *words]
            output = subprocess.run(command, capture_output=True, text=True)
            if output.returncode:
                reason = (output.stderr.strip().splitlines() or ["no message"])[-1]
                runs[side].append({"failed": f"exit code {output.returncode}: {reason}"})
            else:
                runs[side].append(json.loads(output.stdout.splitlines()[-1]))
    return summary(runs)


def summary(runs: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Per side the times and memory, and how many times more the others take than the first."""
    sides: dict[str, dict[str, Any]] = {}
    for side, of_side in runs.items():
        if failures := [run["failed"] for run in of_side if "failed" in run]:
            sides[side] = {"failed": failures[0]}
            continue
        sides[side] = {
            "median_s": median(s for run in of_side for s in run["seconds"]),
            "min_s": min(s for run in of_side for s in run["seconds"]),
            "min_processor_s": min(s for run in of_side for s in run["processor_seconds"]),
            "peak_mib": max(run["peak_mib"] for run in of_side),
            "n_weights": of_side[0]["n_weights"],
        }
    ours, *others = sides.values()
    for theirs in others:
        if "failed" in theirs or "failed" in ours:
            continue
        for kind in ("median", "min", "min_processor"):
            theirs[f"times_slower_{kind}"] = theirs[f"{kind}_s"] / ours[f"{kind}_s"]
        theirs["times_more_memory"] = theirs["peak_mib"] / ours["peak_mib"]
    return sides
