"""How long energy and forces take, per atom, on a machine that is named."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from ase import Atoms

from siliforce.graph import System, collate
from siliforce.hardware import peak_memory_gib
from siliforce.indicators.base import Metric, Result, model_name, stamp
from siliforce.potential import Potential


def speed(
    potential: Potential, atoms: Atoms, repeats: int = 10, warmup: int = 2, name: str = ""
) -> Result:
    """Time of one call for energy and forces, and of one neighbour search.

    The median over the repeats, after calls that do not count; `low` and `high` are the fastest
    and slowest tenth. Memory is the process's peak so far (or the accelerator's).

    Args:
        potential: what is timed.
        atoms: on what structure; µs per atom depend on its size.
        repeats, warmup: calls that count and calls that do not.
        name: of the structure; its formula if empty.

    Raises:
        DataError: elements that the potential does not know.
    """
    potential.check_elements(atoms.numbers)

    def build() -> System:
        cell, cutoff = atoms.cell.array, potential.cutoff
        return System.build(atoms.numbers, atoms.positions, cell, atoms.pbc, cutoff)

    graph = collate([build()], potential.model.needs, potential.dtype).to(potential.device)

    def call() -> None:
        potential(graph, forces=True)
        if potential.device.type == "cuda":
            torch.cuda.synchronize(potential.device)

    hardware, provenance = stamp(potential)
    n_atoms = len(atoms)
    provenance |= {"n_atoms": n_atoms, "n_edges": graph.n_edges, "repeats": repeats}
    timings = [
        _timing("energy_forces", _times(call, repeats, warmup), n_atoms),
        _timing("neighbour_search", _times(build, repeats, warmup), n_atoms),
    ]
    peak = peak_memory_gib(potential.device)
    return Result(
        indicator="speed",
        model=model_name(potential),
        dataset=name or atoms.get_chemical_formula(),
        metrics=[
            *timings,
            Metric(name="peak_memory", value=peak, unit="GiB", better="lower"),
        ],
        hardware=hardware,
        provenance=provenance,
    )


def _times(call: Callable[[], object], repeats: int, warmup: int) -> np.ndarray:
    """Seconds of each call that counts."""
    taken = []
    for step in range(warmup + repeats):
        start = time.perf_counter()
        call()
        if step >= warmup:
            taken.append(time.perf_counter() - start)
    return np.array(taken)


def _timing(name: str, seconds: np.ndarray, n_atoms: int) -> Metric:
    low, middle, high = np.percentile(1e6 * seconds / n_atoms, [10, 50, 90])
    return Metric(name=name, value=middle, unit="µs/atom", better="lower", low=low, high=high)
