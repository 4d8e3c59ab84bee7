"""Import and loading: our store beside ASE reading extended XYZ and pickled graphs in LMDB.

    python benchmarks/data.py --frames 10000 --threads 1      # needs lmdb and torch_geometric

Frames are rattled cubic HfO2 (96 atoms, 6 Å) with random labels, since only their way from disk to
a ready batch is timed: one pass in random order (extended XYZ: in file order), float32 graphs with
labels, every step in a process of its own, in processor seconds of one thread, files in the page
cache. `lmdb_pyg` is the way of the reference benchmark, and of the Open Catalyst code that it grew
from: pickled `torch_geometric.data.Data`, `Batch.from_data_list`, edge vectors by its formula.
`lmdb` is the leanest use of the same database: plain tensors, concatenated as our own graphs are,
so nothing but that and edge vectors is left to do. For extended XYZ the neighbour list is ours,
which is a gift (see neighbors.py for ASE's). All ways but `lmdb_pyg` end in the same `Batch`, and
that one in a batch with the same pairs, edge vectors and labels.

Memory: `peak_mib` is everything resident, also pages of mapped files, which the system takes back
when it needs them; `anonymous_mib` is what the process cannot give back. Both are taken at a
quarter of the frames as well, to see whether they grow.
"""

from __future__ import annotations

import argparse
import json
import pickle
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import ase.io
import numpy as np
import torch
from ase import Atoms
from ase.build import bulk

from siliforce.data import Batch, Dataset, Store, Targets, import_files
from siliforce.files import write_atomic
from siliforce.graph import System, Topology, collate
from siliforce.graph.graph import assemble
from siliforce.hardware import hardware_stamp

CUTOFF = 6.0
WAYS = ("store", "extxyz", "lmdb", "lmdb_pyg")
MAP_SIZE = 1 << 38
"""Largest size of the LMDB file; it is sparse."""


def write_frames(path: Path, n_frames: int) -> None:
    """Extended XYZ as the field writes it, 96 atoms a frame."""
    ideal = bulk("HfO2", "fluorite", a=5.08, cubic=True) * (2, 2, 2)
    lattice = " ".join(f"{x:.8f}" for x in ideal.cell.array.ravel())
    rng = np.random.default_rng(0)
    with path.open("w") as file:
        for _ in range(n_frames):
            columns = np.hstack(
                [ideal.positions + rng.normal(0, 0.1, (96, 3)), rng.normal(0, 2, (96, 3))]
            )
            stress = " ".join(f"{x:.8f}" for x in np.eye(3).ravel() * rng.normal(0, 0.01))
            file.write(
                f'96\nLattice="{lattice}" Properties=species:S:1:pos:R:3:forces:R:3 '
                f'energy={rng.normal(-907, 5):.8f} stress="{stress}" pbc="T T T"\n'
            )
            for symbol, row in zip(ideal.symbols, columns, strict=True):
                file.write(symbol + "".join(f" {x:.8f}" for x in row) + "\n")


def write_lmdb(source: Path, target: Path, record: Callable[[Atoms], Any]) -> None:
    """One pickled record per frame, pairs included."""
    import lmdb

    with lmdb.open(str(target), map_size=MAP_SIZE, subdir=False) as database:
        for k, atoms in enumerate(ase.io.iread(source, index=":")):
            with database.begin(write=True) as transaction:
                transaction.put(str(k).encode(), pickle.dumps(record(atoms), protocol=-1))


def _record(atoms: Atoms) -> dict[str, torch.Tensor]:
    system = System.build(
        atoms.numbers, atoms.positions, atoms.cell.array, np.asarray(atoms.pbc), CUTOFF
    )
    edges = system.edges
    return {
        "numbers": torch.from_numpy(system.numbers),
        "positions": torch.from_numpy(system.positions),
        "cell": torch.from_numpy(system.cell),
        "pbc": torch.from_numpy(system.pbc),
        "edge_index": torch.from_numpy(np.stack([edges.center, edges.neighbor])),
        "cell_shifts": torch.from_numpy(edges.cell_shifts.astype(np.int32)),
        "energy": torch.tensor(atoms.get_potential_energy(), dtype=torch.float64),
        "forces": torch.from_numpy(atoms.get_forces()),
        "stress": torch.from_numpy(atoms.get_stress(voigt=False)),
    }


def _pyg_record(atoms: Atoms) -> Any:
    """The same as the graph object of PyTorch Geometric, in the types that Open Catalyst writes."""
    from torch_geometric.data import Data

    record = _record(atoms)
    return Data(
        atomic_numbers=record["numbers"].float(),
        pos=record["positions"].float(),
        cell=record["cell"].float().view(1, 3, 3),
        natoms=len(atoms),
        edge_index=record["edge_index"].long(),
        cell_offsets=record["cell_shifts"].float(),
        y=record["energy"].float(),
        force=record["forces"].float(),
        stress=record["stress"].float().view(1, 3, 3),
    )


# -- ways to a batch ------------------------------------------------------------------------------


def from_store(folder: Path, n_frames: int, size: int) -> Iterator[Batch]:
    """Ours."""
    dataset = Dataset([Store.open(folder / "store")])
    for rows in _random_rows(n_frames, size):
        yield dataset.batch(rows, CUTOFF, Topology())


def from_lmdb(folder: Path, n_frames: int, size: int) -> Iterator[Batch]:
    """Pickled tensors, concatenated."""
    for rows, records in _pickled(folder / "lmdb", n_frames, size):
        yield _concatenated(records, rows)


def from_lmdb_pyg(folder: Path, n_frames: int, size: int) -> Iterator[Any]:
    """Pickled `Data`, put together by PyTorch Geometric; `edge_vectors` neighbour less centre."""
    from torch_geometric.data import Batch as PyGBatch

    for _, records in _pickled(folder / "lmdb_pyg", n_frames, size):
        batch = PyGBatch.from_data_list(records)
        batch.neighbors = torch.tensor([r.edge_index.shape[1] for r in records])
        center, neighbor = batch.edge_index
        cell = torch.repeat_interleave(batch.cell, batch.neighbors, dim=0)
        offsets = batch.cell_offsets.view(-1, 1, 3).bmm(cell).view(-1, 3)
        batch.edge_vectors = batch.pos[neighbor] - batch.pos[center] + offsets
        yield batch


def _pickled(path: Path, n_frames: int, size: int) -> Iterator[tuple[np.ndarray, list[Any]]]:
    import lmdb

    database = lmdb.open(str(path), subdir=False, readonly=True, lock=False, readahead=False)
    with database.begin() as transaction:
        for rows in _random_rows(n_frames, size):
            yield rows, [pickle.loads(transaction.get(str(k).encode()) or b"") for k in rows]


def _concatenated(records: list[dict[str, torch.Tensor]], rows: np.ndarray) -> Batch:
    sizes = torch.tensor([len(r["numbers"]) for r in records])
    starts = torch.cumsum(sizes, 0) - sizes
    pairs = torch.cat([r["edge_index"] + s for r, s in zip(records, starts, strict=True)], dim=1)
    graph = assemble(
        numbers=torch.cat([r["numbers"] for r in records]),
        positions=torch.cat([r["positions"] for r in records]),
        cell=torch.stack([r["cell"] for r in records]),
        pbc=torch.stack([r["pbc"] for r in records]),
        sizes=sizes,
        center=pairs[0],
        neighbor=pairs[1],
        cell_shifts=torch.cat([r["cell_shifts"] for r in records]),
        topology=Topology(),
    )
    targets = Targets(
        energy=torch.stack([r["energy"] for r in records]),
        forces=torch.cat([r["forces"] for r in records]),
        stress=torch.stack([r["stress"] for r in records]),
        n_atoms=sizes,
        weight=torch.ones(len(records), dtype=torch.float64),
        frame_index=torch.from_numpy(rows),
    )
    return Batch(graph, targets)


def from_extxyz(folder: Path, n_frames: int, size: int) -> Iterator[Batch]:
    """ASE's reader and a neighbour list for every frame, every epoch."""
    frames = ase.io.iread(folder / "frames.extxyz", index=slice(0, n_frames))
    for start in range(0, n_frames, size):
        rows = np.arange(start, min(start + size, n_frames))
        yield _built([next(frames) for _ in rows], rows)


def _built(frames: list[Atoms], rows: np.ndarray) -> Batch:
    systems = [
        System.build(a.numbers, a.positions, a.cell.array, np.asarray(a.pbc), CUTOFF)
        for a in frames
    ]
    targets = Targets(
        energy=torch.tensor([a.get_potential_energy() for a in frames], dtype=torch.float64),
        forces=torch.from_numpy(np.concatenate([a.get_forces() for a in frames])),
        stress=torch.from_numpy(np.stack([a.get_stress(voigt=False) for a in frames])),
        n_atoms=torch.tensor([len(a) for a in frames]),
        weight=torch.ones(len(frames), dtype=torch.float64),
        frame_index=torch.from_numpy(rows),
    )
    return Batch(collate(systems, Topology()), targets)


def _random_rows(n_frames: int, size: int) -> Iterator[np.ndarray]:
    order = np.random.default_rng(0).permutation(n_frames)
    return (order[k : k + size] for k in range(0, n_frames, size))


BATCHES: dict[str, Callable[[Path, int, int], Iterator[Any]]] = {
    "store": from_store,
    "lmdb": from_lmdb,
    "lmdb_pyg": from_lmdb_pyg,
    "extxyz": from_extxyz,
}


RECORDS: dict[str, Callable[[Atoms], Any]] = {
    "write_lmdb": _record,
    "write_lmdb_pyg": _pyg_record,
}

# -- measuring ------------------------------------------------------------------------------------


def anonymous_mib() -> float:
    """Memory of this process that no file holds, MiB (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    return float("nan")


def worker(task: str, folder: Path, n_frames: int, size: int) -> dict[str, Any]:
    """One step in this process; processor seconds and memory."""
    checks: dict[str, float] = {}
    before, anonymous = anonymous_mib(), 0.0
    start = time.process_time()
    if task == "import":
        import_files(folder / "frames.extxyz", folder / "store")
    elif task == "neighbors":
        Dataset([Store.open(folder / "store")]).edge_counts(CUTOFF)
    elif task in RECORDS:
        name = task.removeprefix("write_")
        write_lmdb(folder / "frames.extxyz", folder / name, RECORDS[task])
    else:
        checks = dict.fromkeys(("energy", "edges", "length"), 0.0)
        for k, batch in enumerate(BATCHES[task](folder, n_frames, size)):
            ours = isinstance(batch, Batch)
            vectors = batch.graph.edge_vectors if ours else batch.edge_vectors
            checks["energy"] += float((batch.targets.energy if ours else batch.y).sum())
            checks["edges"] += len(vectors)
            checks["length"] += float(vectors[0].norm())
            if k % 32 == 0:
                anonymous = max(anonymous, anonymous_mib())
    seconds = time.process_time() - start
    return {
        "seconds": seconds,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "anonymous_mib": max(anonymous, anonymous_mib()),
        "anonymous_before_mib": before,
        "checks": checks,
    }


def run(task: str, folder: Path, n_frames: int, size: int, threads: int) -> dict[str, Any]:
    """A step in a process of its own."""
    command = [sys.executable, __file__, "--worker", task, "--folder", str(folder)]
    command += ["--frames", str(n_frames), "--batch", str(size), "--threads", str(threads)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(output.stdout.splitlines()[-1])


def compare(folder: Path, n_frames: int, size: int, threads: int, rounds: int) -> dict[str, Any]:
    """Everything once, the passes `rounds` times in turn."""
    write_frames(folder / "frames.extxyz", n_frames)
    once = {t: run(t, folder, n_frames, size, threads) for t in ("import", "neighbors")}
    once |= {t: run(t, folder, n_frames, size, threads) for t in RECORDS}
    passes: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way in WAYS:
            passes[way].append(run(way, folder, n_frames, size, threads))
    answers = {way: runs[0]["checks"] for way, runs in passes.items()}
    _same(answers)
    quarter = {way: run(way, folder, n_frames // 4, size, threads) for way in WAYS}
    result: dict[str, Any] = {
        task: {
            "frames_per_s": n_frames / taken["seconds"],
            "peak_mib": taken["peak_mib"],
            "anonymous_mib": taken["anonymous_mib"],
        }
        for task, taken in once.items()
    }
    for way, runs in passes.items():
        result[way] = {
            "frames_per_s": n_frames / median(r["seconds"] for r in runs),
            "frames_per_s_all": [n_frames / r["seconds"] for r in runs],
            "peak_mib": max(r["peak_mib"] for r in runs),
            "anonymous_mib": max(r["anonymous_mib"] for r in runs),
            "peak_mib_quarter": quarter[way]["peak_mib"],
            "anonymous_mib_quarter": quarter[way]["anonymous_mib"],
        }
    for way in WAYS[1:]:
        result["store"][f"times_faster_than_{way}"] = (
            result["store"]["frames_per_s"] / result[way]["frames_per_s"]
        )
    return result


def _same(answers: dict[str, dict[str, float]]) -> None:
    """All ways brought the same frames and pairs, and in the same order the same vectors."""
    ours = answers["store"]
    for way, theirs in answers.items():
        compared = ["energy", "edges"] + ["length"] * (way != "extxyz")
        if not all(np.isclose(theirs[name], ours[name]) for name in compared):
            raise SystemExit(f"{way} brought {theirs}, the store {ours}: not a comparison")


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "data.json")
    parser.add_argument("--folder", type=Path, help="for the frames; default: a temporary one")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.worker:
        print(json.dumps(worker(args.worker, args.folder, args.frames, args.batch)))
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        result = compare(Path(folder), args.frames, args.batch, args.threads, args.rounds)
    result["frames"], result["batch"] = args.frames, args.batch
    result["hardware"] = hardware_stamp() | {"threads": args.threads}
    write_atomic(args.out, json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
