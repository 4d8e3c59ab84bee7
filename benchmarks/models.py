"""An architecture at `paper` size beside its authors' code: time and peak memory on one machine.

    python benchmarks/models.py mace --other ENV/bin/python --threads 1

`ENV` is made as `authors/mace.py` says. Both sides run in processes of their own, in turn, on the
same pairs of a rattled crystal (full neighbour list of the preset's cutoff), in float32, both
eager: energy and forces of one frame, and one training step (energy and force loss, Adam). The
pairs are given; building them is not timed. Without `--other` ours runs alone. `--compiled` adds
ours through torch.compile, energy and forces only. A side that fails, as when memory runs out, is
recorded with its last words.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from side_by_side import MATERIALS, Evaluate, Side, compare, work, write_frames

HERE = Path(__file__).resolve().parent
MEAN_NEIGHBORS = 80.0
OURS, COMPILED = "siliforce", "siliforce_compiled"


def ours(
    name: str, compiled: bool, data: dict[str, torch.Tensor]
) -> tuple[torch.nn.Module, Evaluate]:
    """Our model and `evaluate(training) -> energy, forces`."""
    from siliforce.graph.graph import assemble
    from siliforce.models import get_model
    from siliforce.potential import Potential
    from siliforce.species import Species

    species = Species(tuple(data["numbers"].unique().tolist()))
    model_class = get_model(name)
    model = model_class(model_class.presets["paper"], len(species), MEAN_NEIGHBORS)
    potential = Potential(model, species, [0.0] * len(species), pin_isolated=False)
    if compiled:
        model.compile(dynamic=True)
    graph = assemble(
        numbers=data["numbers"],
        positions=data["positions"],
        sizes=torch.bincount(data["system"]),
        cell=data["cell"],
        pbc=torch.ones(len(data["cell"]), 3, dtype=torch.bool),
        center=data["center"],
        neighbor=data["neighbor"],
        cell_shifts=data["shifts"],
        topology=model.needs,
    )

    def evaluate(training: bool) -> tuple[torch.Tensor, torch.Tensor]:
        # As in use: a direct model keeps no graph, a gradient model makes the one it needs.
        with torch.set_grad_enabled(training):
            answer = potential(graph.moved(data["positions"]), create_graph=training)
        assert answer.forces is not None
        return answer.energy.float(), answer.forces

    return potential, evaluate


def side(name: str, model: str) -> Side:
    """How to build one side; theirs is imported only in their environment."""
    if name in (OURS, COMPILED):
        return partial(ours, model, name == COMPILED)
    build: Side = import_module(f"authors.{model}").build
    return build


def worker(words: list[str]) -> dict[str, Any]:
    """One side of one task."""
    name, frames, model, task, threads, repeats = words
    return work(side(name, model), task, Path(frames), int(threads), int(repeats))


def benchmark(arguments: argparse.Namespace) -> dict[str, Any]:
    """All tasks and sides of one model on one material."""
    from siliforce.hardware import hardware_stamp
    from siliforce.models import get_model

    pythons = {OURS: sys.executable}
    if arguments.other:
        pythons["authors"] = arguments.other
    cutoff = get_model(arguments.model).presets["paper"].cutoff
    torch.set_num_threads(arguments.threads)
    result: dict[str, Any] = {
        "model": arguments.model,
        "material": arguments.material,
        "hardware": hardware_stamp(),
    }
    with tempfile.TemporaryDirectory() as folder:
        for task, n_frames in (("energy_forces", 1), ("training", arguments.batch)):
            frames = Path(folder) / f"{task}.npz"
            write_frames(frames, arguments.material, n_frames, cutoff)
            sides = dict(pythons)
            if arguments.compiled and task == "energy_forces":
                sides[COMPILED] = sys.executable
            words = [arguments.model, task, str(arguments.threads), str(arguments.repeats)]
            timings = compare(Path(__file__), sides, frames, arguments.rounds, words)
            result[task] = {"n_frames": n_frames, **timings}
    return result


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--other", help="Python of the environment with the authors' package")
    parser.add_argument("--material", choices=MATERIALS, default="HfO2")
    parser.add_argument("--batch", type=int, default=4, help="frames of a training step")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--compiled", action="store_true", help="also ours through torch.compile")
    parser.add_argument("--out", type=Path, help="default: results/MODEL-MATERIAL.json")
    arguments = parser.parse_args()
    out = arguments.out or HERE / "results" / f"{arguments.model}-{arguments.material}.json"
    text = json.dumps(benchmark(arguments), indent=2)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        print(json.dumps(worker(sys.argv[2:])))
    else:
        main()
