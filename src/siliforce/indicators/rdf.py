"""Radial distribution functions, per pair of elements.

The definition of the SAMD23 benchmark: bin k holds the distances in [k dr, (k+1) dr) with
dr = 0.05 Å, for k up to 120 (6 Å); the number of neighbours b of an atom a in it is divided by
4 pi r^2 dr rho_b with r = k dr, the *left* edge, and rho_b = N_b / V; bin 0 is defined as 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations_with_replacement

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator

from siliforce.data.reference import Images, Start, group_name
from siliforce.indicators.base import Result
from siliforce.indicators.distributions import (
    Kind,
    Protocol,
    Sampled,
    checked,
    find_half,
    find_pairs,
    is_orthogonal,
    over_frames,
)
from siliforce.potential import Potential

WIDTH = 0.05
"""Å."""
N_BINS = 121
EDGES = WIDTH * np.arange(N_BINS)
"""Left edges of the bins, Å."""
# Times the square of the left edge, g is again what was counted: distances between atoms.
KIND = Kind("rdf", "Å", WIDTH, EDGES**2)


def rdf(
    source: Potential | Calculator | str,
    frames: Sequence[Atoms],
    start: Start,
    protocol: Protocol = "siliforce",
    failure: str = "",
) -> Result:
    """Radial distribution functions of a trajectory against those of the reference.

    `rdf_mae` is the mean over pairs of elements of the mean over all bins of the absolute
    difference; `rdf_wasserstein` (Å) the mean over pairs of elements of the Wasserstein-1 distance
    between the distributions of the distances up to 6 Å.

    Args:
        source: what made the trajectory, or its name.
        frames: the analysed part of the trajectory; not looked at if the run failed.
        start: of the run, with the reference curves.
        protocol: `paper` gives `rdf_mae` alone.
        failure: why the run failed; there are no curves and errors then, only the reason.

    Raises:
        DataError: no frames, or no curves that they can be compared with.
    """
    sampled = None if failure else radial(frames, start.images)
    return KIND.score(source, sampled, start, start.rdf, protocol, failure)


def radial(frames: Sequence[Atoms], images: Images = "lattice") -> Sampled:
    """Radial distribution function of every pair of elements, frame by frame.

    Args:
        frames: of one trajectory.
        images: see `siliforce.data.reference.Images`.

    Returns:
        `x` is the left edge of the bins, Å.

    Raises:
        DataError: no frames, or frames that do not belong together.
    """
    elements = np.unique(checked(frames))

    def histograms(frame: Atoms) -> np.ndarray:
        return _frame(frame, elements, images)

    curves = np.stack(over_frames(histograms, frames))
    pairs = combinations_with_replacement(range(len(elements)), 2)
    return Sampled(
        EDGES, {group_name([elements[a], elements[b]]): curves[:, a, b] for a, b in pairs}
    )


def _frame(frame: Atoms, elements: np.ndarray, images: Images) -> np.ndarray:
    """g of a frame, (n_elements, n_elements, N_BINS)."""
    reach, numbers, volume = WIDTH * N_BINS, frame.numbers, frame.get_volume()
    if images == "lattice" or is_orthogonal(frame):
        first, second, lengths, _ = find_half(frame, reach, "ijd")
        once = True
    else:
        pairs = find_pairs(frame, reach, images)
        numbers, volume, once = pairs.numbers, pairs.volume, False
        first, second, lengths = pairs.center, pairs.neighbor, pairs.lengths
    species, n = np.searchsorted(elements, numbers), len(elements)
    # At the very cutoff rounding may reach one bin further.
    bins = np.minimum((lengths / WIDTH).astype(np.int64), N_BINS - 1)
    rows = species[first] * n + species[second]
    found = np.bincount(rows * N_BINS + bins, minlength=n * n * N_BINS).reshape(n, n, N_BINS)
    if once:
        found = found + found.transpose(1, 0, 2)
    counts = np.bincount(species, minlength=n)
    shells = 4 * np.pi * EDGES**2 * WIDTH / volume
    ideal = counts[:, None, None] * counts[None, :, None] * shells
    return np.divide(found, ideal, out=np.zeros_like(ideal), where=ideal > 0)
