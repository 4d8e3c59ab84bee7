"""Sections about predicted errors: are they true, what active selection is worth, when to stop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from siliforce.active.choose import INDICATOR as POOL
from siliforce.active.rounds import INDICATOR as STUDY
from siliforce.active.rounds import NAMES
from siliforce.indicators.base import Result
from siliforce.report.figures import Figure, Key
from siliforce.report.numbers import shown
from siliforce.report.svg import Series, chart, data_range
from siliforce.report.tables import Cell, Table

STYLES = {"active": 0, "random": 9}
MEV = 1e3

__all__ = ["POOL", "STUDY", "pool_part", "study_part"]


def study_part(result: Result) -> dict[str, list[Any]]:
    """Of an active study: curves, whether predictions came true, where the rule stopped."""
    facts = result.provenance
    answer = [*facts.get("sentences", [])]
    if facts.get("alarm"):
        answer.append(f"Warning: {facts['alarm']}.")
    members = f"an ensemble of {facts.get('members')}"
    kind = members if facts.get("method") == "ensemble" else "the last layer's posterior"
    notes = [
        f"{shown(facts.get('draws'))} draws, {shown(facts.get('n_test'))} test frames and a pool of"
        f" {shown(facts.get('n_pool'))}. Both selections begin with the same frames; uncertainty is"
        f" that of {kind}, calibrated in each round on a fifth of the labelled frames (two at"
        " least), which are counted as labelled. Lines are geometric means over the draws, bars"
        " their 95 % intervals.",
        "Predicted and true errors of the pool are of its unlabelled frames; active selection"
        " leaves it the easy ones, so that errors of the pool and of the test are not the same.",
    ]
    if facts.get("failed"):
        notes.append(f"{facts['failed']} trainings failed and are left out.")
    tables = [("Rounds", round_table(result))]
    if result.tables.get("stops"):
        tables.append(("When to stop", stop_table(result)))
    return {
        "answer": answer,
        "figures": [*_curves(result), *_reliability(result.tables.get("reliability", []))],
        "tables": tables,
        "notes": notes,
    }


def pool_part(result: Result) -> dict[str, list[Any]]:
    """Of a choice of frames: predicted errors of the pool, and how far they can be trusted."""
    metrics = [m for m in result.metrics if m.value is not None]
    cells = [
        [Cell(m.name.replace("_", " "), m.name), Cell(f"{shown(m.value)} {m.unit}", m.value),
         Cell(m.note)] for m in metrics
    ]  # fmt: skip
    chosen = [
        [Cell(shown(k + 1), k + 1), Cell(row["source"], row["source"]),
         Cell(shown(row["error"]), row["error"])]
        for k, row in enumerate(result.tables.get("chosen", []))
    ]  # fmt: skip
    tables = [("Predicted errors", Table([("", ""), ("", ""), ("", "")], cells))]
    if chosen:
        columns = [("order", ""), ("frame", ""), ("predicted force error", "meV/Å")]
        tables.append(("To be labelled", Table(columns, chosen)))
    return {
        "answer": list(result.provenance.get("sentences", [])),
        "figures": [*_pool_figure(result), *_reliability(result.tables.get("reliability", []))],
        "tables": tables,
        "notes": ["Each held-out frame is predicted by a calibration on the other ones."],
    }


def _curves(result: Result) -> list[Figure]:
    """True test error of both selections; predicted and true error of the pool."""
    found = result.curves.get("series", [])
    if not found:
        return []
    below = result.provenance.get("below")
    levels = [MEV * below] if below else []
    series = [
        Series(s["name"], s["n"], s["mean"], STYLES[s["selection"]], "both",
               low=() if None in s["low"] else s["low"],
               high=() if None in s["high"] else s["high"])
        for s in found
    ]  # fmt: skip
    legend: list[Key] = [(s.name, s.style, "line") for s in series]
    svg = chart(series, "labelled frames", "meV/Å (RMSE)", "Force error on the test",
                log_x=True, log_y=True, levels=levels)  # fmt: skip
    caption = f"horizontal line: the stated error, {shown(MEV * below)} meV/Å" if below else ""
    figures = [Figure("True force error on the test", svg, legend, caption)]
    rounds, lines, keys = result.tables.get("rounds", []), [], []
    for selection, name in NAMES.items():
        mine = [row for row in rounds if row["name"] == name and row["predicted_pool"] is not None]
        n, style = [row["n"] for row in mine], STYLES[selection]
        upper = [row["upper_pool"] for row in mine]
        lines.append(Series(f"{name}, true", n, [r["true_pool"] for r in mine], style, "points"))
        predicted = [r["predicted_pool"] for r in mine]
        known = bool(upper) and None not in upper
        lines.append(
            Series(f"{name}, predicted", n, predicted, style, "band" if known else "line",
                   dashed=True, low=predicted if known else (), high=upper if known else ())
        )  # fmt: skip
        keys += [(f"{name}: true", style, "dot"), (f"{name}: predicted", style, "dash")]
    if any(len(line.x) for line in lines):
        title = "Predicted and true error of the pool"
        svg = chart(lines, "labelled frames", "meV/Å (RMSE)", title,
                    log_x=True, log_y=True, levels=levels)  # fmt: skip
        caption = "areas: up to the upper bound (95 %); means over the draws"
        figures.append(Figure("Force error of the unlabelled frames", svg, keys, caption))
    return figures


def _reliability(rows: Sequence[dict[str, Any]]) -> list[Figure]:
    """True error against predicted error, one dot per bin of atoms; meV/Å."""
    if not rows:
        return []
    series = []
    for selection, name in {**NAMES, "": "held-out atoms"}.items():
        mine = [row for row in rows if row.get("selection", "") == selection]
        if mine:
            x, y = [r["predicted"] for r in mine], [r["true"] for r in mine]
            series.append(Series(name, x, y, STYLES.get(selection, 0), "points"))
    limits = data_range([v for s in series for v in (s.x, s.y)], log=True)
    svg = chart(series, "predicted (meV/Å)", "true (meV/Å)", "True against predicted force error",
                log_x=True, log_y=True, square=True, diagonal=True, x_range=limits,
                y_range=limits)  # fmt: skip
    legend: list[Key] = [(s.name, s.style, "dot") for s in series] if len(series) > 1 else []
    caption = "a dot is the RMS over one of ten equal parts of the atoms, ordered by prediction"
    return [Figure("Reliability of predicted errors", svg, legend, caption)]


def _pool_figure(result: Result) -> list[Figure]:
    """Predicted errors of the frames of the pool, sorted."""
    errors = result.curves.get("pool", {}).get("errors", [])
    if len(errors) < 2:
        return []
    share = [100 * (k + 1) / len(errors) for k in range(len(errors))]
    below = result.provenance.get("below")
    svg = chart([Series("pool", errors, share)], "predicted force error (meV/Å)", "% of the frames",
                "Predicted errors of the pool", marks=[MEV * below] if below else [])  # fmt: skip
    caption = "dashed: the stated error" if below else ""
    return [Figure("Predicted errors of the pool", svg, caption=caption)]


def round_table(result: Result) -> Table:
    """Errors predicted and true at every budget."""
    columns = [
        ("frames", ""),
        ("chosen", ""),
        ("true, test", "meV/Å"),
        ("true, pool", "meV/Å"),
        ("predicted, pool", "meV/Å"),
        ("upper bound, pool", "meV/Å"),
        ("rank correlation", "test atoms"),
        ("within the bound", "% of test atoms"),
    ]
    rows = []
    for row in result.tables.get("rounds", []):
        keys = ("true_test", "true_pool", "predicted_pool", "upper_pool", "spearman")
        within = None if row["within"] is None else 100 * row["within"]
        rows.append(
            [Cell(shown(row["n"]), row["n"]), Cell(row["name"], row["name"])]
            + [Cell(shown(row[key]), row[key]) for key in keys]
            + [Cell(shown(within), within)]
        )
    return Table(columns, rows, "95 % of the atoms should lie within the bound.")


def stop_table(result: Result) -> Table:
    """Where the rule stopped in each draw, and what was true there."""
    columns = [
        ("chosen", ""),
        ("draw", ""),
        ("stopped at", "frames"),
        ("predicted, pool", "meV/Å"),
        ("upper bound, pool", "meV/Å"),
        ("true, pool", "meV/Å"),
        ("true, test", "meV/Å"),
        ("right", ""),
        ("needed", "frames"),
    ]
    rows = []
    for row in result.tables["stops"]:
        right = {None: "–", True: "yes", False: "no"}[row.get("right")]
        cells = [Cell(NAMES[row["selection"]]), Cell(shown(row["draw"]), row["draw"])]
        cells.append(Cell(shown(row["stopped"]), row["stopped"]))
        for key in ("predicted", "upper", "true_pool", "true_test"):
            cells.append(Cell(shown(row.get(key)), row.get(key)))
        rows.append([*cells, Cell(right), Cell(shown(row["needed"]), row["needed"])])
    caption = "Needed: the first budget whose true error on the test is below the stated one."
    return Table(columns, rows, caption)
