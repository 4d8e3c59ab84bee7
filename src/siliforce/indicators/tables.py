"""Results as tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from siliforce.indicators.base import Metric, Result


def errors_table(results: Sequence[Result]) -> Group:
    """Errors of several sets side by side, and what each set is."""
    table = Table(title="Errors", title_justify="left")
    table.add_column("")
    for result in results:
        frames = result.provenance.get("n_frames", "?")
        table.add_column(f"{result.split}\n{frames} frames", justify="right")
    names = list(dict.fromkeys(m.name for r in results for m in r.metrics))
    for name in names:
        found = [r.metric(name) for r in results]
        unit = next(m.unit for m in found if m is not None)
        table.add_row(f"{name} [{unit}]".replace("[", "\\["), *(_number(m) for m in found))
    intervals = {r.provenance.get("intervals", "none") for r in results}
    return Group(table, Text(f"intervals: {'; '.join(sorted(intervals))}", style="dim"))


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


def _number(metric: Metric | None) -> str:
    if metric is None:
        return ""
    if metric.value is None:
        return "n/a"
    text = f"{metric.value:.4g}"
    if metric.low is not None and metric.high is not None:
        text += f" ({metric.low:.3g}–{metric.high:.3g})"
    return text
