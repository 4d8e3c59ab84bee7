"""The figures of a campaign's report."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from siliforce.benchmark.collect import Entry
from siliforce.benchmark.findings import Findings
from siliforce.benchmark.ranking import Estimate, mean_scores, over_seeds
from siliforce.benchmark.scores import SHOWN, domain
from siliforce.indicators.base import Result
from siliforce.indicators.survival import Lifetime, kaplan_meier
from siliforce.report.figures import Figure, Key, equation_of_state
from siliforce.report.load import Run
from siliforce.report.numbers import shown
from siliforce.report.radar import radar
from siliforce.report.svg import Row, Series, chart, dot_chart

STYLES = (0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12)
"""Colours of models; 9 is the reference's."""
DOMAINS = {"id": ("ID", 0), "ood": ("OOD", 1)}
TITLES = {
    "energy": "Energy",
    "forces": "Forces",
    "rdf": "Radial distribution",
    "adf": "Angular distribution",
    "V0": "Equilibrium volume",
    "B0": "Bulk modulus",
    "pec": "Energy curves of clusters",
    "pressure": "Pressure",
    "survival": "Survival",
}
MAX_CURVES = 4
"""Starts whose distribution functions are drawn, of each material."""


def style_of(found: Findings, label: str) -> int:
    """Number of a model's colour."""
    return STYLES[found.labels.index(label) % len(STYLES)]


def radars(found: Findings, material: str) -> list[Figure]:
    """One radar chart per model, from the best to the worst; ID and OOD are two polygons."""
    tables = {d: mean_scores(found.scores, d, material) for d in DOMAINS}
    axes = [
        q for q in SHOWN if any(q in row for table in tables.values() for row in table.values())
    ]
    if len(axes) < 3:
        return []
    figures = []
    for standing in found.standings:
        polygons = {}
        for name, (title, style) in DOMAINS.items():
            row = tables[name].get(standing.label, {})
            if row:
                polygons[title] = ({q: e.mean for q, e in row.items()}, style)
        if polygons:
            svg = radar(axes, polygons, f"Scores of {standing.label} on {material}")
            figures.append(Figure(standing.label, svg))
    return figures


def errors_of(found: Findings, quantity: str, material: str) -> Figure | None:
    """Errors of all models in one quantity, ID and OOD, with intervals over seeds."""
    fixed = [a for a in found.anchors.get(material, ()) if a.quantity == quantity]
    if not fixed:
        return None
    rows = []
    for standing in found.standings:
        dots, remark = [], []
        for name, (title, style) in DOMAINS.items():
            error, score, failed = _mean_error(found, standing.label, quantity, material, name)
            if error is not None:
                dots.append((title, error.mean, error.low, error.high, style))
            if score is not None:
                remark.append("failed" if failed and error is None else f"{score.mean:.2f}")
        if remark:
            rows.append(Row(standing.label, " / ".join(remark), dots))
    if not rows:
        return None
    title = f"{TITLES[quantity]}, {material}"
    label = f"{fixed[0].metric} ({fixed[0].unit})" if fixed[0].unit != "1" else fixed[0].metric
    legend: list[Key] = [(t, s, "dot") for t, s in DOMAINS.values()]
    floors = sorted({shown(a.floor, 2) for a in fixed})
    ceilings = [a.baseline for a in fixed]
    caption = (
        f"right: scores, ID / OOD. Score 1 at {' to '.join(dict.fromkeys((floors[0], floors[-1])))}"
        f", score 0 at {shown(min(ceilings), 2)}"
        + (f" to {shown(max(ceilings), 2)}" if max(ceilings) > min(ceilings) else "")
        + f" ({fixed[0].why})"
    )
    return Figure(title, dot_chart(rows, label, title), legend, caption)


def _mean_error(
    found: Findings, label: str, quantity: str, material: str, name: str
) -> tuple[Estimate | None, Estimate | None, bool]:
    """Magnitude of the error and score, over splits and then seeds; whether anything failed."""
    own = [
        s
        for s in found.scores
        if (s.label, s.quantity, s.material, s.domain) == (label, quantity, material, name)
        and s.score is not None
    ]
    seeds = list(dict.fromkeys(s.seed for s in own))
    errors, values = [], []
    for seed in seeds:
        sizes = [abs(s.error) for s in own if s.seed == seed and s.error is not None]
        if sizes:
            errors.append(float(np.mean(sizes)))
        values.append(float(np.mean([s.score for s in own if s.seed == seed])))
    failed = any(s.note.startswith("failed") for s in own)
    return (
        over_seeds(errors) if errors else None,
        over_seeds(values) if values else None,
        failed,
    )


def distribution_curves(found: Findings, indicator: str, material: str) -> list[Figure]:
    """g(r) or angular distributions of the first seed over the reference, some starts of each."""
    by_split: dict[str, list[tuple[str, Result]]] = {}
    for entry in _first_seed(found, material):
        for result in entry.of(indicator):
            if result.curves.get("values"):
                by_split.setdefault(result.split, []).append((entry.label, result))
    figures = []
    for split, members in _some_of_each(by_split):
        truth = members[0][1].curves["reference"]
        group = max(truth, key=lambda name: (len(set(name.split("-"))), max(truth[name])))
        where = f"{material}, {split}" if len(found.materials) > 1 else split
        figures.append(_distribution(found, indicator, where, group, members))
    return figures


def _distribution(
    found: Findings, indicator: str, where: str, group: str, members: list[tuple[str, Result]]
) -> Figure:
    curves = members[0][1].curves
    x, truth = np.array(curves["x"]), np.array(curves["reference"][group])
    errors = (curves.get("reference_errors") or {}).get(group)
    band = None
    if errors is not None:
        wide = 1.96 * np.array(errors)
        band = (x, truth - wide, truth + wide)
    series = [
        Series(label, r.curves["x"], r.curves["values"][group], style_of(found, label))
        for label, r in members
        if group in r.curves["values"]
    ]
    series.append(Series("reference", x, truth, 9, dashed=True))
    legend: list[Key] = [(s.name, s.style, "dash" if s.dashed else "line") for s in series]
    label = "r (Å)" if indicator == "rdf" else "angle (degree)"
    title = f"{group}, {where}"
    svg = chart(series, label, "g" if indicator == "rdf" else "weight", title, band=band)
    return Figure(title, svg, legend, "shaded: noise of the reference" if band else "")


def _some_of_each(by_split: dict[str, list]) -> list[tuple[str, list]]:
    """Half of `MAX_CURVES` inside and half outside the training distribution."""
    inside = [item for item in by_split.items() if domain(item[0]) == "id"]
    outside = [item for item in by_split.items() if domain(item[0]) == "ood"]
    return inside[: MAX_CURVES // 2] + outside[: MAX_CURVES // 2]


def volume_curves(found: Findings, material: str) -> list[Figure]:
    """E(V) of the first seed of all models, per structure."""
    by_split: dict[str, list[tuple[Run, Result]]] = {}
    for entry in _first_seed(found, material):
        run = Run(Path(entry.label), name=entry.label, style=style_of(found, entry.label))
        for result in entry.of("eos"):
            by_split.setdefault(result.split, []).append((run, result))
    prefix = f"{material}, " if len(found.materials) > 1 else ""
    return [equation_of_state(prefix + split, members) for split, members in by_split.items()]


def cluster_curves(found: Findings, material: str) -> list[Figure]:
    """Energy along each coordinate, relative to the last point; the first seed of all models."""
    by_split: dict[str, list[tuple[str, Result]]] = {}
    for entry in _first_seed(found, material):
        for result in entry.of("pec"):
            if result.curves:
                by_split.setdefault(result.split, []).append((entry.label, result))
    figures = []
    for split, members in by_split.items():
        first = members[0][1].curves
        truth = np.array(first["reference"]) - first["reference"][-1]
        reach = max(0.5 * float(np.abs(truth.min())), 1.0)
        low = float(truth.min()) - 0.4 * reach
        lines = [("DFT", 9, first["x"], first["reference"])]
        for label, result in members:
            lines.append(
                (label, style_of(found, label), result.curves["x"], result.curves["energy"])
            )
        series = []
        for label, style, x, energy in lines:
            values = np.array([np.nan if e is None else e for e in energy], dtype=float)
            values = values - values[-1]
            values[(values > reach) | (values < low)] = np.nan
            series.append(Series(label, x, values, style, "both"))
        title = split.partition(":")[2]
        legend: list[Key] = [(s.name, s.style, "line") for s in series]
        svg = chart(
            series, f"{first['coordinate']} ({first['unit']})", "energy (eV)", title,
            y_range=(low, reach),
        )  # fmt: skip
        figures.append(Figure(f"{title}, {material}", svg, legend, "relative to the last point"))
    return figures


def _first_seed(found: Findings, material: str) -> list[Entry]:
    chosen: dict[str, Entry] = {}
    for entry in found.ranked:
        if entry.material == material:
            chosen.setdefault(entry.label, entry)
    return list(chosen.values())


def survival_curves(found: Findings, material: str) -> list[Figure]:
    """Kaplan-Meier: share of the runs that still go on, by time; ID and OOD apart."""
    figures = []
    for name, (title, _) in DOMAINS.items():
        series = []
        for label in found.labels:
            lives = [
                Lifetime(time, result.failure)
                for entry in found.of(label, material)
                for result in entry.of("dynamics")
                if domain(result.split) == name and (time := result.value("survived")) is not None
            ]
            if lives:
                curve = kaplan_meier(lives)
                x, y = np.repeat(curve.time, 2)[1:], np.repeat(curve.survived, 2)[:-1]
                series.append(Series(label, x, y, style_of(found, label)))
        if series:
            heading = f"Survival, {title}, {material}"
            legend: list[Key] = [(s.name, s.style, "line") for s in series]
            svg = chart(series, "time (ps)", "share of runs", heading, y_range=(0, 1.04))
            figures.append(Figure(heading, svg, legend))
    return figures
