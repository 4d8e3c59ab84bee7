"""Two programs on the same frames, in processes of their own, in turn: what the benchmarks share.

Only NumPy and torch are imported at the top: workers run in environments that hold nothing of ours.
"""

from __future__ import annotations

import json
import resource
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch


def write_frames(path: Path, n_frames: int, cutoff: float) -> None:
    """Rattled cubic HfO2 (96 atoms) with its pairs, concatenated, as all sides read it."""
    from ase.build import bulk

    from siliforce.graph import System

    arrays: dict[str, list[np.ndarray]] = {}
    for k in range(n_frames):
        atoms = bulk("HfO2", "fluorite", a=5.08, cubic=True) * (2, 2, 2)
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
        for name, array in frame.items():
            arrays.setdefault(name, []).append(array)
    np.savez(path, **{name: np.concatenate(parts) for name, parts in arrays.items()})


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
    script: Path,
    pythons: Mapping[str, str],
    tasks: Mapping[str, int],
    cutoff: float,
    rounds: int,
    arguments: list[str],
) -> dict[str, Any]:
    """Run `python script --worker SIDE TASK FRAMES ARGUMENTS..` for every side, `rounds` times.

    Args:
        script: prints the result of `timed` as its last line.
        pythons: side -> interpreter; the first side is ours.
        tasks: task -> frames in its batch.
        cutoff: Å.
        rounds: the sides take turns, so that a busy moment of the machine hits all of them.
        arguments: passed on.
    """
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for task, n_frames in tasks.items():
            frames = Path(folder) / f"{task}.npz"
            write_frames(frames, n_frames, cutoff)
            runs: dict[str, list[dict[str, Any]]] = {side: [] for side in pythons}
            for _ in range(rounds):
                for side, python in pythons.items():
                    command = [python, str(script), "--worker", side, task, str(frames), *arguments]
                    output = subprocess.run(command, check=True, capture_output=True, text=True)
                    runs[side].append(json.loads(output.stdout.splitlines()[-1]))
            results[task] = summary(runs)
    return results


def summary(runs: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Per side the times and memory, and how many times more the others take than the first."""
    sides: dict[str, dict[str, Any]] = {
        side: {
            "median_s": median(s for run in of_side for s in run["seconds"]),
            "min_s": min(s for run in of_side for s in run["seconds"]),
            "min_processor_s": min(s for run in of_side for s in run["processor_seconds"]),
            "peak_mib": max(run["peak_mib"] for run in of_side),
            "n_weights": of_side[0]["n_weights"],
        }
        for side, of_side in runs.items()
    }
    ours = next(iter(sides.values()))
    for theirs in list(sides.values())[1:]:
        for kind in ("median", "min", "min_processor"):
            theirs[f"times_slower_{kind}"] = theirs[f"{kind}_s"] / ours[f"{kind}_s"]
        theirs["times_more_memory"] = theirs["peak_mib"] / ours["peak_mib"]
    return sides
