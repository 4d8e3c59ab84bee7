"""From the rounds of an active study to curves, frames saved, and whether it stopped rightly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from siliforce.active.rule import MEV
from siliforce.indicators.base import Metric, Result
from siliforce.indicators.tables import digits
from siliforce.transfer.curves import middle_and_band
from siliforce.transfer.saved import frames_saved, shared_draws

INDICATOR = "active_study"
NAMES = {"active": "by uncertainty", "random": "at random"}
Rows = Sequence[dict[str, Any]]


def summary(rows: Rows, facts: dict[str, Any]) -> Result:
    """The result of an active study, of whatever is done so far.

    Args:
        rows: one per finished round, see `ActiveStudy.row`; errors in eV/Å.
        facts: of the study.
    """
    series = [_series(rows, selection) for selection in NAMES]
    pairs = _paired(rows)
    metrics, sentences, alarm = _compared(pairs, facts)
    stops = _stops(rows, facts.get("below"), facts["frames"])
    sentences += _stop_sentences(stops, facts.get("below"))
    honest, text = _honesty(rows)
    return Result(
        indicator=INDICATOR,
        model=facts.get("model", ""),
        dataset=facts.get("dataset", ""),
        split="test",
        metrics=[*metrics, *honest],
        curves={"series": [s for s in series if s["n"]], "unit": "meV/Å"},
        tables={
            "rounds": _rounds(rows),
            "stops": stops,
            "reliability": [
                {"selection": row["selection"], "predicted": MEV * b["predicted"],
                 "true": MEV * b["true"], "n": row["n"]}
                for row in rows for b in row["test"]["reliability"]
            ],
            "all": [dict(row) for row in rows],
        },
        provenance=facts | {"sentences": [*sentences, *text], "alarm": alarm},
    )  # fmt: skip


def _of(rows: Rows, selection: str) -> dict[int, dict[int, dict[str, Any]]]:
    """Rounds by number of frames and draw; both selections share the first."""
    found: dict[int, dict[int, dict[str, Any]]] = {}
    for row in rows:
        if row["selection"] == selection:
            found.setdefault(row["n"], {})[row["draw"]] = row
    return dict(sorted(found.items()))


def _series(rows: Rows, selection: str) -> dict[str, Any]:
    """True error on the test and predicted error of the rest of the pool, meV/Å."""
    found = _of(rows, selection)
    series: dict[str, Any] = {"name": NAMES[selection], "selection": selection, "n": list(found)}
    series |= {"mean": [], "low": [], "high": [], "predicted": [], "upper": []}
    for draws in found.values():
        mean, low, high = middle_and_band([MEV * row["test"]["true"] for row in draws.values()])
        series["mean"].append(mean)
        series["low"].append(low)
        series["high"].append(high)
        pools = [row["pool"] for row in draws.values() if "pool" in row]
        uppers = [pool["upper"] for pool in pools if pool["upper"] is not None]
        predicted = [pool["predicted"] for pool in pools]
        for name, values in (("predicted", predicted), ("upper", uppers)):
            series[name].append(middle_and_band([MEV * v for v in values])[0] if values else None)
    return series


def _paired(rows: Rows) -> tuple[dict[int, list[float]], dict[int, list[float]]]:
    """Test errors (meV/Å) of both selections at budgets where the same draws are done."""
    active, random = _of(rows, "active"), _of(rows, "random")
    counts = [n for n in active if n in random]
    draws = set.intersection(*(set(active[n]) & set(random[n]) for n in counts)) if counts else None
    if not draws:
        return {}, {}
    one, other = (
        {n: [MEV * found[n][k]["test"]["true"] for k in sorted(draws)] for n in counts}
        for found in (active, random)
    )
    return one, other


def _compared(
    pairs: tuple[dict[int, list[float]], dict[int, list[float]]], facts: dict[str, Any]
) -> tuple[list[Metric], list[str], str]:
    active, random = pairs
    if not active:
        return [], [], ""
    saved = frames_saved(active, random)
    metrics = [saved.metric("frames_saved_active")]
    lead = f"{facts['model']}, " if facts.get("model") else ""
    sentences = [
        f"{lead}frames chosen by uncertainty against random ones: {saved.sentence()}.",
        *(f"{text}." for text in shared_draws(list(random), facts.get("n_pool"))),
    ]
    # With the whole pool labelled both are the same.
    counts = [n for n in active if n < facts.get("n_pool", np.inf)][1:]
    ratios = {n: (np.array(active[n]) / np.array(random[n])).tolist() for n in counts}
    worse = []
    for n, values in ratios.items():
        mean, low, high = middle_and_band(values)
        metrics.append(
            Metric(name=f"error_ratio_{n}", value=mean, unit="", better="lower", low=low, high=high,
                   note=f"force error of active over random selection, {n} frames")
        )  # fmt: skip
        if low is not None and low > 1:
            worse.append(f"{n} frames: {mean:.2f} times their error")
    if counts:
        n = counts[-1]
        (mine, *_), (other, *_) = middle_and_band(active[n]), middle_and_band(random[n])
        ratio, low, high = middle_and_band(ratios[n])
        between = "" if low is None else f" [{low:.2f}, {high:.2f}]"
        sentences.append(
            f"With {n} frames the force error is {digits(mine, 3)} meV/Å chosen and "
            f"{digits(other, 3)} at random: {ratio:.2f} times as large{between}."
        )
    alarm = f"chosen frames are worse than random ones at {'; '.join(worse)}" if worse else ""
    return metrics, sentences, alarm


def _stops(rows: Rows, below: float | None, counts: Sequence[int]) -> list[dict[str, Any]]:
    """One line per selection and draw: where the rule stopped, and what was true there, meV/Å."""
    if below is None:
        return []
    found = []
    for selection in NAMES:
        by_count = _of(rows, selection)
        for draw in sorted({k for draws in by_count.values() for k in draws}):
            mine = [by_count[n][draw] for n in counts if draw in by_count.get(n, {})]
            asked = [row for row in mine if "pool" in row]
            stop = next((r for r in asked if (r["pool"]["upper"] or np.inf) < below), None)
            true = next((r["n"] for r in mine if r["test"]["true"] < below), None)
            line: dict[str, Any] = {"selection": selection, "draw": draw, "needed": true}
            line["stopped"] = None if stop is None else stop["n"]
            if stop is not None:
                line |= {
                    "predicted": MEV * stop["pool"]["predicted"],
                    "upper": MEV * stop["pool"]["upper"],
                    "true_pool": MEV * stop["pool"]["true"],
                    "true_test": MEV * stop["test"]["true"],
                    "right": stop["test"]["true"] < below,
                }
            found.append(line)
    return found


def _stop_sentences(stops: Sequence[dict[str, Any]], below: float | None) -> list[str]:
    if below is None:
        return []
    sentences = []
    for selection, name in NAMES.items():
        mine = [line for line in stops if line["selection"] == selection]
        stopped = [line for line in mine if line["stopped"] is not None]
        lead = f"Stopping below {digits(MEV * below, 3)} meV/Å, frames {name}:"
        if not stopped:
            wrongly = sum(line["needed"] is not None for line in mine)
            tail = f"; the true error was below it in {wrongly} of {len(mine)} draws"
            sentences.append(f"{lead} never stopped{tail}.")
            continue
        right = sum(line["right"] for line in stopped)
        at = ", ".join(str(line["stopped"]) for line in stopped)
        true = ", ".join(f"{line['true_test']:.3g}" for line in stopped)
        sentences.append(
            f"{lead} stopped in {len(stopped)} of {len(mine)} draws, at {at} frames, where the "
            f"true error on the test was {true} meV/Å: right in {right} of {len(stopped)}."
        )
    return sentences


def _honesty(rows: Rows) -> tuple[list[Metric], list[str]]:
    """How predictions of frames that nobody had labelled compare with the truth."""
    unique = [r for r in rows if not (r["selection"] == "random" and _is_first(r, rows))]
    pools = [row["pool"] for row in unique if "pool" in row]
    bounded = [pool for pool in pools if pool["upper"] is not None]
    if not bounded:
        return [], []
    inside = sum(pool["true"] <= pool["upper"] for pool in bounded)
    logs = [float(np.log(pool["predicted"] / pool["true"])) for pool in pools]
    ranks = [r["test"]["spearman"] for r in unique if r["test"]["spearman"] is not None]
    within = [row["test"]["within"] for row in unique]
    off = float(np.exp(np.mean(np.abs(logs))))
    metrics = [
        Metric(name="bounds_kept", value=100 * inside / len(bounded), unit="%", better="higher",
               note="rounds in which the rest of the pool had an error below its upper bound"),
        Metric(name="prediction_factor", value=off, unit="", better="lower",
               note="by which the predicted error of the pool is off, typically"),
        Metric(name="within", value=100 * float(np.mean(within)), unit="%",
               note="test atoms within the bound that 95 % should keep"),
    ]  # fmt: skip
    if ranks:
        metrics.append(
            Metric(name="spearman", value=float(np.mean(ranks)), unit="", better="higher",
                   note="rank correlation of predicted and true error of the test atoms")
        )  # fmt: skip
    return metrics, [
        f"The true error of the unlabelled frames lay below its upper bound in {inside} of "
        f"{len(bounded)} rounds; the predicted error was off by a factor of {off:.2f} typically."
    ]


def _is_first(row: dict[str, Any], rows: Rows) -> bool:
    return bool(row["n"] == min(r["n"] for r in rows))


def _rounds(rows: Rows) -> list[dict[str, Any]]:
    """Means over the draws, one line per number of frames and selection; meV/Å."""
    lines = []
    for n in sorted({row["n"] for row in rows}):
        for selection, name in NAMES.items():
            mine = list(_of(rows, selection).get(n, {}).values())
            if not mine:
                continue
            line: dict[str, Any] = {"n": n, "name": name, "draws": len(mine)}
            pools = [row["pool"] for row in mine if "pool" in row]
            tests = [row["test"] for row in mine]
            line["true_test"] = middle_and_band([MEV * t["true"] for t in tests])[0]
            for key in ("predicted", "upper", "true"):
                values = [MEV * p[key] for p in pools if p[key] is not None]
                line[f"{key}_pool"] = middle_and_band(values)[0] if values else None
            for key in ("spearman", "within"):
                values = [t[key] for t in tests if t[key] is not None]
                line[key] = float(np.mean(values)) if values else None
            lines.append(line)
    return lines
