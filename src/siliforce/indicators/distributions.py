"""What RDF and ADF share: pairs of a frame, curves frame by frame, and their score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator
from vesin import NeighborList

from siliforce.data.reference import Curves, Images, Start
from siliforce.errors import DataError
from siliforce.graph.neighbors import MIN_DISTANCE
from siliforce.indicators.base import Metric, Result, model_name, stamp
from siliforce.potential import Potential

T = TypeVar("T")
Protocol = Literal["siliforce", "paper"]

BLOCKS = 10
"""Of consecutive frames, that count as independent."""
RESAMPLES = 200
MIN_FRAMES = 4
"""With fewer frames nothing is said about noise."""


@dataclass(frozen=True)
class Pairs:
    """Directed pairs of one frame.

    Attributes:
        numbers: atomic numbers of all atoms, copies included, (n_atoms,).
        volume: that they fill, Å³.
        center, neighbor: (n_pairs,).
        vectors: from the center to the neighbor, (n_pairs, 3), Å.
        lengths: (n_pairs,), Å.
    """

    numbers: np.ndarray
    volume: float
    center: np.ndarray
    neighbor: np.ndarray
    vectors: np.ndarray
    lengths: np.ndarray


@dataclass(frozen=True)
class Sampled:
    """Distribution functions of a trajectory, frame by frame.

    Attributes:
        x: grid, as in `Curves`.
        values: by pair or triplet, each (n_frames, n_bins).
    """

    x: np.ndarray
    values: dict[str, np.ndarray]

    def curves(self) -> Curves:
        """Averaged over the frames, with the standard error if there are enough of them."""
        errors = {}
        if self.n_frames >= MIN_FRAMES:
            errors = {name: resampled(v, 0).std(axis=0) for name, v in self.values.items()}
        return Curves(self.x, {n: v.mean(axis=0) for n, v in self.values.items()}, errors)

    @property
    def n_frames(self) -> int:
        return len(next(iter(self.values.values())))


def checked(frames: Sequence[Atoms]) -> np.ndarray:
    """Atomic numbers of a trajectory.

    Raises:
        DataError: no frames, other atoms in some frame, or not periodic in three directions.
    """
    if not len(frames):
        raise DataError("there are no frames to make a distribution function of")
    numbers = frames[0].numbers
    for index, frame in enumerate(frames):
        if not np.array_equal(frame.numbers, numbers):
            raise DataError(f"frame {index} holds other atoms than frame 0; give one trajectory")
        if not frame.pbc.all():
            raise DataError(
                f"frame {index} is periodic along {frame.pbc.tolist()}; distribution functions "
                "need three periodic directions"
            )
    return numbers


def find_pairs(frame: Atoms, cutoff: float, images: Images = "lattice") -> Pairs:
    """All directed pairs closer than `cutoff` (Å), in no particular order.

    Raises:
        DataError: positions that are not finite, or atoms on top of each other.
    """
    if images == "lengths" and not is_orthogonal(frame):
        return _pairs_by_lengths(frame, cutoff)
    first, second, lengths, vectors = find_half(frame, cutoff, "ijdD")
    return Pairs(
        frame.numbers,
        frame.get_volume(),
        np.concatenate([first, second]).astype(np.int64),
        np.concatenate([second, first]).astype(np.int64),
        np.concatenate([vectors, -vectors]),
        np.concatenate([lengths, lengths]),
    )


def find_half(
    frame: Atoms, cutoff: float, quantities: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Pairs as vesin finds them, each once: half of the work, without sorting.

    Returns:
        Both atoms, distances (Å), and vectors from the first to the second (Å) where `quantities`
        asks for them: `ijdD` or `ijd`.

    Raises:
        DataError: positions that are not finite, or atoms on top of each other.
    """
    if not np.isfinite(frame.positions).all():
        raise DataError("positions hold NaN or infinite values; check the frame")
    finder = NeighborList(cutoff=cutoff, full_list=False)
    found = finder.compute(frame.positions, frame.cell.array, frame.pbc, quantities=quantities)
    first, second, lengths = found[:3]
    if len(lengths) and lengths.min() < MIN_DISTANCE:
        worst = int(lengths.argmin())
        raise DataError(
            f"atoms {first[worst]} and {second[worst]} lie on top of each other; check the frame"
        )
    return first, second, lengths, found[3] if len(found) > 3 else np.zeros((0, 3))


def is_orthogonal(frame: Atoms) -> bool:
    """Whether the lattice vectors lie along x, y and z."""
    cell = frame.cell.array
    return bool(np.abs(cell - np.diag(np.diag(cell))).max() < 1e-8)


def _pairs_by_lengths(frame: Atoms, cutoff: float) -> Pairs:
    wrapped = frame.copy()
    wrapped.calc = None
    wrapped.wrap()
    copies = wrapped.repeat(2)
    sides = copies.cell.lengths()
    n_atoms, positions = len(copies), copies.positions
    keep, vectors = [], []
    for start in range(0, n_atoms, 64):
        delta = positions[None] - positions[start : start + 64, None]
        delta -= sides * (np.abs(delta) > sides / 2) * np.sign(delta)
        near = np.einsum("ijk,ijk->ij", delta, delta) < cutoff**2
        rows = np.arange(len(near))
        near[rows, start + rows] = False
        center, neighbor = np.nonzero(near)
        keep.append(np.stack([center + start, neighbor]))
        vectors.append(delta[center, neighbor])
    pairs, joined = np.concatenate(keep, axis=1), np.concatenate(vectors)
    lengths = np.linalg.norm(joined, axis=1)
    return Pairs(copies.numbers, copies.get_volume(), pairs[0], pairs[1], joined, lengths)


def over_frames(work: Callable[[Atoms], T], frames: Sequence[Atoms]) -> list[T]:
    """`work` for every frame, in as many threads as PyTorch may use: what takes time is outside
    of Python's lock.
    """
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        return list(pool.map(work, frames))


# -- comparing ------------------------------------------------------------------------------------


def wasserstein(density: np.ndarray, reference: np.ndarray, width: float) -> np.ndarray:
    """Wasserstein-1 distance of distributions on one grid: how far their mass has to move.

    Args:
        density, reference: (..., n_bins), of any scale.
        width: of the bins; the result has its unit.

    Returns:
        (...); NaN where one of the two is empty.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        first, second = (
            np.cumsum(d, axis=-1) / d.sum(axis=-1, keepdims=True) for d in (density, reference)
        )
        return np.abs(first - second).sum(axis=-1) * width


def resampled(values: np.ndarray, seed: int) -> np.ndarray:
    """Block-bootstrap means of per-frame curves, (RESAMPLES, n_bins).

    Consecutive frames form `BLOCKS` blocks (fewer if there are fewer frames). The variance of
    resampled means of n blocks is too small by (n-1)/n, which is made up for.
    """
    blocks = np.stack([b.mean(axis=0) for b in np.array_split(values, min(BLOCKS, len(values)))])
    n = len(blocks)
    weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=RESAMPLES) / n
    mean = blocks.mean(axis=0)
    return mean + (weights @ blocks - mean) * np.sqrt(n / (n - 1))


@dataclass(frozen=True)
class Kind:
    """What tells an RDF from an ADF when it is scored.

    Attributes:
        name: `rdf` or `adf`.
        unit: of the grid.
        width: of a bin.
        mass: times a curve makes the distribution of which the Wasserstein distance is taken,
            (n_bins,).
    """

    name: str
    unit: str
    width: float
    mass: np.ndarray

    def errors(self, curve: np.ndarray, reference: np.ndarray) -> dict[str, np.ndarray]:
        """Mean absolute error over all bins and Wasserstein-1 distance; (..., n_bins) to (...)."""
        return {
            f"{self.name}_mae": np.abs(curve - reference).mean(axis=-1),
            f"{self.name}_wasserstein": wasserstein(
                curve * self.mass, reference * self.mass, self.width
            ),
        }

    def noise(self, sampled: Sampled) -> dict[str, float]:
        """Errors to expect between two trajectories of one potential, each as long as this one.

        From a block bootstrap; the mean over pairs or triplets, as the errors are. Empty with
        fewer than `MIN_FRAMES` frames.
        """
        if sampled.n_frames < MIN_FRAMES:
            return {}
        found = [self.errors(resampled(v, 1), resampled(v, 2)) for v in sampled.values.values()]
        return {key: float(np.nanmean([f[key].mean() for f in found])) for key in found[0]}

    def score(
        self,
        source: Potential | Calculator | str,
        sampled: Sampled | None,
        start: Start,
        reference: Curves | None,
        protocol: Protocol,
        failure: str,
    ) -> Result:
        """A trajectory's curves against those of the reference.

        Args:
            source: what made the trajectory, or its name.
            sampled: of the trajectory; None if there is none, because the run failed.
            start: of the run.
            reference: its curves.
            protocol: `paper` gives the mean absolute error alone.
            failure: why the run failed; there are no errors then, only the reason.

        Raises:
            DataError: the reference has no curves, or they have another grid or other elements.
        """
        if reference is None:
            raise DataError(
                f"the reference has no {self.name.upper()} of {start.name}; "
                "make one from a trajectory with `siliforce reference make --aimd`"
            )
        hardware, provenance = stamp(source)
        result = Result(
            indicator=self.name,
            model=model_name(source),
            dataset=start.atoms.get_chemical_formula(),
            split=start.split,
            protocol=protocol,
            failure=failure,
            hardware=hardware,
            provenance=provenance | {"temperature": start.temperature, "images": start.images},
        )
        rows: list[dict[str, Any]] = []
        result.curves = {"x": reference.x, "unit": self.unit, "reference": reference.values}
        result.curves["reference_errors"] = reference.errors
        if sampled is not None:
            curves = sampled.curves()
            _check_alike(curves, reference)
            result.curves |= {"values": curves.values, "errors": curves.errors}
            result.provenance["n_frames"] = sampled.n_frames
            rows = [
                {"label": name} | self.errors(curves.values[name], truth)
                for name, truth in reference.values.items()
            ]
        result.tables = {"by_group": rows}
        result.metrics = self._metrics([] if failure else rows, start, protocol, failure)
        return result

    def _metrics(
        self, rows: list[dict[str, Any]], start: Start, protocol: Protocol, failure: str
    ) -> list[Metric]:
        units = {f"{self.name}_mae": "1", f"{self.name}_wasserstein": self.unit}
        metrics = []
        for key, unit in units.items():
            if protocol == "paper" and not key.endswith("_mae"):
                continue
            known = [row[key] for row in rows if np.isfinite(row[key])]
            value = float(np.mean(known)) if known and len(known) == len(rows) else None
            note = "" if value is not None else failure or "a curve is empty"
            metrics.append(Metric(name=key, value=value, unit=unit, better="lower", note=note))
            if protocol == "siliforce" and key in start.noise:
                about = "of the reference: what a perfect potential would score"
                metrics.append(
                    Metric(name=f"{key}_noise", value=start.noise[key], unit=unit, note=about)
                )
        return metrics


def _check_alike(curves: Curves, reference: Curves) -> None:
    """Raise a DataError unless the two have one grid and the same elements."""
    if curves.x.shape != reference.x.shape or not np.allclose(curves.x, reference.x, atol=1e-6):
        raise DataError(
            f"the reference curve has {len(reference.x)} bins from {reference.x[0]:g} to "
            f"{reference.x[-1]:g}, this one {len(curves.x)} from {curves.x[0]:g} to "
            f"{curves.x[-1]:g}; make both with the same definition"
        )
    if set(reference.values) != set(curves.values):
        raise DataError(
            f"the reference is of {', '.join(reference.values)}, the trajectory of "
            f"{', '.join(curves.values)}: not the same elements"
        )
