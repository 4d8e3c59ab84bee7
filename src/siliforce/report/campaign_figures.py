"""The figures of a campaign's report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from siliforce.benchmark.collect import Entry
from siliforce.benchmark.estimate import Estimate, over_seeds
from siliforce.benchmark.findings import Findings
from siliforce.benchmark.ranking import mean_scores
from siliforce.benchmark.scores import SHOWN, domain
from siliforce.indicators.survival import Lifetime, survival
from siliforce.report import structure
from siliforce.report.figures import Figure, Key, equation_of_state
from siliforce.report.load import Run
from siliforce.report.numbers import shown
from siliforce.report.radar import radar
from siliforce.report.svg import Row, dot_chart

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
    "vdos": "Vibrations",
    "survival": "Survival",
}


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
    """Distribution functions of the first seed over the reference, for one start of each domain."""
    by_split = _by_split(found, indicator, material)
    figures = []
    for name in DOMAINS:
        split = next((s for s in by_split if domain(s) == name), None)
        own = structure.distributions(by_split[split]) if split is not None else []
        mixed = [figure for figure in own if len(set(figure.title.split("-"))) > 1] or own
        figures += [replace(f, title=f"{f.title}, {_where(found, material, split)}") for f in mixed]
    return figures


def vibration_curves(found: Findings, material: str) -> list[Figure]:
    """Vibrational densities of states of the first seed."""
    return [
        replace(figure, title=f"{figure.title}, {_where(found, material, split)}")
        for split, members in _by_split(found, "vdos", material).items()
        for figure in structure.vibrations(members)
    ]


def cluster_curves(found: Findings, material: str) -> list[Figure]:
    """Energy along each coordinate; the first seed of all models."""
    return [
        replace(figure, title=f"{figure.title}, {material}")
        for members in _by_split(found, "pec", material).values()
        if (figure := structure.energy_curves(members))
    ]


def _where(found: Findings, material: str, split: str | None) -> str:
    return f"{material}, {split}" if len(found.materials) > 1 else str(split)


def _by_split(found: Findings, indicator: str, material: str) -> dict[str, list[structure.Shown]]:
    """Results of the first seed of all models, per structure; those without curves left out."""
    by_split: dict[str, list[structure.Shown]] = {}
    for entry in _first_seed(found, material):
        for result in entry.of(indicator):
            if result.curves and not result.provenance.get("replica"):
                one = structure.Shown(entry.label, result, style_of(found, entry.label))
                by_split.setdefault(result.split, []).append(one)
    return by_split


def volume_curves(found: Findings, material: str) -> list[Figure]:
    """E(V) of the first seed of all models, per structure."""
    figures = []
    for split, members in _by_split(found, "eos", material).items():
        runs = [Run(Path(one.name), name=one.name, style=one.style) for one in members]
        pairs = list(zip(runs, [one.result for one in members], strict=True))
        figures.append(equation_of_state(_where(found, material, split), pairs))
    return figures


def _first_seed(found: Findings, material: str) -> list[Entry]:
    chosen: dict[str, Entry] = {}
    for entry in found.ranked:
        if entry.material == material:
            chosen.setdefault(entry.label, entry)
    return list(chosen.values())


def survival_curves(found: Findings, material: str) -> list[Figure]:
    """Kaplan-Meier curves over all starts, replicas and seeds; ID and OOD apart."""
    figures = []
    for name, (title, _) in DOMAINS.items():
        shown_models = []
        for label in found.labels:
            lives = [
                Lifetime(time, result.failure)
                for entry in found.of(label, material)
                for result in entry.of("dynamics")
                if domain(result.split) == name and (time := result.value("survived")) is not None
            ]
            if lives:
                pooled = survival(label, lives)
                shown_models.append(structure.Shown(label, pooled, style_of(found, label)))
        if shown_models:
            figure = structure.survival(shown_models)
            figures.append(replace(figure, title=f"{title}, {material}"))
    return figures
