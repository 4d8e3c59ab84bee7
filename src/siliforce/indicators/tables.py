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


def result_table(result: Result) -> Group:
    """One result: its metrics, and why it failed if it did."""
    table = Table(title=f"{result.indicator}: {result.split}", title_justify="left")
    table.add_column("metric")
    table.add_column("value", justify="right")
    table.add_column("note")
    for metric in result.metrics:
        table.add_row(
            f"{metric.name} [{metric.unit}]".replace("[", "\\["), _number(metric), metric.note
        )
    notes = [Text(f"failed: {result.failure}", style="red")] if result.failure else []
    return Group(table, *notes)


def replica_table(results: Sequence[Result]) -> Group:
    """Several runs of one kind, one line each, without what all lack."""
    table = Table(title=f"{results[0].indicator}: {results[0].dataset}", title_justify="left")
    table.add_column("run")
    metrics = results[0].metrics
    for metric in metrics:
        table.add_column(f"{metric.name}\n{metric.unit}", justify="right")
    for result in results:
        table.add_row(result.split, *(_number(result.metric(m.name)) for m in metrics))
    failed = [f"failed: {r.split}: {r.failure}" for r in results if r.failure]
    return Group(table, *(Text(line, style="red") for line in failed))


def _number(metric: Metric | None) -> str:
    if metric is None:
        return ""
    if metric.value is None:
        return "n/a"
    text = _digits(metric.value, 4)
    if metric.low is not None and metric.high is not None:
        text += f"\n{_digits(metric.low, 3)}–{_digits(metric.high, 3)}"
    return text


def _digits(value: float, digits: int) -> str:
    """So many significant digits, without an exponent where that stays short."""
    return f"{value:.0f}" if 10 ** (digits - 1) <= abs(value) < 1e7 else f"{value:.{digits}g}"
