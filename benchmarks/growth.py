"""How time and memory of an evaluation grow with the number of atoms and of neighbours.

    python benchmarks/growth.py mace schnet --preset small --threads 1

Energy and forces of rattled cubic HfO2 in float32, from 96 to about 10,000 atoms at the preset's
cutoff, and of 324 atoms at cutoffs from 4 to 7 Å; each in a process of its own. The exponent is
the slope of log(time) against log(number of edges) through all sizes: 1 is linear.
Where a size fails for lack of memory, that is recorded and larger ones are left out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from side_by_side import timed

REPEATS = (2, 3, 4, 5, 7, 9)
"""Cubic cells along each axis: 96, 324, 768, 1500, 4116, 8748 atoms."""
CUTOFFS = (4.0, 5.0, 6.0, 7.0)


def worker(name: str, preset: str, repeats: int, cutoff: float, threads: int) -> dict[str, Any]:
    """Time one size in this process; `cutoff` 0 is the preset's own."""
    from siliforce.generate.crystals import crystal
    from siliforce.graph import System, collate
    from siliforce.hardware import keep_freed_memory
    from siliforce.models import get_model
    from siliforce.potential import Potential
    from siliforce.species import Species

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    atoms = crystal("c-HfO2") * (repeats, repeats, repeats)
    atoms.rattle(0.1, seed=0)
    model_class = get_model(name)
    config = model_class.presets[preset]
    if cutoff:
        config = config.model_copy(update={"cutoff": cutoff})
    potential = Potential(model_class(config, 2, 80.0), Species.from_symbols(["O", "Hf"]), [0, 0])
    system = System.build(
        atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, config.cutoff
    )
    graph = collate([system], potential.model.needs, torch.float32)
    potential.eval()
    keep_freed_memory()
    with torch.no_grad():  # as dynamics does it
        result = timed(lambda: potential(graph), potential, 2 if len(atoms) > 1000 else 3)
    return {
        "n_atoms": len(atoms),
        "mean_neighbors": graph.n_edges / len(atoms),
        "min_processor_s": min(result["processor_seconds"]),
        "peak_mib": result["peak_mib"],
    }


def sweep(name: str, preset: str, sizes: list[tuple[int, float]], threads: int) -> dict[str, Any]:
    """All sizes of one model, and the exponent."""
    rows: list[dict[str, Any]] = []
    for repeats, cutoff in sizes:
        words = [name, preset, str(repeats), str(cutoff), str(threads)]
        command = [sys.executable, __file__, "--worker", *words]
        output = subprocess.run(command, capture_output=True, text=True)
        if output.returncode:
            reason = (output.stderr.strip().splitlines() or [f"signal {-output.returncode}"])[-1]
            rows.append({"n_atoms": 12 * repeats**3, "cutoff": cutoff, "failed": reason})
            break
        rows.append(json.loads(output.stdout.splitlines()[-1]))
    return {"rows": rows, "exponent": exponent([r for r in rows if "failed" not in r])}


def exponent(rows: list[dict[str, Any]]) -> float | None:
    """Slope of log(time) against log(number of edges)."""
    if len(rows) < 3:
        return None
    edges = [r["n_atoms"] * r["mean_neighbors"] for r in rows]
    return float(np.polyfit(np.log(edges), np.log([r["min_processor_s"] for r in rows]), 1)[0])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--preset", default="small")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--largest", type=int, default=REPEATS[-1], help="cells along each axis")
    default = Path(__file__).resolve().parent / "results" / "growth.json"
    parser.add_argument("--out", type=Path, default=default)
    arguments = parser.parse_args()
    from siliforce.hardware import hardware_stamp

    torch.set_num_threads(arguments.threads)
    result: dict[str, Any] = {"hardware": hardware_stamp(), "preset": arguments.preset}
    for name in arguments.models:
        by_atoms = [(n, 0.0) for n in REPEATS if n <= arguments.largest]
        by_neighbors = [(3, cutoff) for cutoff in CUTOFFS]
        result[name] = {
            "atoms": sweep(name, arguments.preset, by_atoms, arguments.threads),
            "neighbors": sweep(name, arguments.preset, by_neighbors, arguments.threads),
        }
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")
        print(name, json.dumps(result[name]))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        name, preset, *numbers = sys.argv[2:]
        repeats, cutoff, threads = (float(n) for n in numbers)
        print(json.dumps(worker(name, preset, int(repeats), cutoff, int(threads))))
    else:
        main()
