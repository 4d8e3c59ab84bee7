"""A page of charts about one simulation, and its numbers as CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from siliforce.files import write_atomic
from siliforce.indicators.base import Result
from siliforce.report.svg import Series, chart
from siliforce.units import EV_PER_A3_IN_GPA

STYLES = 6
LEGEND_AT_MOST = 12


def write_page(path: Path, title: str, facts: Sequence[str], charts: Sequence[str]) -> Path:
    """One HTML file that opens from disk.

    Args:
        facts: lines under the title.
        charts: figures as HTML.
    """
    css = files("siliforce.report").joinpath("templates", "report.css").read_text("utf-8")
    lines = "".join(f"<p>{escape(fact)}</p>" for fact in facts)
    return write_atomic(
        path,
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{css}</style></head><body>"
        f"<header><h1>{escape(title)}</h1>{lines}</header>"
        f'<div class="grid">{"".join(charts)}</div></body></html>\n',
    )


def figure(
    title: str, series: Sequence[Series], x: str, y: str, caption: str = "", **options: Any
) -> str:
    """A chart with its heading and, of several series, a legend."""
    keys = ""
    if 1 < len(series) <= LEGEND_AT_MOST:
        items = (
            f'<span><i class="key {"dot" if s.kind == "points" else "line"} s{s.style}"></i>'
            f"{escape(s.name)}</span>"
            for s in series
        )
        keys = f'<p class="legend">{"".join(items)}</p>'
    note = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    drawing = chart(series, x, y, title, **options)
    return f"<figure><h3>{escape(title)}</h3>{keys}{drawing}{note}</figure>"


def dynamics_page(path: Path, results: Sequence[Result]) -> Path:
    """Temperature, conserved energy and what else was logged, of all replicas."""
    first = results[0].curves
    config = results[0].provenance["config"]
    start = first["production_start"]
    charts = []
    for column, title, label, factor, level in (
        ("temperature", "Temperature", "temperature (K)", 1.0, first["target_temperature"]),
        ("drift", "Conserved energy", "change (meV/atom)", 1.0, 0.0),
        ("potential", "Potential energy", "change (meV/atom)", 1.0, None),
        ("volume", "Volume", "volume (Å³)", 1.0, None),
        *((name, f"Length {name} of the cell", f"{name} (Å)", 1.0, None) for name in "abc"),
        ("pressure", "Pressure", "pressure (GPa)", EV_PER_A3_IN_GPA, config["pressure"]),
        ("min_distance", "Shortest distance", "distance (Å)", 1.0, None),
        ("novelty", "Distance from the training environments", "1 at their edge", 1.0, 1.0),
        ("spread", "Disagreement of the ensemble", "largest force spread (eV/Å)", 1.0, None),
    ):
        if column not in first or (column == "volume" and config["ensemble"] != "npt"):
            continue
        if column == "pressure" and config["ensemble"] != "npt":
            level = None
        series = [
            Series(r.split, *_in_phases(r, factor * _numbers(r.curves[column])), k % STYLES)
            for k, r in enumerate(results)
        ]
        levels = [] if level is None else [level]
        charts.append(
            figure(title, series, "time (ps)", label, levels=levels, marks=[start] if start else [])
        )
    rdf = [(k, r.split, r.curves["rdf"]) for k, r in enumerate(results) if r.curves["rdf"]]
    for pair in rdf[0][2]["g"] if rdf else ():
        series = [Series(name, c["r"], c["g"][pair], k % STYLES) for k, name, c in rdf]
        charts.append(figure(f"Pair distribution {pair}", series, "r (Å)", "g(r)", levels=[1.0]))
    ended = [f"{r.split}: {r.failure}" for r in results if r.failure]
    facts = [
        f"{config['ensemble'].upper()} at {config['temperature']:g} K, steps of "
        f"{config['timestep']:g} fs, model {results[0].model}; the dashed vertical line is the "
        "end of the equilibration.",
        f"{len(results) - len(ended)} of {len(results)} runs reached their end.",
        *ended,
    ]
    return write_page(path, f"Dynamics of {results[0].dataset}", facts, charts)


def eos_page(path: Path, result: Result) -> Path:
    """Energy against volume with the fit."""
    curves, n_atoms = result.curves, result.curves["n_atoms"]
    energy = 1e3 * _numbers(curves["energy"]) / n_atoms
    series = []
    lowest = energy.min()
    if "fit" in curves:
        fitted = 1e3 * _numbers(curves["fit"]["energy"]) / n_atoms
        lowest = fitted.min()
        volume = _numbers(curves["fit"]["volume"]) / n_atoms
        series.append(Series("Birch-Murnaghan fit", volume, fitted - lowest))
    volume = _numbers(curves["volume"]) / n_atoms
    series.append(Series("model", volume, energy - lowest, 0, "points"))
    if "reference" in curves:
        points = 1e3 * _numbers(curves["reference"]["energy"]) / n_atoms
        volume = _numbers(curves["reference"]["volume"]) / n_atoms
        series.append(Series("DFT", volume, points - points.min(), 1, "points"))
    drawn = figure(
        "Energy against volume", series, "volume (Å³/atom)", "above the minimum (meV/atom)"
    )
    shown = [f"{m.name} {m.value:.4g} {m.unit}" for m in result.metrics if m.value is not None]
    facts = ["; ".join(shown), *([result.failure] if result.failure else [])]
    return write_page(path, f"Equation of state of {result.dataset}", facts, [drawn])


def table_csv(path: Path, columns: Mapping[str, Sequence[float] | np.ndarray]) -> Path:
    """Columns of equal length with their names."""
    rows = zip(*columns.values(), strict=True)
    lines = [",".join(columns), *(",".join(f"{v:.10g}" for v in row) for row in rows)]
    return write_atomic(path, "\n".join(lines) + "\n")


def _in_phases(result: Result, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Times and values with a gap where production begins: both phases log that moment."""
    times = np.array(result.curves["time"])
    gaps = np.flatnonzero(np.diff(times) == 0) + 1
    return np.insert(times, gaps, np.nan), np.insert(values, gaps, np.nan)


def _numbers(values: Sequence[float | None]) -> np.ndarray:
    """With NaN where a value is missing."""
    return np.array([np.nan if v is None else v for v in values], dtype=float)
