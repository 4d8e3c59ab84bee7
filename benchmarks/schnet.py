"""SchNet, `paper` sizes, against PyTorch Geometric's: time and peak memory on one machine.

    python benchmarks/schnet.py --other ENV/bin/python --threads 1

`ENV` holds torch and torch_geometric (`pip install torch==2.13.0 torch_geometric==2.8.1`). Both
run in processes of their own, in turn, on the same pairs of rattled cubic HfO2 (96 atoms, 6 Å, no
labels needed), in float32, both eager: energy and forces of one frame, and one training step
(energy and force loss, Adam) of a batch of four. The pairs are given; building them is not timed.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

SIZES = {"hidden": 1024, "n_filters": 256, "n_layers": 5, "n_radial": 200, "cutoff": 6.0}
TASKS = {"energy_forces": 1, "training": 4}
"""Task -> frames in a batch."""


def write_frames(path: Path, n_frames: int) -> None:
    """Rattled HfO2 with its pairs, concatenated, as both sides read them."""
    from ase.build import bulk

    from siliforce.graph import System

    arrays: dict[str, list[np.ndarray]] = {}
    for k in range(n_frames):
        atoms = bulk("HfO2", "fluorite", a=5.08, cubic=True) * (2, 2, 2)
        atoms.rattle(0.1, seed=k)
        system = System.build(
            atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, SIZES["cutoff"]
        )
        offset = k * len(atoms)
        frame = {
            "numbers": system.numbers,
            "positions": system.positions,
            "system": np.full(len(atoms), k),
            "cell": system.cell[None],
            "center": system.edges.center + offset,
            "neighbor": system.edges.neighbor + offset,
            "shifts": system.edges.cell_shifts.astype(float),
        }
        for name, array in frame.items():
            arrays.setdefault(name, []).append(array)
    np.savez(path, **{name: np.concatenate(parts) for name, parts in arrays.items()})


def siliforce_tasks(data: dict[str, torch.Tensor]) -> tuple[torch.nn.Module, Callable[..., Any]]:
    """Our model and `evaluate(positions, training) -> energy, forces`."""
    from siliforce.graph.graph import assemble
    from siliforce.models.schnet import SchNet, SchNetConfig
    from siliforce.potential import Potential
    from siliforce.species import Species

    species = Species.from_symbols(["O", "Hf"])
    potential = Potential(SchNet(SchNetConfig(**SIZES), 2), species, [0.0, 0.0])
    graph = assemble(
        numbers=data["numbers"],
        positions=data["positions"],
        sizes=torch.bincount(data["system"]),
        cell=data["cell"],
        pbc=torch.ones(len(data["cell"]), 3, dtype=torch.bool),
        center=data["center"],
        neighbor=data["neighbor"],
        cell_shifts=data["shifts"],
        topology=SchNet.needs,
    )

    def evaluate(positions: torch.Tensor, training: bool) -> tuple[torch.Tensor, torch.Tensor]:
        answer = potential(graph.moved(positions), create_graph=training)
        return answer.energy.float(), answer.forces

    return potential, evaluate


def geometric_tasks(data: dict[str, torch.Tensor]) -> tuple[torch.nn.Module, Callable[..., Any]]:
    """PyTorch Geometric's model and `evaluate(positions, training) -> energy, forces`."""
    from torch_geometric.nn.models import SchNet  # type: ignore[import-not-found]

    center, neighbor = data["center"], data["neighbor"]
    cell = data["cell"][data["system"][center]]
    translation = torch.einsum("es,esx->ex", data["shifts"], cell).float()

    def pairs(positions: torch.Tensor, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        vectors = positions[neighbor] + translation - positions[center]
        return torch.stack([neighbor, center]), vectors.norm(dim=-1)

    model = SchNet(
        hidden_channels=SIZES["hidden"],
        num_filters=SIZES["n_filters"],
        num_interactions=SIZES["n_layers"],
        num_gaussians=SIZES["n_radial"],
        cutoff=SIZES["cutoff"],
        interaction_graph=pairs,
    )

    def evaluate(positions: torch.Tensor, training: bool) -> tuple[torch.Tensor, torch.Tensor]:
        positions = positions.float().requires_grad_()
        energy = model(data["numbers"], positions, data["system"])
        (gradient,) = torch.autograd.grad(energy.sum(), positions, create_graph=training)
        return energy.squeeze(1), -gradient

    return model, evaluate


def work(side: str, task: str, frames: Path, threads: int, repeats: int) -> dict[str, Any]:
    """Time one task in this process."""
    torch.set_num_threads(threads)
    data = {name: torch.from_numpy(array) for name, array in np.load(frames).items()}
    model, evaluate = (siliforce_tasks if side == "siliforce" else geometric_tasks)(data)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-5)

    def step() -> None:
        energy, forces = evaluate(data["positions"], task == "training")
        if task == "training":
            optimiser.zero_grad()
            (energy.square().mean() + forces.square().mean()).backward()
            optimiser.step()

    step()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    n_weights = sum(p.numel() for p in model.parameters())
    return {"seconds": seconds, "peak_mib": peak, "n_weights": n_weights}


def compare(other: str, threads: int, rounds: int, repeats: int) -> dict[str, Any]:
    """Run both sides in turn, `rounds` times each, and summarise."""
    from siliforce.hardware import hardware_stamp

    torch.set_num_threads(threads)
    result: dict[str, Any] = {"sizes": SIZES, "hardware": hardware_stamp(), "tasks": {}}
    pythons = {"siliforce": sys.executable, "torch_geometric": other}
    with tempfile.TemporaryDirectory() as folder:
        for task, n_frames in TASKS.items():
            frames = Path(folder) / f"{task}.npz"
            write_frames(frames, n_frames)
            runs: dict[str, list[dict[str, Any]]] = {side: [] for side in pythons}
            for _ in range(rounds):
                for side, python in pythons.items():
                    options = [task, str(frames), str(threads), str(repeats)]
                    command = [python, __file__, "--worker", side, *options]
                    output = subprocess.run(command, check=True, capture_output=True, text=True)
                    runs[side].append(json.loads(output.stdout.splitlines()[-1]))
            result["tasks"][task] = summary(runs)
    return result


def summary(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians over all repeats, and how many times faster and smaller ours is."""
    sides = {
        side: {
            "median_s": median(s for run in of_side for s in run["seconds"]),
            "min_s": min(s for run in of_side for s in run["seconds"]),
            "peak_mib": max(run["peak_mib"] for run in of_side),
            "n_weights": of_side[0]["n_weights"],
        }
        for side, of_side in runs.items()
    }
    ours, theirs = sides["siliforce"], sides["torch_geometric"]
    return sides | {
        "times_faster": theirs["median_s"] / ours["median_s"],
        "times_less_memory": theirs["peak_mib"] / ours["peak_mib"],
    }


def main() -> None:
    """Compare, or be one side of the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--other", help="Python of the environment with torch_geometric")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/schnet.json"))
    parser.add_argument("--worker", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        side, task, frames, threads, repeats = arguments.worker
        print(json.dumps(work(side, task, Path(frames), int(threads), int(repeats))))
        return
    result = compare(arguments.other, arguments.threads, arguments.rounds, arguments.repeats)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result["tasks"], indent=2))


if __name__ == "__main__":
    main()
