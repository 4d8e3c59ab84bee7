"""The figures of the report, each made of what the runs have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from markupsafe import Markup

from siliforce.indicators.base import Result
from siliforce.report.load import Run
from siliforce.report.numbers import shown
from siliforce.report.svg import NARROW, Kind, Row, Series, chart, data_range, dot_chart
from siliforce.units import EV_PER_A3_IN_GPA

MAX_POINTS = 2000
MAX_ROWS = 14
FEW_POINTS = 12
"""A line of so few points shows them."""

Key = tuple[str, int, str]


@dataclass(frozen=True)
class Figure:
    """A chart with its heading, its legend (name, style, line or dot) and its remark."""

    title: str
    svg: Markup
    legend: list[Key] = field(default_factory=list)
    caption: str = ""


def learning_curves(runs: Sequence[Run]) -> list[Figure]:
    """Force and energy errors during training; against time where runs are compared."""
    rows = [run for run in runs if len(run.progress) > 1]
    if not rows:
        return []
    timed = len(rows) > 1 and all("time_s" in r for run in rows for r in run.progress)
    x_label = "training time (min)" if timed else "epoch"
    figures = []
    for quantity, unit, title in (
        ("forces_mae_mev", "meV/Å", "Force error while training (MAE)"),
        ("energy_mae_mev", "meV/atom", "Energy error while training (MAE)"),
    ):
        series = []
        for run in rows:
            x = [r["time_s"] / 60 if timed else r.get("epoch", np.nan) for r in run.progress]
            for part in ("valid", "train"):
                y = [r.get(f"{part}_{quantity}", np.nan) for r in run.progress]
                if np.isfinite(y).any():
                    name = f"{run.name}, {'validation' if part == 'valid' else 'training'}"
                    kind: Kind = "both" if len(x) <= FEW_POINTS and part == "valid" else "line"
                    series.append(Series(name, x, y, run.style, kind, dashed=part == "train"))
        if series:
            legend = [(s.name, s.style, "dash" if s.dashed else "line") for s in series]
            svg = chart(series, x_label, unit, title, log_y=True)
            figures.append(Figure(title, svg, legend))
    return figures


def parity(run: Run, result: Result, ranges: dict[str, tuple[float, float]]) -> list[Figure]:
    """Prediction against DFT for energies, forces and stress of one run."""
    figures = []
    for name, (label, values, metric) in parity_data(result).items():
        truth, answer = values
        shown_points, remark = _thinned(truth, answer)
        series = Series(run.name, truth[shown_points], answer[shown_points], run.style, "points")
        limits = _own_range(ranges[name], truth, answer)
        notes = [_error_note(result, kind, metric) for kind in ("mae", "rmse")]
        unit = label.split("(")[-1].rstrip(")")
        svg = chart(
            [series],
            f"DFT ({unit})",
            f"{run.name} ({unit})",
            f"{label}: {run.name} against DFT",
            square=True,
            diagonal=True,
            x_range=limits,
            y_range=limits,
            notes=[n for n in notes if n],
            width=NARROW,
        )
        figures.append(Figure(label.split(" (")[0], svg, caption=remark))
    return figures


def parity_ranges(results: Sequence[Result]) -> dict[str, tuple[float, float]]:
    """One range per quantity for all models, so that their panels can be compared by eye.

    It spans the DFT values and whatever answers lie within their span on either side of them; a
    model with wilder answers does not squeeze the others' panels.
    """
    values: dict[str, list[np.ndarray]] = {}
    for result in results:
        for name, (_, (truth, answer), _) in parity_data(result).items():
            span = np.ptp(truth) or np.inf
            sane = (answer > truth.min() - span) & (answer < truth.max() + span)
            values.setdefault(name, []).extend((truth, answer[sane]))
    return {name: data_range(parts) for name, parts in values.items()}


def _own_range(
    common: tuple[float, float], truth: np.ndarray, answer: np.ndarray
) -> tuple[float, float]:
    """The common range, or the model's own if its answers leave that."""
    inside = common[0] <= answer.min() and answer.max() <= common[1]
    return common if inside else data_range([truth, answer])


def parity_data(result: Result) -> dict[str, tuple[str, tuple[np.ndarray, np.ndarray], str]]:
    """Per quantity its label, truth and answer, and the stem of its metrics.

    Energies are given relative to the mean DFT energy of frames of the same composition: else
    the elements' constants would hide everything.
    """
    arrays, found = result.arrays, {}
    if "energy" in arrays:
        n_atoms, formula = arrays["n_atoms"], arrays["label_formula"]
        truth, answer = 1e3 * arrays["energy_ref"] / n_atoms, 1e3 * arrays["energy"] / n_atoms
        for composition in np.unique(formula):
            own = formula == composition
            known = truth[own][np.isfinite(truth[own])]
            middle = known.mean() if len(known) else np.nan
            truth[own], answer[own] = truth[own] - middle, answer[own] - middle
        found["energy"] = ("Energy (meV/atom)", truth, answer, "energy")
    for name, label, factor in (
        ("forces", "Forces (eV/Å)", 1.0),
        ("stress", "Stress (GPa)", EV_PER_A3_IN_GPA),
    ):
        if name in arrays:
            truth = factor * arrays[f"{name}_ref"].astype(float).ravel()
            found[name] = (label, truth, factor * arrays[name].astype(float).ravel(), name)
    usable = {}
    for name, (label, truth, answer, metric) in found.items():
        good = np.isfinite(truth) & np.isfinite(answer)
        if good.any():
            usable[name] = (label, (truth[good], answer[good]), metric)
    return usable


def _thinned(truth: np.ndarray, answer: np.ndarray) -> tuple[np.ndarray, str]:
    """Indices to show: the largest errors and a random sample of the others."""
    n = len(truth)
    if n <= MAX_POINTS:
        return np.arange(n), f"{n:,} points"
    order = np.argsort(-np.abs(answer - truth), kind="stable")
    worst, rest = order[: MAX_POINTS // 10], order[MAX_POINTS // 10 :]
    rng = np.random.default_rng(0)
    chosen = rng.choice(rest, MAX_POINTS - len(worst), replace=False)
    remark = f"{MAX_POINTS:,} of {n:,} points: the {len(worst)} worst and a random sample"
    return np.sort(np.concatenate([worst, chosen])), remark


def _error_note(result: Result, kind: str, stem: str) -> str:
    metric = result.metric(f"{stem}_{kind}")
    if metric is None or metric.value is None:
        return ""
    return f"{kind.upper()} {shown(metric.value)} {metric.unit}"


BREAKDOWNS = {
    "by_element": "element",
    "by_config_type": "configuration type",
    "by_formula": "composition",
    "by_temperature": "temperature (K)",
    "by_size": "atoms per frame",
}


def breakdowns(runs: Sequence[Run], split: Callable[[Run], Result | None]) -> list[Figure]:
    """Force errors by category, every model in one chart; only where there are categories."""
    chosen = [(run, result) for run in runs if (result := split(run)) is not None]
    figures: list[Figure] = []
    seen: list[dict[str, Any]] = []
    for table, what in BREAKDOWNS.items():
        rows = {
            run.name: {r["label"]: r for r in result.tables.get(table, [])}
            for run, result in chosen
        }
        labels = _labels(rows)
        if len(labels) < 2 or rows in seen:
            continue
        seen.append(rows)
        charted = [_row(label, rows, chosen) for label in labels[:MAX_ROWS]]
        title = f"Force error by {what}"
        legend = [(run.name, run.style, "dot") for run, _ in chosen] if len(chosen) > 1 else []
        caption = "" if len(labels) <= MAX_ROWS else f"the worst {MAX_ROWS} of {len(labels)}"
        svg = dot_chart(charted, "force RMSE (meV/Å)", title)
        figures.append(Figure(title, svg, legend, caption))
    return figures


def _labels(rows: dict[str, dict[str, Any]]) -> list[str]:
    """All categories, the one with the largest error of any model first."""
    worst: dict[str, float] = {}
    for table in rows.values():
        for label, row in table.items():
            worst[label] = max(worst.get(label, 0.0), row.get("forces_rmse") or 0.0)
    return sorted((k for k in worst if k), key=lambda k: -worst[k])


def _row(label: str, rows: dict[str, Any], chosen: list[tuple[Run, Result]]) -> Row:
    found = [(run, rows[run.name].get(label)) for run, _ in chosen]
    first = next(row for _, row in found if row is not None)
    frames = first.get("n_frames")
    remark = f"{first['n_atoms']:,} atoms" if frames is None else f"{frames:,} frames"
    dots = [(run.name, row.get("forces_rmse"), None, None, run.style) for run, row in found if row]
    return Row(label, remark, dots)


def equation_of_state(name: str, entries: Sequence[tuple[Run, Result]]) -> Figure:
    """E(V) of all models for one structure, each from its own minimum."""
    series, legend = [], []
    window: list[float] = []
    reference: dict[str, Any] | None = None
    for run, result in entries:
        curves = result.curves
        n_atoms, volume = curves["n_atoms"], np.array(curves["volume"])
        energy = 1e3 * np.array(curves["energy"], dtype=float) / n_atoms
        lowest = energy.min()
        if "fit" in curves:
            fitted = 1e3 * np.array(curves["fit"]["energy"]) / n_atoms
            lowest = fitted.min()
            x = np.array(curves["fit"]["volume"]) / n_atoms
            series.append(Series(f"{run.name}, fit", x, fitted - lowest, run.style))
        series.append(Series(run.name, volume / n_atoms, energy - lowest, run.style, "points"))
        legend.append((run.name, run.style, "dot"))
        window = _training_window(run) or window
        reference = curves.get("reference") or reference
    if reference:
        energy = 1e3 * np.array(reference["energy"]) / n_atoms
        x = np.array(reference["volume"]) / n_atoms
        series.append(Series("DFT", x, energy - energy.min(), 9, "points"))
        legend.append(("DFT", 9, "dot"))
    svg = chart(
        series,
        "volume (Å³/atom)",
        "energy above the minimum (meV/atom)",
        f"Equation of state of {name}",
        marks=window,
    )
    caption = "dashed: limits of the volumes in the training data" if window else ""
    return Figure(name, svg, legend, caption)


def _training_window(run: Run) -> list[float]:
    """Volumes per atom between which the training data lie."""
    if run.card is None or run.card.atoms_per_volume is None:
        return []
    low, high = run.card.atoms_per_volume
    return [1 / high, 1 / low]


def dynamics(entries: Sequence[tuple[Run, Result]]) -> list[Figure]:
    """Temperature, conserved energy and pair distribution of runs of one structure."""
    target = entries[0][1].curves["target_temperature"]
    remark = "dashed vertical line: end of the equilibration"
    return [
        _against_time(entries, "temperature", "Temperature", "temperature (K)", target, remark),
        _against_time(entries, "drift", "Conserved energy", "change (meV/atom)", 0.0, ""),
        *_pair_distribution(entries),
    ]


def _against_time(
    entries: Sequence[tuple[Run, Result]],
    column: str,
    title: str,
    label: str,
    level: float,
    caption: str,
) -> Figure:
    series = [
        Series(run.name, *_with_gap(r.curves["time"], r.curves[column]), run.style)
        for run, r in entries
    ]
    start = entries[0][1].curves["production_start"]
    svg = chart(series, "time (ps)", label, title, levels=[level], marks=[start], width=NARROW)
    return Figure(title, svg, [(run.name, run.style, "line") for run, _ in entries], caption)


def _pair_distribution(entries: Sequence[tuple[Run, Result]]) -> list[Figure]:
    """g(r) of the most frequent element with itself."""
    found = [(run, r.curves.get("rdf") or {}) for run, r in entries]
    found = [(run, rdf) for run, rdf in found if rdf]
    if not found:
        return []
    pair = found[0][1]["main"]
    series = [Series(run.name, rdf["r"], rdf["g"].get(pair, []), run.style) for run, rdf in found]
    title = f"Pair distribution {pair}"
    svg = chart(series, "r (Å)", "g(r)", title, levels=[1.0], width=NARROW)
    return [Figure(title, svg, [(run.name, run.style, "line") for run, _ in found])]


def _with_gap(time: Sequence[float], values: Sequence[float | None]) -> tuple[Any, Any]:
    """The two phases of a run share a moment: the line is broken between them."""
    y = np.array([np.nan if v is None else v for v in values], dtype=float)
    x = np.array(time, dtype=float)
    breaks = np.flatnonzero(np.diff(x) == 0) + 1
    return np.insert(x, breaks, np.nan), np.insert(y, breaks, np.nan)
