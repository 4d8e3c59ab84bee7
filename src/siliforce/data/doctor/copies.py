"""Duplicates, near-copies and symmetry copies, within a set and across sets."""

from __future__ import annotations

from collections.abc import Mapping
from operator import itemgetter

import numpy as np

from siliforce.data.dataset import Dataset
from siliforce.data.doctor.findings import Finding, spaced
from siliforce.data.fingerprint import Confirm, fingerprints

UNEQUAL = 0.002
"""Energies of copies that differ by more did not come from equal calculations, eV/atom."""

Copy = tuple[int, int]
"""Row in the first set, row in the second."""


def check_copies(dataset: Dataset, others: Mapping[str, Dataset], limit: int) -> list[Finding]:
    """Copies within `dataset`, and in each of the others; of at most `limit` frames of each."""
    elements = tuple(sorted({z for part in (dataset, *others.values()) for z in part.elements}))
    dataset = dataset.subset(spaced(len(dataset), limit))
    prints = fingerprints(dataset, elements)
    inside = Confirm(dataset, dataset, elements).copies(prints.copies())
    findings = [*_duplicates(dataset), *_inside(dataset, inside)]
    for name, part in others.items():
        other = part.subset(spaced(len(part), limit))
        candidates = prints.copies(fingerprints(other, elements))
        across = Confirm(dataset, other, elements).copies(candidates)
        findings += _across(dataset, other, name, across)
        findings += _unequal(dataset, other, across)
    return findings


def _duplicates(dataset: Dataset) -> list[Finding]:
    digests, counts = np.unique(dataset.records["digest"], return_counts=True)
    if len(digests) == len(dataset):
        return []
    repeated = np.flatnonzero(np.isin(dataset.records["digest"], digests[counts > 1]))
    return [
        Finding(
            "duplicates",
            "warning",
            "frames are there more than once",
            f"{len(dataset) - len(digests)} of {len(dataset)} frames repeat others exactly",
            "remove the repetitions: they weigh twice, and leak across a split",
            [dataset.sources[i] for i in repeated],
        )
    ]


def _inside(dataset: Dataset, copies: list[Copy]) -> list[Finding]:
    looked = f"{len(dataset)} frames looked at"
    if not copies:
        return [Finding("copies", "ok", "no structure is there twice", looked)]
    concerned = sorted({i for pair in copies for i in pair})
    return [
        Finding(
            "copies",
            "note",
            "structures are there more than once",
            f"{len(concerned)} of {looked} have a copy, at most turned, reflected, renumbered or "
            "repeated: the same distances within 5 Å of every atom",
            "a random split puts some on both sides",
            [dataset.sources[i] for i in concerned],
        ),
        *_unequal(dataset, dataset, copies),
    ]


def _across(dataset: Dataset, other: Dataset, name: str, copies: list[Copy]) -> list[Finding]:
    looked = f"{len(other)} frames looked at"
    if not copies:
        return [Finding("leak", "ok", f"no frame of '{name}' is a copy of these", looked)]
    return [
        Finding(
            "leak",
            "error",
            f"frames of '{name}' are copies of these",
            f"{len(copies)} of {looked} are the same structure, at most turned, reflected, "
            "renumbered or repeated",
            f"report errors on '{name}' with and without them, or remove them from one side",
            [
                f"{other.sources[j]} = {dataset.sources[i]}"
                for i, j in sorted(copies, key=itemgetter(1))
            ],
        )
    ]


def _unequal(first: Dataset, second: Dataset, copies: list[Copy]) -> list[Finding]:
    """Copies whose energies differ."""
    rows = np.array(copies, dtype=np.int64).reshape(-1, 2).T
    gap = np.abs(
        first.energies[rows[0]] / first.n_atoms[rows[0]]
        - second.energies[rows[1]] / second.n_atoms[rows[1]]
    )
    bad = np.flatnonzero(gap > UNEQUAL)
    if not len(bad):
        return []
    return [
        Finding(
            "unequal-copies",
            "warning",
            "equal structures with different energies",
            f"{len(bad)} pairs, up to {1e3 * gap.max():.3g} meV/atom apart",
            "different settings, or unconverged: look at their output files",
            [f"{second.sources[rows[1, k]]} = {first.sources[rows[0, k]]}" for k in bad],
        )
    ]
