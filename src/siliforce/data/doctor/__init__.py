"""`data doctor`: what would spoil a training on these frames, found before it starts."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from siliforce.data.dataset import Dataset
from siliforce.data.doctor.consistency import check_work
from siliforce.data.doctor.contacts import check_contacts
from siliforce.data.doctor.copies import check_copies
from siliforce.data.doctor.findings import Finding, Severity, worst_first
from siliforce.data.doctor.groups import check_groups
from siliforce.data.doctor.labels import check_labels
from siliforce.data.doctor.pairs import near_pairs
from siliforce.errors import DataError

__all__ = ["Finding", "Severity", "doctor"]


def doctor(
    dataset: Dataset, others: Mapping[str, Dataset] | None = None, limit: int = 5000
) -> list[Finding]:
    """Examine labels, units, distances, trajectories and copies.

    Args:
        dataset: the training set, or everything.
        others: further sets by name, such as the test set, searched for copies.
        limit: frames of each set whose structures are compared; evenly spaced if there are more.

    Returns:
        Findings, worst first; what was looked at and found right is there as `ok`.

    Raises:
        DataError: no frames.
    """
    if len(dataset) == 0:
        raise DataError("no frames to examine")
    contacts, broken = check_contacts(dataset)
    whole = dataset.subset(np.setdiff1d(np.arange(len(dataset)), broken))
    findings = [*contacts, *check_labels(dataset)]
    if len(whole):
        pairs = near_pairs(whole)
        findings += check_work(whole, pairs)
        findings += check_groups(whole, pairs)
        findings += check_copies(whole, others or {}, limit)
    for name, other in (others or {}).items():
        findings += _shared_groups(dataset, name, other)
    return worst_first(findings)


def _shared_groups(dataset: Dataset, name: str, other: Dataset) -> list[Finding]:
    """Trajectories on both sides."""
    shared = sorted(({*dataset.groups} & {*other.groups}) - {""})
    if not shared:
        return []
    evidence = f"{len(shared)} groups in both, e.g. {', '.join(shared[:5])}"
    title = f"trajectories are shared with '{name}'"
    advice = "split by group, or errors will look better than they are"
    return [Finding("shared-groups", "warning", title, evidence, advice)]
