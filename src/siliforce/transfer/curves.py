"""From the trainings of a study to curves, intervals and sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from scipy.stats import t as student

from siliforce.indicators.base import Result
from siliforce.transfer.judge import unfinished
from siliforce.transfer.saved import (
    Curve,
    Saved,
    frames_saved,
    middle,
    saved_at,
    shared_draws,
)

INDICATOR = "transfer_study"
MEASURE = "forces_rmse"
Rows = Sequence[dict[str, Any]]
Values = dict[int, list[float]]


def summary(rows: Rows, facts: dict[str, Any]) -> Result:
    """The result of a study, of whatever is done so far.

    Args:
        rows: one per finished training: `kind`, `which`, `n`, `draw`, errors, `valid_loss`.
        facts: of the study; `policies` in their order.
    """
    scratch, chosen = best_control(rows)
    series, pairs = [], {}
    for policy in facts["policies"]:
        curve = values(rows, "transfer", policy)
        if not curve:
            continue
        series.append(_series(policy, "transfer", curve, _of(rows, "transfer", policy)))
        common = _paired(rows, policy, chosen)
        if common is not None:
            pairs[policy] = common
    if scratch:
        series.append(_series("from scratch", "scratch", scratch, []))
    zero = facts.get("zero_forces_rmse")
    why = {policy: _nothing_learned(*pair, zero) for policy, pair in pairs.items()}
    saved = {policy: frames_saved(*pair) for policy, pair in pairs.items() if not why[policy]}
    lead = f"{facts['model']}, " if facts.get("model") else ""
    doubt = _unfinished(rows, chosen)
    sentences = [
        f"{lead}policy {policy}: {(why[policy] or saved[policy].sentence()) + doubt}"
        for policy in pairs
    ]
    sentences += _control_sentences(rows, facts)
    sentences += shared_draws(sorted({row["n"] for row in rows}), facts.get("n_pool"))
    if facts.get("left_out"):
        left = ", ".join(map(str, facts["left_out"]))
        sentences.append(f"not measured: {left} frames, of which there are not so many")
    return Result(
        indicator=INDICATOR,
        model=facts.get("model", ""),
        dataset=facts.get("dataset", ""),
        split="test",
        metrics=[found.metric(f"frames_saved_{policy}") for policy, found in saved.items()],
        curves={"series": series, "measure": MEASURE, "unit": "meV/Å"},
        tables={
            "saved": [_facts_of(policy, found) for policy, found in saved.items()],
            "equal": [row for policy in saved for row in _equal(policy, *pairs[policy], zero)],
            "policies": _policies(rows, facts),
            "trainings": [dict(row) for row in rows],
        },
        provenance=facts
        | {
            "sentences": sentences,
            "alarm": _alarm(pairs),
            "control_rates": {str(n): rate for n, rate in chosen.items()},
        },
    )


def values(rows: Rows, kind: str, which: Any, name: str = MEASURE) -> Values:
    """Errors by number of frames, in the order of the draws."""
    found: dict[int, dict[int, float]] = {}
    for row in _of(rows, kind, which):
        if row.get(name) is not None:
            found.setdefault(row["n"], {})[row["draw"]] = row[name]
    return {n: [draws[k] for k in sorted(draws)] for n, draws in sorted(found.items())}


def best_control(rows: Rows) -> tuple[Values, dict[int, Any]]:
    """The control's errors with the learning rate chosen for each number of frames.

    Chosen by the mean validation loss over the draws, which is what a user could do; a rate at
    which a training failed is out.
    """
    rates = sorted({row["which"] for row in rows if row["kind"] == "scratch"})
    losses = {rate: values(rows, "scratch", rate, "valid_loss") for rate in rates}
    curve: Values = {}
    chosen: dict[int, Any] = {}
    for n in sorted({n for loss in losses.values() for n in loss}):
        most = max(len(loss.get(n, [])) for loss in losses.values())
        whole = [rate for rate in rates if len(losses[rate].get(n, [])) == most]
        chosen[n] = min(whole, key=lambda rate: float(np.mean(losses[rate][n])))
        curve[n] = values(rows, "scratch", chosen[n])[n]
    return curve, chosen


def _of(rows: Rows, kind: str, which: Any) -> list[dict[str, Any]]:
    return [row for row in rows if row["kind"] == kind and row["which"] == which]


def _paired(rows: Rows, policy: str, chosen: dict[int, Any]) -> tuple[Values, Values] | None:
    """Errors of transfer and control where every number of frames has the same draws of both."""
    table: dict[int, dict[int, tuple[float, float]]] = {}
    control = {(r["n"], r["draw"], r["which"]): r[MEASURE] for r in rows if r["kind"] == "scratch"}
    for row in _of(rows, "transfer", policy):
        other = control.get((row["n"], row["draw"], chosen.get(row["n"])))
        if other is not None:
            table.setdefault(row["n"], {})[row["draw"]] = (row[MEASURE], other)
    if not table:
        return None
    draws = sorted(set.intersection(*(set(found) for found in table.values())))
    if not draws:
        return None
    transfer = {n: [table[n][k][0] for k in draws] for n in sorted(table)}
    scratch = {n: [table[n][k][1] for k in draws] for n in sorted(table)}
    return transfer, scratch


def middle_and_band(draws: Sequence[float]) -> tuple[float, float | None, float | None]:
    """Geometric mean over draws with a 95 % interval (Student's t of the logarithms)."""
    logs = np.log(np.asarray(draws, dtype=float))
    mean, n = float(logs.mean()), len(logs)
    if n < 2:
        return float(np.exp(mean)), None, None
    width = float(student.ppf(0.975, n - 1) * logs.std(ddof=1) / np.sqrt(n))
    return float(np.exp(mean)), float(np.exp(mean - width)), float(np.exp(mean + width))


def _series(name: str, kind: str, curve: Values, rows: list[dict[str, Any]]) -> dict[str, Any]:
    bands = [middle_and_band(draws) for draws in curve.values()]
    found: dict[str, Any] = {
        "name": name,
        "kind": kind,
        "n": list(curve),
        "mean": [b[0] for b in bands],
        "low": [b[1] for b in bands],
        "high": [b[2] for b in bands],
        "draws": list(curve.values()),
    }
    forgotten = values(rows, "transfer", name, "source_forces_rmse") if rows else {}
    if forgotten:
        found["source"] = [float(np.mean(forgotten[n])) for n in forgotten]
    return found


def _nothing_learned(transfer: Curve, scratch: Curve, zero: float | None) -> str:
    """Why no factor is given: one of both is nowhere better than predicting zero forces."""
    for name, curve in (("from scratch", scratch), ("with transfer", transfer)):
        best = min(map(middle, curve.values()))
        if zero is not None and best >= zero:
            return (
                f"no number of frames saved is given, since {name} nothing was learned: the force "
                f"error is {best:.3g} meV/Å at best, that of predicting zero forces {zero:.3g}; "
                "allow a larger budget"
            )
    return ""


def _unfinished(rows: Rows, chosen: dict[int, Any]) -> str:
    """Says of the control that its budget ended too early, to be put after a sentence."""
    control = [r for r in rows if r["kind"] == "scratch" and r["which"] == chosen.get(r["n"])]
    early = [row for row in control if unfinished(row)]
    if not early:
        return ""
    counts = ", ".join(str(n) for n in sorted({row["n"] for row in early}))
    return (
        f". The control was still improving when its budget ended, in {len(early)} of "
        f"{len(control)} trainings ({counts} frames): a larger budget may leave less saved"
    )


def _control_sentences(rows: Rows, facts: dict[str, Any]) -> list[str]:
    """What else speaks against the control."""
    (scratch, chosen), zero = best_control(rows), facts.get("zero_forces_rmse")
    sentences = []
    poor = [str(n) for n, draws in scratch.items() if zero is not None and middle(draws) >= zero]
    if poor:
        sentences.append(
            f"From scratch with {', '.join(poor)} frames the force error is not below that of "
            f"predicting zero forces, {zero:.3g} meV/Å"
        )
    tried = {
        n: {r["which"] for r in rows if r["kind"] == "scratch" and r["n"] == n} for n in chosen
    }
    if edge := [str(n) for n in chosen if chosen[n] in (max(tried[n]), min(tried[n]))]:
        sentences.append(
            f"With {', '.join(edge)} frames the best learning rate of the control is the highest "
            "or the lowest that was tried: another may be better"
        )
    return sentences


def _facts_of(policy: str, saved: Saved) -> dict[str, Any]:
    """The frames of both, as a family adds them up."""
    return {"policy": policy, "text": saved.ratio.text(), **asdict(saved)}


def _equal(
    policy: str, transfer: Curve, scratch: Curve, zero: float | None
) -> list[dict[str, Any]]:
    """For every number of frames with transfer: how many from scratch reach the same error."""
    rows = []
    for n in transfer:
        found = saved_at(transfer, scratch, n)
        row = {"policy": policy, "n": n, "error": found.error, "control": middle(scratch[n])}
        if zero is None or found.error < zero:
            needed, ratio = found.scratch, found.ratio
            row |= {"needed": needed.value.value, "bound": needed.value.bound}
            row |= {"ratio": ratio.value.value, "text": ratio.text()}
        rows.append(row)
    return rows


def _policies(rows: Rows, facts: dict[str, Any]) -> list[dict[str, Any]]:
    """One line per policy and number of frames, the control last."""
    _, chosen = best_control(rows)
    kinds = [("transfer", policy, policy) for policy in facts["policies"]]
    found = []
    for n in facts["frames"]:
        for kind, which, name in [*kinds, ("scratch", chosen.get(n), "from scratch")]:
            own = [row for row in _of(rows, kind, which) if row["n"] == n]
            if not own:
                continue
            line: dict[str, Any] = {"n": n, "policy": name, "draws": len(own)}
            line["n_parameters"] = own[0]["n_parameters"]
            for key in ("forces_rmse", "energy_rmse", "source_forces_rmse", "seconds", "steps"):
                known = [row[key] for row in own if row.get(key) is not None]
                line[key] = float(np.mean(known)) if known else None
            found.append(line)
    return found


def _alarm(pairs: Mapping[str, tuple[Curve, Curve]]) -> str:
    """Where transfer is worse than the control, and whether the draws agree on that."""
    lines = []
    for policy, (transfer, scratch) in pairs.items():
        for n in transfer:
            ratios = np.array(transfer[n]) / np.array(scratch[n])
            mean, low, _ = middle_and_band(ratios.tolist())
            if mean > 1:
                sure = "" if low is not None and low > 1 else ", within the noise of the draws"
                lines.append(f"policy {policy} with {n} frames: {mean:.2f} times its error{sure}")
    return f"transfer is worse than training from scratch: {'; '.join(lines)}" if lines else ""
