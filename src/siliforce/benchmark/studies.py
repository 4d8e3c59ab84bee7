"""What the studies of a campaign measured, read out of its entries."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from siliforce.benchmark.collect import Entry
from siliforce.benchmark.estimate import Estimate, over_seeds
from siliforce.benchmark.findings import Findings
from siliforce.benchmark.graph import BASELINE

Reading = Callable[[Entry], float | None]


def ef(split: str) -> Reading:
    """EF on `train`, on `test`, or its mean over all OOD sets (`ood`)."""

    def read(entry: Entry) -> float | None:
        values = [
            v
            for r in entry.of("errors")
            if (r.split == split or (split == "ood" and r.split.startswith("ood")))
            and (v := r.value("ef")) is not None
        ]
        return float(np.mean(values)) if values else None

    return read


def speed(entry: Entry) -> float | None:
    """Energy and forces, µs per atom."""
    return entry.value_of("speed", "energy_forces")


def memory(entry: Entry) -> float | None:
    """Peak memory, GiB."""
    return entry.value_of("speed", "peak_memory")


def points_of(
    found: Findings, label: str, material: str, study: str, reading: Reading
) -> dict[str, Estimate]:
    """Reading of one model by the value that a study varies, over seeds."""
    values: dict[str, list[float]] = {}
    for entry in found.entries:
        if (entry.label, entry.material, entry.study) == (label, material, study):
            value = reading(entry)
            if value is not None:
                values.setdefault(entry.value, []).append(value)
    return {key: over_seeds(found) for key, found in values.items()}


def baseline_of(found: Findings, label: str, material: str, reading: Reading) -> float | None:
    """Mean reading of a model's baseline over seeds."""
    mine = found.of(label, material)
    values = [v for e in mine if e.study == BASELINE and (v := reading(e)) is not None]
    return float(np.mean(values)) if values else None


def widths(found: Findings, material: str) -> list[tuple[str, str, float, float]]:
    """Model, width, time and EF on test frames; width 1 alone where no study was made."""
    points = []
    for label in found.labels:
        times = points_of(found, label, material, "width", speed)
        errors = points_of(found, label, material, "width", ef("test"))
        points += [(label, w, times[w].mean, errors[w].mean) for w in times if w in errors]
        if not times:
            time = baseline_of(found, label, material, speed)
            error = baseline_of(found, label, material, ef("test"))
            if time is not None and error is not None:
                points.append((label, "1", time, error))
    return points
