"""Angular distribution functions, per triplet of elements.

The definition of the SAMD23 benchmark: an angle at atom j between two neighbours i and k, both
within 5 Å, counts exp(-max(r_ij, r_ik)) (r in Å); 180 bins of one degree; angles up to 1e-5 degree
are dropped; every frame's curve has the mean 1, and frames are averaged.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations_with_replacement

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator
from torch import Tensor

from siliforce.data.reference import Images, Start, group_name
from siliforce.indicators.base import Result
from siliforce.indicators.distributions import (
    Kind,
    Pairs,
    Protocol,
    Sampled,
    checked,
    find_pairs,
    over_frames,
)
from siliforce.potential import Potential

CUTOFF = 5.0
"""Å."""
N_BINS = 180
MIN_ANGLE = 1e-5
"""Degree."""
MAX_COSINE = float(np.cos(np.radians(MIN_ANGLE)))
MARGIN = 1e-15
"""Directions are shorter than 1 by this, so that no angle is 180 degrees or not a number."""
CENTERS = 200
"""Atoms whose angles are worked out at once: their arrays stay within the processor's cache."""
KIND = Kind("adf", "degree", 180 / N_BINS, np.ones(N_BINS))


def adf(
    source: Potential | Calculator | str,
    frames: Sequence[Atoms],
    start: Start,
    protocol: Protocol = "siliforce",
    failure: str = "",
) -> Result:
    """Angular distribution functions of a trajectory against those of the reference.

    `adf_mae` is the mean over triplets of the mean over all bins of the absolute difference;
    `adf_wasserstein` (degree) the mean over triplets of the Wasserstein-1 distance.

    Args:
        source: what made the trajectory, or its name.
        frames: the analysed part of the trajectory; not looked at if the run failed.
        start: of the run, with the reference curves.
        protocol: `paper` gives `adf_mae` alone.
        failure: why the run failed; there are no curves and errors then, only the reason.

    Raises:
        DataError: no frames, or no curves that they can be compared with.
    """
    sampled = None if failure else angular(frames, images=start.images)
    return KIND.score(source, sampled, start, start.adf, protocol, failure)


def angular(frames: Sequence[Atoms], cutoff: float = CUTOFF, images: Images = "lattice") -> Sampled:
    """Angular distribution function of every triplet of elements, frame by frame.

    Args:
        frames: of one trajectory.
        cutoff: of both legs, Å.
        images: see `siliforce.data.reference.Images`.

    Returns:
        `x` is the upper edge of the bins, degree; a triplet without any angle has zeros.

    Raises:
        DataError: no frames, or frames that do not belong together.
    """
    elements = np.unique(checked(frames))
    names, groups = _groups(elements)

    def histograms(frame: Atoms) -> np.ndarray:
        return _frame(find_pairs(frame, cutoff, images), elements, groups)

    sums = np.stack(over_frames(histograms, frames))
    curves = np.stack([sums[:, rows].sum(axis=1) for rows in names.values()], axis=1)
    total = curves.sum(axis=-1, keepdims=True)
    curves = N_BINS * np.divide(curves, total, out=np.zeros_like(curves), where=total > 0)
    x = np.arange(1.0, N_BINS + 1)
    return Sampled(x, {name: curves[:, k] for k, name in enumerate(names)})


def _groups(elements: np.ndarray) -> tuple[dict[str, list[int]], np.ndarray]:
    """Rows of the histogram that belong to each triplet, and the first row of each center.

    A row is the center's first row plus the codes of both ends; sums of two codes are unique.
    """
    codes = _codes(len(elements))
    n_rows = 2 * int(codes[-1]) + 1
    names: dict[str, list[int]] = {}
    for low, high in combinations_with_replacement(range(len(elements)), 2):
        for middle, center in enumerate(elements):
            name = group_name([elements[low], center, elements[high]])
            row = middle * n_rows + int(codes[low] + codes[high])
            names.setdefault(name, []).append(row)
    return dict(sorted(names.items())), codes


def _codes(n: int) -> np.ndarray:
    """Numbers whose sums in pairs are all different (Mian and Chowla's sequence, from zero)."""
    found, sums = [0], {0}
    while len(found) < n:
        candidate = found[-1] + 1
        while any(candidate + c in sums for c in [*found, candidate]):
            candidate += 1
        found.append(candidate)
        sums |= {candidate + c for c in found}
    return np.array(found)


def _frame(pairs: Pairs, elements: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Weighted histograms of all angles of a frame, (n_rows, N_BINS)."""
    species = np.searchsorted(elements, pairs.numbers)
    n_rows = 2 * int(codes[-1]) + 1
    size = len(elements) * n_rows * N_BINS
    total = torch.zeros(size, dtype=torch.float64)
    order = np.argsort(pairs.center, kind="stable")
    center, lengths = pairs.center[order], pairs.lengths[order]
    counts = np.bincount(center, minlength=len(species))
    width = int(counts.max(initial=0)) | 1  # odd: see `_angles`
    starts = np.cumsum(counts) - counts
    slots = center * width + np.arange(len(center)) - starts[center]
    # Empty slots: no direction, no weight.
    table = np.zeros((5, len(species) * width))
    table[:3, slots] = ((1 - MARGIN) * pairs.vectors[order] / lengths[:, None]).T
    table[3, slots] = np.exp(-lengths)
    table[4, slots] = codes[species[pairs.neighbor[order]]] * N_BINS
    neighbors = torch.from_numpy(table).reshape(5, len(species), width)
    first = torch.from_numpy(species * n_rows * N_BINS).double()
    for begin in range(0, len(species), CENTERS):
        chosen = slice(begin, begin + CENTERS)
        bins, weights = _angles(neighbors[:, chosen], first[chosen])
        total += torch.bincount(bins.view(-1), weights.view(-1), size)
    return total.reshape(-1, N_BINS).numpy()


def _angles(neighbors: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
    """Bin and weight of every angle, each (n_centers, (width - 1) / 2, width).

    With an odd number of slots on a circle, neighbour k and the one s places further, for s up to
    (width - 1) / 2, make every pair once; the ones further on are views, and nothing is gathered.

    Args:
        neighbors: direction, exp(-distance) and first bin, (5, n_centers, width).
        first: first bin of each center, (n_centers,).
    """
    width = neighbors.shape[2]
    further = torch.cat([neighbors, neighbors], dim=2).unfold(2, width, 1)[:, :, 1 : width // 2 + 1]
    here = neighbors[:, :, None]
    # Results of views are laid out as these are: give them a layout that can be flattened.
    cosine, weights, bins = torch.empty(3, *further.shape[1:], dtype=neighbors.dtype)
    torch.mul(here[0], further[0], out=cosine)
    cosine.addcmul_(here[1], further[1]).addcmul_(here[2], further[2])
    torch.minimum(here[3], further[3], out=weights)
    if cosine.max() >= MAX_COSINE:  # an atom behind another one
        weights.masked_fill_(cosine >= MAX_COSINE, 0.0)
    torch.add(here[4] + first[:, None, None], further[4], out=bins)
    bins.add_(cosine.acos_(), alpha=180 / np.pi)
    return bins.int(), weights
