"""Tables of what is shown for every start whether it is scored or not: pressure, energy drift."""

from __future__ import annotations

from collections.abc import Sequence

from siliforce.benchmark.estimate import over_seeds
from siliforce.benchmark.findings import Findings
from siliforce.indicators.base import Result
from siliforce.report.campaign_figures import style_of
from siliforce.report.campaign_tables import named
from siliforce.report.numbers import interval, shown
from siliforce.report.tables import Cell, Table


def pressures(found: Findings, material: str) -> Table | None:
    """Mean pressure of every model in every start, the reference's first; None without any."""
    table = _table(found, material, "pressure", "pressure", "GPa")
    if table is None:
        return None
    known = {
        r.split: r.curves["reference"]
        for r in _results(found, material, "pressure")
        if r.curves.get("reference") is not None
    }
    if known:
        values = [known.get(split) for split, _ in table.columns[1:]]
        table.rows.insert(0, [Cell("DFT"), *(Cell(shown(v), v) for v in values)])
    table.caption = (
        f"{material}: mean over each run, kinetic part included. Small numbers: 95 % over runs "
        "(Student), of a single one by block bootstrap. A model that predicts forces directly has "
        "no stress: the pressure does not apply."
    )
    return table


def drifts(found: Findings, material: str) -> Table | None:
    """Drift of the conserved energy of every model in every start; None without any.

    Runs without a thermostat, where there are any, have a column of their own.
    """
    kind = "dynamics" if _results(found, material, "dynamics") else "nve"
    table = _table(found, material, kind, "energy_drift", "meV/atom/ps")
    if table is None:
        return None
    results = _results(found, material, kind)
    if _results(found, material, "nve"):
        table.columns.append(("NVE, all starts", "meV/atom/ps"))
        for row in table.rows:
            row.append(_cell(_results(found, material, "nve", str(row[0].value)), "energy_drift"))
    kinds = dict.fromkeys(r.provenance.get("config", {}).get("ensemble", "") for r in results)
    table.caption = (
        f"{', '.join([material, *(k.upper() for k in kinds if k)])}: magnitude of the slope of the "
        "conserved energy during production (in NVT without the work of the thermostat). Small "
        "numbers: 95 % over runs (Student). Non-conservative models predict forces directly: these "
        "are the gradient of no energy."
    )
    return table


def _results(found: Findings, material: str, indicator: str, label: str = "") -> list[Result]:
    """Of the baselines of one model, or of all."""
    own = [e for e in found.ranked if e.material == material and e.label == (label or e.label)]
    return [result for entry in own for result in entry.of(indicator)]


def _table(found: Findings, material: str, indicator: str, metric: str, unit: str) -> Table | None:
    """One row per model, one column per start."""
    everything = [r for r in _results(found, material, indicator) if r.metric(metric)]
    if not everything:
        return None
    splits = sorted({r.split for r in everything})
    rows = []
    for standing in found.standings:
        own = found.of(standing.label, material)
        style = style_of(found, standing.label)
        label = Cell(named(standing.label, own), standing.label, style=style)
        results = _results(found, material, indicator, standing.label)
        cells = [_cell([r for r in results if r.split == split], metric) for split in splits]
        rows.append([label, *cells])
    return Table([("model", ""), *((split, unit) for split in splits)], rows)


def _cell(results: Sequence[Result], name: str) -> Cell:
    """Mean over runs; of what fails or does not apply, the reason."""
    metrics = [m for r in results if (m := r.metric(name)) is not None]
    values = [m.value for m in metrics if m.value is not None]
    failures = [r.failure.partition(":")[0] for r in results if r.failure]
    direct = any(r.provenance.get("force_mode") == "direct" for r in results)
    if name == "pressure" and direct:
        return Cell("no stress")
    if not values:
        why = failures[0] if failures else next((m.note for m in metrics), "")
        return Cell("failed" if failures else "–", note=why)
    mean = over_seeds([abs(v) for v in values] if name == "energy_drift" else values)
    alone = next(m for m in metrics if m.value is not None)
    low, high = (alone.low, alone.high) if mean.n == 1 else (mean.low, mean.high)
    note = interval(low, high)
    if failures:
        note = "; ".join(p for p in (note, f"{len(failures)} of {len(results)} failed") if p)
    return Cell(shown(mean.mean), mean.mean, note)
