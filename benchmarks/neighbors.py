"""Neighbour lists: ours (vesin, sorted for the graph) beside ASE's and matscipy's.

    python benchmarks/neighbors.py

Rattled cubic HfO2, 6 Å, full lists with cell shifts; every list holds the same pairs, which is
checked. The sides take turns; the median of the repeats counts.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.neighborlist import primitive_neighbor_list
from matscipy.neighbours import neighbour_list

from siliforce.files import write_atomic
from siliforce.graph import neighbor_list
from siliforce.hardware import hardware_stamp

CUTOFF = 6.0
SLOW = 2000
"""Atoms above which ASE's list, several seconds each, is made once only."""


def ours(atoms: Atoms) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Through vesin, sorted by center, neighbor, shift."""
    found = neighbor_list(atoms.positions, atoms.cell.array, np.asarray(atoms.pbc), CUTOFF)
    return found.center, found.neighbor, found.cell_shifts


def by_ase(atoms: Atoms) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ASE's."""
    center, neighbor, shift = primitive_neighbor_list(
        "ijS", atoms.pbc, atoms.cell.array, atoms.positions, CUTOFF, self_interaction=False
    )
    return center, neighbor, shift


def by_matscipy(atoms: Atoms) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """matscipy's."""
    center, neighbor, shift = neighbour_list("ijS", atoms, CUTOFF)
    return center, neighbor, shift


SIDES: dict[str, Callable[[Atoms], tuple[np.ndarray, np.ndarray, np.ndarray]]] = {
    "siliforce": ours,
    "matscipy": by_matscipy,
    "ase": by_ase,
}


def measure(atoms: Atoms, repeats: int) -> dict[str, Any]:
    """Milliseconds of each side."""
    lists = {side: _sorted(make(atoms)) for side, make in SIDES.items()}  # also the warm-up
    for side, found in lists.items():
        if not np.array_equal(found, lists["siliforce"]):
            raise SystemExit(f"{side} finds other pairs: not a comparison")
    taken: dict[str, list[float]] = {side: [] for side in SIDES}
    for k in range(repeats):
        for side, make in SIDES.items():
            if side == "ase" and k > 0 and len(atoms) > SLOW:
                continue
            start = time.perf_counter()
            make(atoms)
            taken[side].append(1e3 * (time.perf_counter() - start))
    result: dict[str, Any] = {side: round(median(times), 3) for side, times in taken.items()}
    result["n_edges"] = len(lists["siliforce"])
    for side in ("matscipy", "ase"):
        result[f"times_faster_than_{side}"] = round(result[side] / result["siliforce"], 2)
    return result


def _sorted(found: tuple[np.ndarray, np.ndarray, np.ndarray]) -> np.ndarray:
    center, neighbor, shift = found
    rows = np.column_stack([center, neighbor, shift])
    return rows[np.lexsort(rows.T[::-1])]


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--largest", type=int, default=9, help="largest supercell: 9 is 8748 atoms")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results" / "neighbors.json"
    )
    args = parser.parse_args()
    rows = {}
    for repeat in (1, 2, 4, 9):
        if repeat > args.largest:
            continue
        atoms = bulk("HfO2", "fluorite", a=5.08, cubic=True) * (repeat, repeat, repeat)
        atoms.rattle(0.1, seed=0)
        rows[str(len(atoms))] = measure(atoms, args.repeats)
    names = ("vesin", "ase", "matscipy", "numpy")
    result = {
        "milliseconds_by_atoms": rows,
        "cutoff": CUTOFF,
        "versions": {name: version(name) for name in names},
        "hardware": hardware_stamp(),
    }
    write_atomic(args.out, json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
