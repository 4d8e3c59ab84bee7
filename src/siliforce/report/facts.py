"""What is known of the data that a run was trained on."""

from __future__ import annotations

from collections.abc import Sequence

from siliforce.potential import Card
from siliforce.report.load import Run
from siliforce.report.numbers import shown, spread
from siliforce.report.tables import SETS


def data_facts(runs: Sequence[Run]) -> list[tuple[str, list[tuple[str, int]]]]:
    """What is known of the data: name and values, each with the style of its run.

    A value that all runs share is given once, with style -1.
    """
    facts: list[tuple[str, list[tuple[str, int]]]] = []
    per_run = [_facts(run) for run in runs]
    for name in dict.fromkeys(key for facts_ in per_run for key in facts_):
        values = [f.get(name, "not recorded") for f in per_run]
        if len(set(values)) == 1:
            facts.append((name, [(values[0], -1)]))
        else:
            facts.append((name, [(v, run.style) for v, run in zip(values, runs, strict=True)]))
    return facts


def _facts(run: Run) -> dict[str, str]:
    card, data = run.card, run.config.get("data", {}) or {}
    source = data.get("source") or (card.data_source if card else "")
    facts = {"source": ", ".join(source) if isinstance(source, list) else str(source or "")}
    facts["level of theory"] = (card.level_of_theory if card else "") or "not stated"
    facts["licence"] = (card.licence if card else "") or "not stated"
    sizes = {name: len(rows) for name, rows in (run.split.get("rows") or {}).items()}
    if not sizes:
        sizes = {k: run.record[f"n_{k}"] for k in ("train", "valid") if f"n_{k}" in run.record}
    order = sorted(sizes, key=lambda name: (*SETS, name).index(name))
    facts["frames"] = ", ".join(f"{name} {shown(sizes[name])}" for name in order)
    facts["split"] = str(run.split.get("method") or "")
    hashes = {
        "training data": run.record.get("data_hash") or (card.data_hash if card else ""),
        "split": run.record.get("split_hash"),
    }
    facts["hashes"] = ", ".join(f"{k} {v}" for k, v in hashes.items() if v)
    if card:
        facts |= _ranges(card)
    return {k: v for k, v in facts.items() if v}


def _ranges(card: Card) -> dict[str, str]:
    found = {"elements": ", ".join(card.elements)}
    if card.atoms_per_volume:
        low, high = card.atoms_per_volume
        found["volume"] = f"{spread(1 / high, 1 / low)} Å³ per atom"
    if card.temperature:
        found["temperature"] = f"{spread(*(round(t) for t in card.temperature))} K"
    if card.min_distance:
        pairs = sorted(card.min_distance.items(), key=lambda item: item[1])
        found["shortest distances"] = ", ".join(f"{p} {shown(d)} Å" for p, d in pairs[:6])
    return found
