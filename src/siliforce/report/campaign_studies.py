"""The figures of a campaign's studies: Pareto fronts, learning curves, losses, normalisation."""

from __future__ import annotations

import numpy as np

from siliforce.benchmark.findings import Findings
from siliforce.benchmark.ranking import pareto_front
from siliforce.benchmark.studies import ef, points_of, widths
from siliforce.report.campaign_figures import STYLES, style_of
from siliforce.report.figures import Figure, Key
from siliforce.report.svg import Kind, Row, Series, chart, dot_chart


def pareto(found: Findings, material: str) -> Figure | None:
    """EF against time, one point per width; the front is named."""
    points = widths(found, material)
    if not points:
        return None
    places = [(p.time.mean, p.error.mean) for p in points]
    front = pareto_front(places)
    series = []
    for label in dict.fromkeys(p.label for p in points):
        own = sorted(xy for p, xy in zip(points, places, strict=True) if p.label == label)
        x, y = np.array(own).T
        series.append(Series(label, x, y, style_of(found, label), "both"))
    best = sorted((p for p, on in zip(points, front, strict=True) if on), key=lambda p: p.time.mean)
    names = ", ".join(f"{p.label} ×{p.width}" for p in best)
    title = f"Accuracy against time, {material}"
    svg = chart(
        series, "energy + forces (µs/atom)", "EF on test frames", title, log_x=True, log_y=True
    )
    legend: list[Key] = [(s.name, s.style, "dot") for s in series]
    return Figure(title, svg, legend, f"on the Pareto front: {names}")


def learning(found: Findings, material: str) -> list[Figure]:
    """EF against the share of the training frames: test with train, and OOD."""
    figures = []
    for split, title in (("test", "test (line) and training (dashed) frames"), ("ood", "OOD")):
        series = []
        for label in found.labels:
            for part in (split, "train") if split == "test" else (split,):
                points = points_of(found, label, material, "fraction", ef(part))
                if points:
                    x = sorted(float(k) for k in points)
                    y = [points[f"{v:g}"].mean for v in x]
                    name = label if part != "train" else f"{label}, training frames"
                    style = style_of(found, label)
                    kind: Kind = "both" if part != "train" else "line"
                    shares = [100 * v for v in x]
                    series.append(Series(name, shares, y, style, kind, dashed=part == "train"))
        if series:
            heading = f"Learning curves, {material}: EF on {title}"
            svg = chart(series, "share of the training frames (%)", "EF", heading, log_y=True)
            legend: list[Key] = [(s.name, s.style, "line") for s in series if not s.dashed]
            figures.append(Figure(heading, svg, legend))
    return figures


def losses(found: Findings, material: str) -> list[Figure]:
    """EF against λ_F: MAE as a line, other losses dashed; ID and OOD."""
    figures = []
    for split, title in (("test", "test frames"), ("ood", "OOD")):
        series = []
        for label in found.labels:
            points = points_of(found, label, material, "loss", ef(split))
            for kind in dict.fromkeys(value.split()[0] for value in points):
                own = {float(v.split()[1]): e.mean for v, e in points.items() if v.startswith(kind)}
                x = sorted(own)
                series.append(
                    Series(
                        f"{label}, {kind}", x, [own[v] for v in x], style_of(found, label), "both",
                        dashed=kind != "mae",
                    )
                )  # fmt: skip
        if series:
            heading = f"Loss, {material}: EF on {title}"
            svg = chart(series, "λ_F", "EF", heading, log_x=True, log_y=True)
            legend: list[Key] = [(s.name, s.style, "dash" if s.dashed else "line") for s in series]
            figures.append(Figure(heading, svg, legend, "at λ_E = 1"))
    return figures


def normalisations(found: Findings, material: str) -> list[Figure]:
    """EF by kind of normalisation, every model a row."""
    figures = []
    for split, title in (("test", "test frames"), ("ood", "OOD")):
        kinds: list[str] = []
        rows = []
        for label in found.labels:
            points = points_of(found, label, material, "normalisation", ef(split))
            kinds += [kind for kind in points if kind not in kinds]
            dots = [(k, e.mean, e.low, e.high, STYLES[kinds.index(k)]) for k, e in points.items()]
            if dots:
                rows.append(Row(label, "", dots))
        if rows:
            heading = f"Normalisation, {material}: EF on {title}"
            legend: list[Key] = [(k, STYLES[n], "dot") for n, k in enumerate(kinds)]
            figures.append(Figure(heading, dot_chart(rows, "EF", heading), legend))
    return figures
