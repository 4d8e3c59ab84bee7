"""How long energy and forces take, per atom, on a machine that is named."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator

from siliforce.errors import DataError
from siliforce.graph import Graph, System, collate
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
    graph = _graph(potential, atoms)

    def build() -> System:
        return _system(potential, atoms)

    def call() -> None:
        _call(potential, graph)

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


def speed_of_set(
    source: Potential | Calculator, frames: Sequence[Atoms], passes: int = 5, name: str = ""
) -> Result:
    """The benchmark's way: a whole test set one frame at a time, several times.

    A first pass warms up and does not count. Of a potential, energy and forces are timed, and the
    graphs are made before; of an ASE calculator everything that it does.

    Args:
        source: a potential or any ASE calculator.
        frames: the test set.
        passes: that count.
        name: of the test set.

    Returns:
        Protocol `paper`: `energy_forces` (µs per atom, the mean over passes; `low` and `high` are
        one standard deviation away from it), `frame_time` (ms per frame), `peak_memory` (GiB).

    Raises:
        DataError: no frames, or elements that the potential does not know.
    """
    if not frames or passes < 1:
        raise DataError(f"{len(frames)} frames and {passes} passes: there is nothing to time")
    work = _one_by_one(source, frames)
    seconds = _times(work, passes, 1)
    n_atoms = sum(len(frame) for frame in frames)
    hardware, provenance = stamp(source)
    device = source.device if isinstance(source, Potential) else torch.device("cpu")
    metrics = []
    for metric, unit, scale in (
        ("energy_forces", "µs/atom", 1e6 / n_atoms),
        ("frame_time", "ms", 1e3 / len(frames)),
    ):
        mean, spread = scale * seconds.mean(), scale * seconds.std(ddof=min(1, passes - 1))
        low, high = mean - spread, mean + spread
        metrics.append(
            Metric(name=metric, value=mean, unit=unit, better="lower", low=low, high=high)
        )
    peak = peak_memory_gib(device)
    metrics.append(Metric(name="peak_memory", value=peak, unit="GiB", better="lower"))
    return Result(
        indicator="speed",
        model=model_name(source),
        dataset=name,
        protocol="paper",
        metrics=metrics,
        hardware=hardware,
        provenance=provenance | {"n_frames": len(frames), "n_atoms": n_atoms, "passes": passes},
    )


def _one_by_one(source: Potential | Calculator, frames: Sequence[Atoms]) -> Callable[[], None]:
    """One pass over the frames."""
    if isinstance(source, Potential):
        source.check_elements(np.concatenate([frame.numbers for frame in frames]))
        graphs = [_graph(source, frame) for frame in frames]

        def ask() -> None:
            for graph in graphs:
                _call(source, graph)

        return ask

    def calculate() -> None:
        for frame in frames:
            atoms = frame.copy()
            atoms.calc = source
            atoms.get_potential_energy()
            atoms.get_forces()

    return calculate


def _system(potential: Potential, atoms: Atoms) -> System:
    cell, cutoff = atoms.cell.array, potential.cutoff
    return System.build(atoms.numbers, atoms.positions, cell, atoms.pbc, cutoff)


def _graph(potential: Potential, atoms: Atoms) -> Graph:
    graph = collate([_system(potential, atoms)], potential.model.needs, potential.dtype)
    return graph.to(potential.device)


def _call(potential: Potential, graph: Graph) -> None:
    with torch.no_grad():  # as in dynamics; else a direct model's answer would keep its graph
        potential(graph, forces=True)
    if potential.device.type == "cuda":
        torch.cuda.synchronize(potential.device)


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
