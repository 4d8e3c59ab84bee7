"""Distances between atoms: overlaps, very short ones, and lengths in another unit."""

from __future__ import annotations

import numpy as np
from ase.data import covalent_radii

from siliforce.data.dataset import Dataset
from siliforce.data.distances import distances
from siliforce.data.doctor.findings import Finding
from siliforce.data.frame import Frame
from siliforce.errors import DataError
from siliforce.progress import track

CUTOFF = 4.0
CLOSE = 0.6
"""Of the sum of the covalent radii."""
USUAL = (0.5, 1.4)
"""Where the shortest distances of a set lie, of the sum of the covalent radii."""


def check_contacts(dataset: Dataset) -> tuple[list[Finding], list[int]]:
    """Findings, and the rows whose atoms overlap: nothing else can be said of those."""
    closest, broken = np.full(len(dataset), np.inf), {}
    for row in track(range(len(dataset)), "looking at distances", silent_below=50):
        try:
            closest[row] = _closest(dataset[row])
        except DataError as error:
            broken[row] = str(error)
    findings = []
    if broken:
        evidence = f"{len(broken)} frames; the first: {next(iter(broken.values()))}"
        named = [dataset.sources[i] for i in broken]
        title = "structures that cannot be used"
        findings.append(Finding("broken", "error", title, evidence, "remove the frames", named))
    if np.isfinite(closest).any():
        findings.append(_verdict(dataset, closest))
    return findings, list(broken)


def _closest(frame: Frame) -> float:
    """Smallest distance over the sum of the covalent radii; infinite for isolated atoms.

    In a crystal of several atoms without any pair, the least that it can be.
    """
    first, second, lengths = distances(frame, CUTOFF)
    radii = covalent_radii[frame.numbers]
    if not len(lengths) and frame.n_atoms > 1 and frame.pbc.all():
        return float(CUTOFF / (2 * radii.max()))
    return float((lengths / (radii[first] + radii[second])).min(initial=np.inf))


def _verdict(dataset: Dataset, closest: np.ndarray) -> Finding:
    typical = float(np.median(closest[np.isfinite(closest)]))
    evidence = (
        f"shortest distance of a frame over the sum of the covalent radii: typically {typical:.2f},"
        f" smallest {closest.min():.2f}"
    )
    if not USUAL[0] < typical < USUAL[1]:
        title, advice = "lengths look wrong", "Bohr or nanometres? Give --length-unit"
        return Finding("distances", "warning", title, evidence, advice)
    near = np.flatnonzero(closest < CLOSE)
    if near.size:
        advice = "wanted (repulsion) or broken? Look at them"
        named = [dataset.sources[i] for i in near]
        return Finding("distances", "note", "very close atoms", evidence, advice, named)
    return Finding("distances", "ok", "distances are plausible", evidence)
