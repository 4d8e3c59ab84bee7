"""RDF and ADF of one trajectory: ours, MDAnalysis and freud; equal numbers, and processor time.

Run in an environment that has MDAnalysis and freud beside siliforce:

    python benchmarks/rdf_adf.py [--frames 200]

The trajectories: cubic hafnia displaced at random by 0.15 Å, 96 atoms (10.1 Å) for angles, 324
(15.1 Å) for distances, because both packages see one image of an atom only and need a box of
twice the cutoff; ours is timed with 96 atoms as well. Every program makes the same histograms.
Neither package has an angular distribution function, so theirs is the quickest that their own
pieces give: MDAnalysis' `capped_distance` and `calc_angles`, freud's neighbour list and NumPy.
All run on one thread; what is compared is processor time per frame.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import freud
import numpy as np
import torch
from ase import Atoms
from ase.spacegroup import crystal
from MDAnalysis.lib.distances import calc_angles, capped_distance

from siliforce.indicators.adf import CUTOFF, angular
from siliforce.indicators.rdf import EDGES, N_BINS, WIDTH, radial

NAMES = {0: "O", 1: "Hf"}


def trajectory(n_frames: int, copies: int) -> list[Atoms]:
    atoms = crystal(
        ["Hf", "O"], [(0, 0, 0), (0.25, 0.25, 0.25)], spacegroup=225, cellpar=[5.04] * 3 + [90] * 3
    ).repeat(copies)
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(n_frames):
        frame = atoms.copy()
        frame.positions += rng.normal(scale=0.15, size=frame.positions.shape)
        frame.wrap()
        frames.append(frame)
    return frames


def species(frame: Atoms) -> np.ndarray:
    return (frame.numbers == 72).astype(np.int64)


# -- pairs of a frame: center, neighbor, length, vector ------------------------------------------


def mdanalysis_pairs(frame: Atoms, cutoff: float) -> tuple[np.ndarray, np.ndarray]:
    """Pairs in both directions with their lengths."""
    box, positions = frame.cell.cellpar().astype("f4"), frame.positions.astype("f4")
    pairs, lengths = capped_distance(positions, positions, cutoff, box=box)
    keep = pairs[:, 0] != pairs[:, 1]
    return pairs[keep], lengths[keep]


def freud_pairs(frame: Atoms, cutoff: float) -> freud.locality.NeighborList:
    box = freud.box.Box.cube(frame.cell[0, 0])
    query = freud.locality.AABBQuery(box, frame.positions - frame.cell[0, 0] / 2)
    asked = {"r_max": cutoff, "exclude_ii": True}
    return query.query(query.points, asked).toNeighborList()


# -- RDF ------------------------------------------------------------------------------------------


def histogram(frame: Atoms, first: np.ndarray, second: np.ndarray, lengths: np.ndarray) -> dict:
    """The benchmark's normalisation of the distances that a package found."""
    kind, found = species(frame), {}
    for a, b in ((0, 0), (0, 1), (1, 1)):
        chosen = (kind[first] == a) & (kind[second] == b)
        bins = (lengths[chosen].astype(float) / WIDTH).astype(np.int64)
        counts = np.bincount(bins, minlength=N_BINS)[:N_BINS]
        ideal = (kind == a).sum() * (kind == b).sum() / frame.get_volume()
        shells = 4 * np.pi * EDGES**2 * WIDTH
        curve = np.divide(counts, ideal * shells, out=np.zeros(N_BINS), where=shells > 0)
        found[f"{NAMES[a]}-{NAMES[b]}"] = curve
    return found


def mdanalysis_rdf(frame: Atoms) -> dict:
    pairs, lengths = mdanalysis_pairs(frame, WIDTH * N_BINS)
    return histogram(frame, pairs[:, 0], pairs[:, 1], lengths)


def freud_rdf(frame: Atoms) -> dict:
    found = freud_pairs(frame, WIDTH * N_BINS)
    return histogram(frame, found.query_point_indices, found.point_indices, found.distances)


# -- ADF ------------------------------------------------------------------------------------------


def triplets(centers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both pairs of every angle, each angle once; pairs sorted by center."""
    counts = np.bincount(centers)
    counts = counts[counts > 0]
    starts = np.cumsum(counts) - counts
    tables: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    first, second = [], []
    for start, n in zip(starts, counts, strict=True):
        if n not in tables:
            tables[n] = np.triu_indices(n, 1)
        first.append(tables[n][0] + start)
        second.append(tables[n][1] + start)
    return np.concatenate(first), np.concatenate(second)


def angle_histogram(
    frame: Atoms, center: np.ndarray, ends: tuple[np.ndarray, np.ndarray],
    lengths: tuple[np.ndarray, np.ndarray], angles: np.ndarray,
) -> dict:  # fmt: skip
    kind = species(frame)
    weights = np.exp(-np.maximum(*lengths)) * (angles > 1e-5)
    rows = kind[center] * 3 + kind[ends[0]] + kind[ends[1]]
    bins = np.minimum(angles.astype(np.int64), 179)
    counts = np.bincount(rows * 180 + bins, weights, 6 * 180).reshape(2, 3, 180)
    found = {}
    for middle in (0, 1):
        for row, (a, c) in enumerate(((0, 0), (0, 1), (1, 1))):
            curve = counts[middle, row]
            found[f"{NAMES[a]}-{NAMES[middle]}-{NAMES[c]}"] = 180 * curve / curve.sum()
    return found


def mdanalysis_adf(frame: Atoms) -> dict:
    pairs, lengths = mdanalysis_pairs(frame, CUTOFF)
    order = np.argsort(pairs[:, 0], kind="stable")
    pairs, lengths = pairs[order], lengths[order]
    first, second = triplets(pairs[:, 0])
    center, ends = pairs[first, 0], (pairs[first, 1], pairs[second, 1])
    positions = frame.positions.astype("f4")
    corners = (positions[ends[0]], positions[center], positions[ends[1]])
    angles = np.degrees(calc_angles(*corners, box=frame.cell.cellpar().astype("f4")))
    return angle_histogram(frame, center, ends, (lengths[first], lengths[second]), angles)


def freud_adf(frame: Atoms) -> dict:
    found = freud_pairs(frame, CUTOFF)
    centers, neighbors = found.query_point_indices, found.point_indices
    lengths = found.distances.astype(float)
    units = found.vectors / lengths[:, None]
    first, second = triplets(centers)
    cosines = np.einsum("ij,ij->i", units[first], units[second])
    angles = np.degrees(np.arccos(np.clip(cosines, -1, 1)))
    ends = (neighbors[first], neighbors[second])
    return angle_histogram(frame, centers[first], ends, (lengths[first], lengths[second]), angles)


# -- comparison -----------------------------------------------------------------------------------


def averaged(measure: Callable[[Atoms], dict], frames: list[Atoms]) -> dict:
    curves = [measure(frame) for frame in frames]
    return {name: np.mean([c[name] for c in curves], axis=0) for name in curves[0]}


def timed(work: Callable[[], dict], n_frames: int) -> tuple[dict, float]:
    """The answer, and the fastest of three, ms of processor time per frame."""
    taken = []
    for _ in range(3):
        start = time.process_time()
        answer = work()
        taken.append(1e3 * (time.process_time() - start) / n_frames)
    return answer, min(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--frames", type=int, default=200)
    n_frames = parser.parse_args().frames
    torch.set_num_threads(1)
    freud.parallel.set_num_threads(1)
    small, large = trajectory(n_frames, 2), trajectory(n_frames, 3)
    print(f"{n_frames} frames; ms of processor time per frame, one thread")
    radial(small[:5])
    alone = timed(lambda: radial(small).curves().values, n_frames)[1]
    print(f"RDF, {len(small[0])} atoms  siliforce   {alone:7.2f}")
    others = {"MDAnalysis": mdanalysis_rdf, "freud": freud_rdf}
    compare(f"RDF, {len(large[0])} atoms", radial, others, large)
    others = {"MDAnalysis": mdanalysis_adf, "freud": freud_adf}
    compare(f"ADF, {len(small[0])} atoms", angular, others, small)


def compare(title: str, ours: Callable, others: dict[str, Callable], frames: list[Atoms]) -> None:
    """Print times and the largest difference of the curves."""
    ours(frames[:5])
    own, fast = timed(lambda: ours(frames).curves().values, len(frames))
    print(f"{title}  siliforce   {fast:7.2f}")
    for name, other in others.items():
        answer, slow = timed(lambda other=other: averaged(other, frames), len(frames))
        assert set(answer) == set(own), (set(answer), set(own))
        difference = max(np.abs(answer[key] - own[key]).mean() for key in own)
        print(
            f"{title}  {name:<10}  {slow:7.2f}   {slow / fast:5.1f} times ours; "
            f"mean difference {difference:.1e} of curves around 1"
        )


if __name__ == "__main__":
    main()
