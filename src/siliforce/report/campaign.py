"""The report of a campaign: one HTML file, a pure function of its results."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from siliforce.benchmark.campaign import Opened
from siliforce.benchmark.findings import Findings, findings
from siliforce.benchmark.scores import SHOWN
from siliforce.files import write_atomic
from siliforce.report import campaign_figures as figures
from siliforce.report import campaign_observables as observables
from siliforce.report import campaign_studies as studies
from siliforce.report import campaign_tables as tables
from siliforce.report.campaign_verdict import verdicts
from siliforce.report.page import fill

REPORT = "report.html"
SCORES = "scores.csv"


def write_campaign_report(opened: Opened, out: str | Path | None = None) -> Path:
    """Write the report of what a campaign's folder holds; unfinished campaigns have one too.

    The scores and what they were made of are written into the folder as a table as well.
    """
    found = findings(opened)
    write_atomic(opened.shop.root / SCORES, scores_csv(found))
    path = Path(out) if out is not None else opened.shop.root / REPORT
    return write_atomic(path, render_campaign(found))


def scores_csv(found: Findings) -> str:
    """One row for every score of every potential, with the metric that it was made of."""
    units = {
        (name, a.quantity, a.split): a.unit for name, all_ in found.anchors.items() for a in all_
    }
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(
        ["model", "material", "seed", "quantity", "split", "value", "unit", "score", "note"]
    )
    for s in found.scores:
        unit = units.get((s.material, s.quantity, s.split), "")
        table.writerow(
            [s.label, s.material, s.seed, s.quantity, s.split, s.error, unit, s.score, s.note]
        )
    return text.getvalue()


def render_campaign(found: Findings) -> str:
    """The page as text."""
    return fill("campaign.html", f"{found.name}: siliforce benchmark", _content(found))


def _content(found: Findings) -> dict[str, Any]:
    return {
        "ranking": tables.ranking(found),
        "verdicts": verdicts(found),
        "unfinished": tables.unfinished(found),
        "failures": tables.failures(found),
        "correlations": tables.correlation_table(found),
        "cost": tables.cost_table(found),
        "configuration": found.configuration,
        "materials": [_material(found, name) for name in found.materials],
        "sections": _sections(found),
        "studies": [
            (title, shown)
            for title, shown in (
                ("Accuracy against time", [studies.pareto(found, m) for m in found.materials]),
                ("Learning curves", _all(studies.learning, found)),
                ("Loss", _all(studies.losses, found)),
                ("Normalisation", _all(studies.normalisations, found)),
            )
            if any(shown)
        ],
    }


def _all(make: Any, found: Findings) -> list[Any]:
    return [figure for material in found.materials for figure in make(found, material)]


def _material(found: Findings, name: str) -> dict[str, Any]:
    return {
        "name": name,
        "facts": found.about.get(name, ()),
        "radars": figures.radars(found, name),
        "heat": tables.heat_map(found, name),
        "anchors": tables.anchor_table(found, name),
    }


def _sections(found: Findings) -> list[tuple[str, str, list[Any]]]:
    """One per quantity that was measured: identifier, title, figures and tables."""
    sections: list[tuple[str, str, list[Any]]] = []
    for quantity in SHOWN:
        shown: list[Any] = []
        for material in found.materials:
            shown.append(figures.errors_of(found, quantity, material))
            if quantity in ("rdf", "adf"):
                shown += figures.distribution_curves(found, quantity, material)
            if quantity == "V0":
                shown += figures.volume_curves(found, material)
            if quantity == "pec":
                shown += figures.cluster_curves(found, material)
            if quantity == "survival":
                shown += figures.survival_curves(found, material)
            if quantity == "vdos":
                shown += figures.vibration_curves(found, material)
            if quantity == "pressure":
                shown.append(observables.pressures(found, material))
        shown = [item for item in shown if item is not None]
        if shown:
            sections.append((quantity, figures.TITLES[quantity], shown))
    drifts = [t for m in found.materials if (t := observables.drifts(found, m))]
    if drifts:
        sections.append(("drift", "Energy drift", drifts))
    return sections
