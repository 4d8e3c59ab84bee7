"""Figures of what simulations and scans gave: distribution functions, energy curves, survival,
vibrations. Each is a function from results of several models to charts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from siliforce.indicators.base import Result
from siliforce.report.figures import Figure, Key
from siliforce.report.numbers import shown
from siliforce.report.svg import NARROW, Series, chart

REFERENCE = 9
"""Style of DFT."""
ERRORS = 2.0
"""Standard errors that a band reaches to either side: about 95 %."""
MAX_BANDS = 3
"""With more models than this their bands would hide each other."""
HEADROOM = 1.2
"""An energy curve is shown up to this, times the depth of the deepest minimum that is shown."""
DEEPEST = 2.0
"""Minima of models are shown down to this, times the depth of the reference's (or 1 eV)."""

NAMES = {"rdf": "g(r)", "adf": "density (mean 1)"}
AXES = {"rdf": "r (Å)", "adf": "angle (degree)"}


@dataclass(frozen=True)
class Shown:
    """One model's result and how it is drawn.

    Attributes:
        name: of the model.
        result: one indicator's, of the same structure as the others of a figure.
        style: number of its colour.
    """

    name: str
    result: Result
    style: int


def distributions(entries: Sequence[Shown]) -> list[Figure]:
    """RDF or ADF of one structure: a chart per pair or triplet, over the band of the reference.

    Args:
        entries: results of `rdf`, or of `adf`, of one start; failed runs are left out.
    """
    known = [e for e in entries if e.result.curves.get("values")]
    if not known:
        return []
    kind = known[0].result.indicator
    reference = known[0].result.curves["reference"]
    return [_distribution(kind, group, known) for group in reference]


def _distribution(kind: str, group: str, entries: Sequence[Shown]) -> Figure:
    curves = entries[0].result.curves
    x, truth = np.array(curves["x"]), np.array(curves["reference"][group])
    middle = x + (0.025 if kind == "rdf" else -0.5)
    known = Series("DFT", middle, truth, REFERENCE)
    error = (curves.get("reference_errors") or {}).get(group)
    if error is not None:
        reach = ERRORS * np.array(error)
        known = replace(known, kind="band", low=truth - reach, high=truth + reach)
    series = [known]
    legend: list[Key] = [("DFT", REFERENCE, "line")]
    remarks = []
    for entry in entries:
        series.append(Series(entry.name, middle, entry.result.curves["values"][group], entry.style))
        legend.append((entry.name, entry.style, "line"))
        rows = {row["label"]: row for row in entry.result.tables["by_group"]}
        error = rows[group][f"{kind}_mae"]
        remarks.append(f"{entry.name} {shown(error)}" if error is not None else entry.name)
    # Below the first distance there is nothing to see.
    start = float(middle[np.argmax(truth > 0)]) - 0.4 if kind == "rdf" else 0.0
    window = (max(start, 0.0), float(middle[-1]))
    svg = chart(
        [_between(s, *window) for s in series],
        AXES[kind],
        NAMES[kind],
        f"{kind.upper()} of {group}",
        levels=[1.0],
        x_range=window,
        width=NARROW,
    )
    return Figure(group, svg, legend, f"mean absolute difference: {', '.join(remarks)}")


def energy_curves(entries: Sequence[Shown]) -> Figure:
    """Potential energy curves of one dimer or cluster, each from its last point.

    Args:
        entries: results of `pec` for one curve.
    """
    first = entries[0].result
    x, unit = np.array(first.curves["x"]), first.curves["unit"]
    truth = _from_last(first.curves["reference"])
    series = [Series("DFT", x, truth, REFERENCE, "both")]
    legend: list[Key] = [("DFT", REFERENCE, "dot")]
    lowest = truth.min()
    for entry in entries:
        energy = _from_last(entry.result.curves["energy"])
        series.append(Series(entry.name, x, energy, entry.style))
        legend.append((entry.name, entry.style, "line"))
        near = energy[(truth <= 0) & np.isfinite(energy)]
        lowest = min(lowest, near.min(initial=0.0))
    depth = max(min(-lowest, DEEPEST * max(-truth.min(), 1.0)), 0.1)
    visible = truth <= HEADROOM * depth
    window = (float(x[visible].min()), float(x[visible].max()))
    room = 0.03 * (window[1] - window[0])
    svg = chart(
        [_between(s, *window) for s in series],
        f"{first.curves['coordinate']} ({unit})",
        "energy from the last point (eV)",
        f"Potential energy curve of {first.dataset}",
        levels=[0.0],
        x_range=(window[0] - room, window[1] + room),
        y_range=(-1.1 * depth, HEADROOM * depth),
        width=NARROW,
    )
    floor = first.value("pec_floor")
    caption = ""
    if floor is not None:
        caption = f"DFT itself: {shown(floor)} eV between its last point and the separated atoms"
    return Figure(first.dataset, svg, legend, caption)


def _from_last(energies: Sequence[float | None]) -> np.ndarray:
    values = np.array([np.nan if e is None else e for e in energies], dtype=float)
    return values - values[-1]


def _between(series: Series, low: float, high: float) -> Series:
    """The part of a series within a range of the abscissa."""
    x = np.asarray(series.x, dtype=float)
    inside = (x >= low) & (x <= high)
    y, bottom, top = (np.asarray(v, dtype=float) for v in (series.y, series.low, series.high))
    some = inside if len(bottom) else slice(0)
    return replace(series, x=x[inside], y=y[inside], low=bottom[some], high=top[some])


def survival(entries: Sequence[Shown], curve: str = "all") -> Figure:
    """Kaplan-Meier curves of several models.

    Args:
        entries: results of `survival`.
        curve: `all`, or a temperature as the results name it, `1200 K`.
    """
    series: list[Series] = []
    known = [e for e in entries if curve in e.result.curves]
    bands = len(known) <= MAX_BANDS
    for entry in known:
        found = entry.result.curves[curve]
        time = _steps(found["time"])[1:]
        low, high, middle = (_steps(found[k])[:-1] for k in ("low", "high", "survived"))
        line = Series(entry.name, time, middle, entry.style)
        series.append(replace(line, kind="band", low=low, high=high) if bands else line)
    end = max((e.result.curves[curve]["time"][-1] for e in known), default=1.0)
    svg = chart(
        series,
        "time (ps)",
        "fraction that survived",
        "Survival of simulations",
        x_range=(0.0, 1.02 * end),
        y_range=(-0.02, 1.04),
        width=NARROW,
    )
    caption = "shaded: 95 % interval" if bands else ""
    title = "All temperatures" if curve == "all" else curve
    return Figure(title, svg, [(e.name, e.style, "line") for e in known], caption)


def _steps(values: Sequence[float]) -> np.ndarray:
    return np.repeat(np.asarray(values, dtype=float), 2)


def vibrations(entries: Sequence[Shown]) -> list[Figure]:
    """Vibrational density of states, a chart per element, over the reference if there is one.

    Args:
        entries: results of `vdos` of one structure; failed runs are left out.
    """
    known = [e for e in entries if e.result.curves.get("values")]
    if not known:
        return []
    return [_vibrations(name, known) for name in known[0].result.curves["values"]]


def _vibrations(name: str, entries: Sequence[Shown]) -> Figure:
    series, legend = [], list[Key]()
    curves = entries[0].result.curves
    if name in (curves.get("reference") or {}):
        series.append(Series("DFT", curves["reference_x"], curves["reference"][name], REFERENCE))
        legend.append(("DFT", REFERENCE, "line"))
    for entry in entries:
        own = entry.result.curves
        series.append(Series(entry.name, own["x"], own["values"][name], entry.style))
        legend.append((entry.name, entry.style, "line"))
    # Up to where something vibrates: 99.9 % of every curve.
    ends = [s.x[int(np.searchsorted(np.cumsum(s.y), 0.999 * np.sum(s.y)))] for s in series]
    title = "all atoms" if name == "all" else name
    window = (0.0, 1.1 * float(max(ends)))
    svg = chart(
        [_between(s, *window) for s in series],
        "frequency (THz)",
        "density (1/THz)",
        f"Vibrational density of states of {title}",
        x_range=window,
        width=NARROW,
    )
    return Figure(title, svg, legend)
