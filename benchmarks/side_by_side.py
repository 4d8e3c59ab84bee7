"""Two programs on the same frames, in processes of their own, in turn: what the benchmarks share.

Only NumPy and torch are imported at the top: workers run in environments that hold nothing of ours.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
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
TASKS = {"energy_forces": 1, "training": 4}
"""Task -> frames in a batch."""
COMPILED = "siliforce_compiled"


def main(script: Path, other: str, sides: Mapping[str, Side], cutoff: float) -> None:
    """Compare ours with another program, or be one side of the comparison.

    Args:
        script: the benchmark itself; its results are written to `results/<name>.json` beside it.
        other: name of the other side.
        sides: name -> from frames to model and evaluation; `siliforce` is ours.
        cutoff: Å.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--other", help=f"Python of the environment with {other}")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--compiled", action="store_true", help="also ours through torch.compile")
    default = script.resolve().parent / "results" / f"{script.stem}.json"
    parser.add_argument("--out", type=Path, default=default)
    parser.add_argument("--worker", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        side, task, frames, threads, repeats = arguments.worker
        build = sides[side.removesuffix("_compiled")]
        print(json.dumps(work(build, side, task, Path(frames), int(threads), int(repeats))))
        return
    from siliforce.hardware import hardware_stamp

    torch.set_num_threads(arguments.threads)
    options = (cutoff, arguments.rounds, [str(arguments.threads), str(arguments.repeats)])
    pythons = {"siliforce": sys.executable, other: arguments.other}
    result: dict[str, Any] = {"hardware": hardware_stamp()}
    result["tasks"] = compare(script, pythons, TASKS, *options)
    if arguments.compiled:
        ours = dict.fromkeys(("siliforce", COMPILED), sys.executable)
        result["compiled"] = compare(script, ours, {"energy_forces": 1}, *options)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def work(
    build: Side, side: str, task: str, frames: Path, threads: int, repeats: int
) -> dict[str, Any]:
    """Time one task in this process."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model, evaluate = build(read_frames(frames))
    if side == COMPILED:
        model.model.compile(dynamic=True)  # type: ignore[union-attr, operator]
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-5)

    def step() -> None:
        energy, forces = evaluate(task == "training")
        if task == "training":
            optimiser.zero_grad()
            (energy.square().mean() + forces.square().mean()).backward()
            optimiser.step()

    return timed(step, model, repeats)


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
