"""What the studies of a campaign measured, read out of its entries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from siliforce.benchmark.collect import Entry
from siliforce.benchmark.estimate import Estimate, over_seeds
from siliforce.benchmark.findings import Findings
from siliforce.benchmark.graph import BASELINE

Reading = Callable[[Entry], float | None]
FOREIGN_TIME = "neighbour search included"
"""What the time of a calculator from outside holds that the time of a trained model does not."""


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


@dataclass(frozen=True)
class Width:
    """A trained model of some width: its time (µs per atom) and its EF on test frames."""

    label: str
    width: str
    time: Estimate
    error: Estimate


def widths(found: Findings, material: str) -> list[Width]:
    """Trained models at all widths; at width 1 alone where no study was made."""
    points = []
    for label in found.trained:
        times = points_of(found, label, material, "width", speed)
        errors = points_of(found, label, material, "width", ef("test"))
        if not times:
            times = points_of(found, label, material, BASELINE, speed)
            errors = points_of(found, label, material, BASELINE, ef("test"))
        points += [Width(label, w or "1", times[w], errors[w]) for w in times if w in errors]
    return points
