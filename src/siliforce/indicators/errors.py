"""Energy, force and stress errors: per set, element, configuration type and size, with intervals.

All errors are prediction minus label. Energies are divided by the number of atoms of their frame
and averaged over frames; forces are averaged over all 3N components of the set, stresses over
all nine components.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.calculators.calculator import Calculator
from ase.data import chemical_symbols

from siliforce.errors import DataError
from siliforce.indicators.base import Metric, Result, model_name, stamp
from siliforce.indicators.predictions import EDGE_BUDGET, Predictions, Progress, predict
from siliforce.indicators.sampling import (
    RESAMPLES,
    Sums,
    independent_units,
    interval_95,
    unit_index,
    unit_sums,
)
from siliforce.potential import Potential
from siliforce.units import EV_PER_A3_IN_GPA

if TYPE_CHECKING:
    from siliforce.data import Dataset

BY = ("temperature",)
"""Tags by which errors are broken down in any case."""
MAX_ROWS = 60
"""A breakdown with more rows than this keeps the worst."""

MEV = 1e3
GPA = EV_PER_A3_IN_GPA


def evaluate(
    source: Potential | Calculator,
    dataset: Dataset,
    split: str = "test",
    by: Sequence[str] = BY,
    trained_on: Dataset | None = None,
    edge_budget: int = EDGE_BUDGET,
    progress: Progress = lambda done, total: None,
) -> Result:
    """Energy, force and stress errors on one set.

    Args:
        source: a potential (batched) or any ASE calculator (frame by frame).
        dataset: labelled frames; what a frame lacks is left out of the averages.
        split: what the set is: `train`, `valid`, `test` or `ood:<name>`.
        by: tags to break the errors down by, beside element, configuration type, composition,
            size and group; `temperature,strain` crosses two.
        trained_on: the training set, if it is at hand: how many of its frames are in `dataset` is
            then recorded, so that nobody takes them for unseen.
        edge_budget: edges of one batch.
        progress: called with frames done and frames in all.

    Raises:
        DataError: no frames, or elements that the potential does not know.
    """
    tags = tuple(dict.fromkeys(tag for names in by for tag in names.split(",")))
    predictions = predict(source, dataset, tags, edge_budget, progress)
    hardware, provenance = stamp(source)
    unit, units = independent_units(predictions)
    provenance |= {
        "n_frames": len(predictions.n_atoms),
        "n_atoms": len(predictions.numbers),
        "elements": [chemical_symbols[z] for z in np.unique(predictions.numbers)],
        "intervals": f"95 %, {RESAMPLES} bootstrap resamples of {unit}" if units > 1 else "none",
        "independent_units": units,
    }
    if trained_on is not None:
        provenance["n_trained_on"] = frames_in_common(dataset, trained_on)
    return Result(
        indicator="errors",
        model=model_name(source),
        dataset=dataset.hash,
        split=split,
        metrics=error_metrics(predictions),
        tables=breakdowns(predictions, tuple(by)),
        hardware=hardware,
        provenance=provenance,
        arrays=predictions.arrays(),
    )


def evaluate_sets(
    source: Potential | Calculator, sets: Mapping[str, Dataset], **options: Any
) -> list[Result]:
    """`evaluate` for several sets; OOD sets also get their gap to the `test` set.

    Args:
        source: a potential or any ASE calculator.
        sets: by split name; empty ones are left out. A set `train` is taken for the training set.
        options: of `evaluate`.
    """
    options = {"trained_on": sets.get("train")} | options
    found = {
        name: evaluate(source, dataset, name, **options)
        for name, dataset in sets.items()
        if len(dataset)
    }
    if "test" in found:
        for name, result in found.items():
            if name.startswith("ood"):
                result.metrics += gap(found["test"], result)
    return list(found.values())


def check_tags(sets: Mapping[str, Dataset], by: Sequence[str]) -> None:
    """Whether errors can be broken down so.

    Raises:
        DataError: no frame has one of the tags.
    """
    known = {"config_type", "formula", "group"}.union(*(d.tag_names for d in sets.values()))
    for tag in (tag for names in by for tag in names.split(",")):
        if tag not in known:
            raise DataError(f"no frame has the tag '{tag}'; they have {', '.join(sorted(known))}")


def frames_in_common(dataset: Dataset, other: Dataset) -> int:
    """Frames of `dataset` that are in `other` too, with the same labels."""
    known = {bytes(digest) for digest in other.records["digest"]}
    return sum(bytes(digest) in known for digest in dataset.records["digest"])


def gap(inside: Result, outside: Result) -> list[Metric]:
    """How much larger the errors are on an OOD set than on the test set."""
    metrics = []
    for name in ("energy_mae", "energy_rmse", "forces_mae", "forces_rmse", "ef"):
        one, other = inside.metric(name), outside.metric(name)
        if one is None or other is None or one.value is None or other.value is None:
            continue
        metrics.append(
            Metric(name=f"gap_{name}", value=other.value - one.value, unit=one.unit, better="lower")
        )
    return metrics


def error_metrics(predictions: Predictions) -> list[Metric]:
    """All errors of a set with bootstrap intervals; see the module's text for the averages."""
    _, units = independent_units(predictions)
    sums = unit_sums(predictions, unit_index(predictions))
    total = statistics(sums.weighted(np.ones((1, len(sums.energy)))))
    drawn = statistics(sums.resampled()) if units > 1 else {}
    intervals = {name: interval_95(values) for name, values in drawn.items()}
    metrics = []
    for name, (unit, better) in METRICS.items():
        low, high = intervals.get(name, (None, None))
        value = total[name][0]
        note = "" if np.isfinite(value) else "no labels"
        metrics.append(
            Metric(name=name, value=value, unit=unit, better=better, low=low, high=high, note=note)
        )
    return metrics + _extremes(predictions)


METRICS: dict[str, tuple[str, Any]] = {
    "energy_mae": ("meV/atom", "lower"),
    "energy_rmse": ("meV/atom", "lower"),
    "energy_shift": ("meV/atom", None),
    "energy_rmse_shifted": ("meV/atom", "lower"),
    "forces_mae": ("meV/Å", "lower"),
    "forces_rmse": ("meV/Å", "lower"),
    "forces_relative": ("%", "lower"),
    "ef": ("eV/atom + eV/Å", "lower"),
    "stress_mae": ("GPa", "lower"),
    "stress_rmse": ("GPa", "lower"),
    "stress_shift": ("GPa", None),
}


BY_CATEGORY = (
    "energy_mae",
    "energy_rmse",
    "energy_shift",
    "forces_mae",
    "forces_rmse",
    "forces_relative",
    "stress_mae",
)


def statistics(sums: Sums) -> dict[str, np.ndarray]:
    """The averages of `METRICS` from sums, one value per unit; NaN without labels."""
    with np.errstate(invalid="ignore", divide="ignore"):
        e, f, s = (part[:, 1:] / part[:, :1] for part in (sums.energy, sums.forces, sums.stress))
        energy_rmse, forces_rmse = np.sqrt(e[:, 2]), np.sqrt(f[:, 2])
        reference = np.sqrt(sums.reference[:, 0] / sums.forces[:, 0])
        return {
            "energy_mae": MEV * e[:, 1],
            "energy_rmse": MEV * energy_rmse,
            "energy_shift": MEV * e[:, 0],
            "energy_rmse_shifted": MEV * np.sqrt(np.maximum(e[:, 2] - e[:, 0] ** 2, 0)),
            "forces_mae": MEV * f[:, 1],
            "forces_rmse": MEV * forces_rmse,
            "forces_relative": 100 * forces_rmse / reference,
            "ef": energy_rmse + forces_rmse,
            "stress_mae": GPA * s[:, 1],
            "stress_rmse": GPA * np.sqrt(s[:, 2]),
            "stress_shift": GPA * s[:, 0],
        }


def _extremes(predictions: Predictions) -> list[Metric]:
    """Largest errors, and the mean energy error after a constant is removed."""
    energy = (predictions.energy - predictions.energy_ref) / predictions.n_atoms
    energy = energy[np.isfinite(energy)]
    forces = np.linalg.norm(predictions.forces - predictions.forces_ref, axis=1)
    stress = np.abs(predictions.stress - predictions.stress_ref)
    shifted = np.abs(energy - energy.mean()).mean() if len(energy) else np.nan

    def largest(values: np.ndarray) -> float:
        values = values[np.isfinite(values)]
        return float(values.max()) if len(values) else np.nan

    found = {
        "energy_mae_shifted": (MEV * shifted, "meV/atom"),
        "energy_max": (MEV * largest(np.abs(energy)), "meV/atom"),
        "forces_max": (MEV * largest(forces), "meV/Å"),
        "stress_max": (GPA * largest(stress), "GPa"),
    }
    return [
        Metric(
            name=name,
            value=value,
            unit=unit,
            better="lower",
            note="" if np.isfinite(value) else "no labels",
        )
        for name, (value, unit) in found.items()
    ]


def breakdowns(predictions: Predictions, by: Sequence[str] = ()) -> dict[str, list[dict[str, Any]]]:
    """Errors per element, configuration type, composition, size, group, tag and crossed tags.

    Each row holds the label, `n_frames`, `n_atoms` and the errors in meV/atom, meV/Å and GPa,
    worst force error first. Elements have force errors only.
    """
    tables = {"by_element": _by_element(predictions)}
    keys = {name: predictions.labels[name] for name in ("config_type", "formula", "group")}
    keys["size"] = predictions.n_atoms.astype(str)
    for names in by:
        tags = names.split(",")
        if predictions.labels.keys() >= set(tags):
            crossed = zip(*(predictions.labels[tag] for tag in tags), strict=True)
            keys[names] = np.array([", ".join(of_frame) for of_frame in crossed])
    for name, labels in keys.items():
        tables[f"by_{name}"] = _by_label(predictions, labels)
    return tables


def _by_label(predictions: Predictions, labels: np.ndarray) -> list[dict[str, Any]]:
    names, unit = np.unique(labels, return_inverse=True)
    found = statistics(unit_sums(predictions, unit))
    frames = np.bincount(unit)
    atoms = np.bincount(unit, predictions.n_atoms).astype(int)
    rows = [
        {"label": str(name), "n_frames": int(frames[k]), "n_atoms": int(atoms[k])}
        | {column: _number(found[column][k]) for column in BY_CATEGORY}
        for k, name in enumerate(names)
    ]
    return _worst_first(rows)


def _by_element(predictions: Predictions) -> list[dict[str, Any]]:
    errors = MEV * (predictions.forces - predictions.forces_ref)
    labelled = np.isfinite(errors).all(axis=1)
    rows = []
    for z in np.unique(predictions.numbers):
        chosen = (predictions.numbers == z) & labelled
        own, truth = errors[chosen], MEV * predictions.forces_ref[chosen]
        row: dict[str, Any] = {"label": chemical_symbols[z], "n_atoms": len(own)}
        if len(own):
            rmse = np.sqrt(np.square(own).mean())
            row["forces_mae"] = _number(np.abs(own).mean())
            row["forces_rmse"] = _number(rmse)
            row["forces_relative"] = _ratio(100 * rmse, np.sqrt(np.square(truth).mean()))
            row["forces_max"] = _number(np.linalg.norm(own, axis=1).max())
        rows.append(row)
    return _worst_first(rows)


def _ratio(above: float, below: float) -> float | None:
    return float(above / below) if below > 0 else None


def _worst_first(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: -(row.get("forces_rmse") or 0.0))[:MAX_ROWS]


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
