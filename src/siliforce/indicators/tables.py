"""Results as tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from siliforce.indicators.base import Metric, Result

COLUMNS = {
    "energy_mae": "E MAE\nmeV/atom",
    "energy_rmse": "E RMSE\nmeV/atom",
    "energy_rmse_shifted": "less shift\nmeV/atom",
    "forces_mae": "F MAE\nmeV/Å",
    "forces_rmse": "F RMSE\nmeV/Å",
    "stress_mae": "stress MAE\nGPa",
}
"""What a terminal shows of the errors; the rest is in the file and the report."""

HEADLINES = (
    "V0_error",
    "B0_error",
    "rdf_mae",
    "rdf_wasserstein",
    "adf_mae",
    "adf_wasserstein",
    "pressure_error",
    "vdos_wasserstein",
    "survived_fraction",
    "pec_energy_rmse",
    "pec_energy_rmse_attractive",
)
"""What tables show of the indicators that are held against a reference; files have the rest."""

OF_RUNS = ("survived", "temperature_mean", "energy_drift", "pressure_mean", "volume_mean")
"""What a terminal of 80 columns shows of replicas; the rest is in their files."""


def errors_table(results: Sequence[Result]) -> Group:
    """One line per set."""
    table = Table(title=f"Errors of {results[0].model}", title_justify="left")
    table.add_column("set")
    table.add_column("frames", justify="right")
    shown = {
        name: title
        for name, title in COLUMNS.items()
        if any(r.value(name) is not None for r in results)
    }
    for title in shown.values():
        table.add_column(title, justify="right")
    for result in results:
        frames = str(result.provenance.get("n_frames", "?"))
        table.add_row(result.split, frames, *(_number(result.metric(name)) for name in shown))
    intervals = {r.provenance.get("intervals", "none") for r in results}
    note = f"below: {'; '.join(sorted(intervals))}; less shift: a constant removed"
    return Group(table, Text(note, style="dim"))


def breakdown_table(result: Result, by: str) -> Table:
    """Errors of one set by a tag, or by several crossed, in the order of their values.

    Args:
        by: as `siliforce.indicators.errors.evaluate` was asked; `temperature,strain` crosses two.
    """
    rows = sorted(result.tables[f"by_{by}"], key=lambda row: _in_order(row["label"]))
    shown = [name for name in COLUMNS if any(row.get(name) is not None for row in rows)]
    table = Table(title=f"{result.split}, by {by.replace(',', ' and ')}", title_justify="left")
    for tag in by.split(","):
        table.add_column(tag, justify="right")
    for title in ("frames", *(COLUMNS[name] for name in shown)):
        table.add_column(title, justify="right")
    crossings = by.count(",")
    for row in rows:
        values = [digits(row[name], 3) if row.get(name) is not None else "" for name in shown]
        labels = row["label"].split(", ", crossings)  # a value alone may hold a comma
        table.add_row(*labels, str(row["n_frames"]), *values)
    return table


def _in_order(label: str) -> list[tuple[bool, float, str]]:
    """Numbers by size, before words."""
    key = []
    for part in label.split(", "):
        try:
            key.append((False, float(part), ""))
        except ValueError:
            key.append((True, 0.0, part))
    return key


def result_table(result: Result) -> Group:
    """One result: its metrics, and why it failed if it did."""
    table = Table(title=f"{result.indicator}: {result.split}", title_justify="left")
    table.add_column("metric")
    table.add_column("value", justify="right")
    table.add_column("note")
    for metric in result.metrics:
        table.add_row(
            f"{metric.name} \\[{metric.unit}]" if metric.unit else metric.name,
            _number(metric),
            metric.note,
        )
    notes = [Text(f"failed: {result.failure}", style="red")] if result.failure else []
    return Group(table, *notes)


def replica_table(results: Sequence[Result]) -> Group:
    """Several runs of one start, one line each: the metrics of `OF_RUNS` that they have."""
    table = Table(title=f"{results[0].indicator}: {results[0].dataset}", title_justify="left")
    table.add_column("run", overflow="fold")
    metrics = [m for name in OF_RUNS if (m := results[0].metric(name))]
    for metric in metrics:
        table.add_column(f"{metric.name.replace('_', chr(10), 1)}\n{metric.unit}", justify="right")
    for result in results:
        table.add_row(result.split, *(_number(result.metric(m.name)) for m in metrics))
    failed = [f"failed: {r.split}: {r.failure}" for r in results if r.failure]
    return Group(table, *(Text(line, style="red") for line in failed))


def headlines(results: Sequence[Result]) -> dict[str, str]:
    """The metrics of `HEADLINES` that some result has, and their units."""
    known = {m.name: m.unit for r in results for m in r.metrics if m.value is not None}
    return {name: known[name] for name in HEADLINES if name in known}


def by_structure(results: Sequence[Result]) -> dict[str, dict[str, Metric]]:
    """Metrics of all indicators together: structure -> name -> metric."""
    found: dict[str, dict[str, Metric]] = {}
    for result in results:
        found.setdefault(result.split, {}).update({m.name: m for m in result.metrics})
    return found


def indicators_table(results: Sequence[Result]) -> Group:
    """What simulations and scans gave, one line per structure; failures below."""
    table = Table(title=results[0].model, title_justify="left")
    table.add_column("structure")
    columns = headlines(results)
    for name, unit in columns.items():
        table.add_column(f"{name.replace('_', chr(10))}\n({unit})", justify="right")
    for split, metrics in by_structure(results).items():
        if columns.keys() & metrics.keys():
            table.add_row(split, *(_number(metrics.get(name)) for name in columns))
    failed = [f"failed: {r.indicator} {r.split}: {r.failure}" for r in results if r.failure]
    return Group(table, *(Text(line, style="red") for line in failed))


def _number(metric: Metric | None) -> str:
    if metric is None:
        return ""
    if metric.value is None:
        return "n/a"
    text = digits(metric.value, 4)
    if metric.low is not None and metric.high is not None:
        text += f"\n{digits(metric.low, 3)}–{digits(metric.high, 3)}"
    return text


def digits(value: float, digits: int) -> str:
    """So many significant digits, without an exponent where that stays short."""
    return f"{value:.0f}" if 10 ** (digits - 1) <= abs(value) < 1e7 else f"{value:.{digits}g}"
