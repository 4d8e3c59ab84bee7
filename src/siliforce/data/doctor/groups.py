"""Do the frames say which trajectory they belong to, in a way that a split can use?"""

from __future__ import annotations

from collections import Counter

import numpy as np

from siliforce.data.dataset import Dataset
from siliforce.data.doctor.findings import Finding
from siliforce.data.doctor.pairs import Pairs

MIN_RUNS = 5


def check_groups(dataset: Dataset, pairs: Pairs) -> list[Finding]:
    """Groups of one frame each, and runs that no group names."""
    groups = [g for g in dataset.groups if g]
    findings = []
    runs = _runs(dataset)
    if groups and len(set(groups)) == len(groups) and len(groups) > 2:
        findings.append(_singles(len(groups), runs))
    elif groups:
        evidence = f"{len(set(groups))} groups over {len(groups)} of {len(dataset)} frames"
        findings.append(Finding("groups", "ok", "frames name their trajectories", evidence))
    elif runs:
        findings.append(_unnamed(dataset, pairs, runs))
    else:
        findings += _sequence(dataset, pairs)
    numbered = [] if groups else _numbering_tags(dataset)
    if numbered:
        evidence = f"{', '.join(numbered)}: a different value in every frame"
        title = "tags that number the frames cannot serve as groups"
        findings.append(Finding("groups", "note", title, evidence, "do not use as --group-key"))
    return findings


def _runs(dataset: Dataset) -> list[int]:
    """Sizes of the config_types, if they look like one per run; else nothing."""
    counts = Counter(t for t in dataset.config_types if t)
    sizes = sorted(counts.values())
    several = sum(n for n in sizes if n > 1)
    per_composition = len(counts) <= len(set(dataset.compositions))
    if len(sizes) < MIN_RUNS or per_composition or several < 0.8 * len(dataset):
        return []
    return sizes


def _singles(n_groups: int, runs: list[int]) -> Finding:
    advice = "name the run, not the frame (info key 'group'), or split at random"
    if runs:
        advice = f"import with --group-key config_type: {len(runs)} runs of {runs[0]} to {runs[-1]}"
    return Finding(
        "groups",
        "warning",
        "every frame is a group of its own",
        f"{n_groups} groups for {n_groups} frames: a split by group is a random split",
        advice,
    )


def _unnamed(dataset: Dataset, pairs: Pairs, runs: list[int]) -> Finding:
    evidence = f"no groups, but {len(runs)} config_types of {runs[0]} to {runs[-1]} frames"
    if len(pairs):
        types = np.array(dataset.config_types)
        same = float((types[pairs.first] == types[pairs.second]).mean())
        evidence += f"; {100 * same:.0f} % of the most similar pairs share theirs"
    return Finding(
        "groups",
        "warning",
        "runs that a random split would tear apart",
        evidence,
        "import with --group-key config_type, or split with by=config_type",
    )


def _sequence(dataset: Dataset, pairs: Pairs) -> list[Finding]:
    """Frames that follow each other in the file and are near each other."""
    if len(pairs) < 20:
        return []
    consecutive = np.abs(pairs.second - pairs.first) == 1
    expected = 4 / max(len(dataset) - 1, 1)
    share = float(consecutive.mean())
    if share < max(0.3, 5 * expected):
        return []
    return [
        Finding(
            "groups",
            "warning",
            "frames look like trajectories, but name none",
            f"{100 * share:.0f} % of the most similar pairs follow each other in the file",
            "give the info key 'group' per run, or --group-key; a random split would put "
            "neighbours in time on both sides",
        )
    ]


def _numbering_tags(dataset: Dataset) -> list[str]:
    """Text tags that differ in every frame."""
    found = []
    for name in dataset.tag_names:
        values = dataset.tags(name)
        if all(isinstance(v, str) for v in values) and len(set(values)) == len(values) > 2:
            found.append(name)
    return found
