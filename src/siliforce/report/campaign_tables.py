"""The tables of a campaign's report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from siliforce.benchmark.collect import Entry
from siliforce.benchmark.estimate import Estimate, over_seeds
from siliforce.benchmark.findings import Findings
from siliforce.benchmark.plan import PHASES
from siliforce.benchmark.ranking import Correlation, mean_scores
from siliforce.benchmark.scores import SHOWN
from siliforce.benchmark.studies import FOREIGN_TIME, ef
from siliforce.hardware import describe_hardware
from siliforce.report.campaign_figures import DOMAINS, style_of
from siliforce.report.numbers import interval, shown, spread
from siliforce.report.tables import Cell, Table


def ranking(found: Findings) -> Table:
    """Rank, scores with intervals, EF and time of every model."""
    columns = [("rank", ""), ("model", ""), ("score", "0 to 1"), ("ID", ""), ("OOD", "")]
    materials = found.materials
    columns += [(f"EF ID{_of(m, materials)}", "eV/atom + eV/Å") for m in materials]
    columns += [(f"EF OOD{_of(m, materials)}", "eV/atom + eV/Å") for m in materials]
    columns += [("energy + forces", "µs/atom"), ("parameters", "")]
    shared = [s.rank for s in found.standings]
    last = len(shared) + 1
    rows = []
    for standing in found.standings:
        own = found.of(standing.label)
        tie = "=" if shared.count(standing.rank) > 1 else ""
        place = Cell("–", last, "not finished")
        if standing.rank is not None:
            place = Cell(f"{standing.rank}{tie}", standing.rank)
        row = [
            place,
            Cell(
                _named(standing.label, own), standing.label, style=style_of(found, standing.label)
            ),
            estimate(standing.total, 1.0),
            *(estimate(standing.domains.get(name), 1.0) for name in DOMAINS),
        ]
        for split in ("test", "ood"):
            for material in materials:
                values = [v for e in own if e.material == material and (v := ef(split)(e))]
                row.append(estimate(over_seeds(values) if values else None))
        times = [v for e in own if (v := e.value_of("speed", "energy_forces"))]
        sizes = [v for e in own if (v := e.facts.get("n_parameters"))]
        time = estimate(over_seeds(times) if times else None)
        if times and not all(e.trained for e in own):
            time = replace(time, note=FOREIGN_TIME)
        row.append(time)
        row.append(Cell(shown(sizes[0]), sizes[0]) if sizes else Cell("–"))
        rows.append(row)
    return Table(columns, rows, _remark(found))


def _of(material: str, materials: Sequence[str]) -> str:
    return f", {material}" if len(materials) > 1 else ""


def _named(label: str, entries: Sequence[Entry]) -> str:
    notes = []
    if any(entry.direct for entry in entries):
        notes.append("non-conservative")
    if not all(entry.trained for entry in entries):
        notes.append("zero-shot")
    return f"{label} ({', '.join(notes)})" if notes else label


def _remark(found: Findings) -> str:
    seeds = {s.total.n for s in found.standings}
    text = "Score: mean over quantities, domains and materials, each counting the same. "
    if max(seeds, default=0) < 2:
        text += "One seed: no intervals, and the order may be chance."
    else:
        text += (
            "Small numbers: 95 % over seeds (Student). = marks models that cannot be told apart."
        )
    return text + _how_timed(found)


def _how_timed(found: Findings) -> str:
    """What else ran while models were timed, and whether one machine timed them all."""
    timed = [r for e in found.ranked for r in e.of("speed")]
    loads = [v for r in timed if (v := r.provenance.get("load_average")) is not None]
    text = f" Timed at a load of {spread(min(loads), max(loads), 2)}." if loads else ""
    machines = {describe_hardware(r.hardware) for r in timed if r.hardware}
    if len(machines) > 1:
        text += f" Times are of {len(machines)} machines and not comparable: "
        text += "; ".join(sorted(machines)) + "."
    return text


def estimate(found: Estimate | None, most: float = np.inf, digits: int = 3) -> Cell:
    """A mean and its interval, of something between 0 and `most`."""
    if found is None:
        return Cell("–", None, "not measured")
    between = ""
    if found.low is not None and found.high is not None:
        between = interval(max(found.low, 0.0), min(found.high, most), digits)
    return Cell(shown(found.mean, digits), found.mean, between)


@dataclass(frozen=True)
class HeatCell:
    """A score as a shade: `kind` is `score`, `failed` or `absent`."""

    text: str
    kind: str
    value: float = 0.0
    note: str = ""


@dataclass(frozen=True)
class HeatMap:
    """Models by quantities, in and out of distribution."""

    material: str
    quantities: list[tuple[str, list[str]]]
    rows: list[tuple[str, int, list[HeatCell]]]


def heat_map(found: Findings, material: str) -> HeatMap:
    """Scores of all models; failures show as failures."""
    tables = {name: mean_scores(found.scores, name, material) for name in DOMAINS}
    quantities = []
    for quantity in SHOWN:
        present = [n for n in DOMAINS if any(quantity in row for row in tables[n].values())]
        if present:
            quantities.append((quantity, present))
    rows = []
    for standing in found.standings:
        cells = [
            _heat_cell(found, standing.label, material, quantity, name, tables[name])
            for quantity, names in quantities
            for name in names
        ]
        rows.append((standing.label, style_of(found, standing.label), cells))
    return HeatMap(material, [(q, [DOMAINS[n][0] for n in names]) for q, names in quantities], rows)


def _heat_cell(
    found: Findings,
    label: str,
    material: str,
    quantity: str,
    name: str,
    table: dict[str, dict[str, Estimate]],
) -> HeatCell:
    value = table.get(label, {}).get(quantity)
    own = [
        s
        for s in found.scores
        if (s.label, s.material, s.quantity, s.domain) == (label, material, quantity, name)
    ]
    failures = [s for s in own if "failed" in s.note]
    if value is None:
        return HeatCell("–", "absent", note=own[0].note if own else "not measured")
    if failures and all(s.note.startswith("failed") for s in own):
        return HeatCell("failed", "failed", note=failures[0].note)
    if failures:
        note = f"{len(failures)} of {len(own)} with failures; {failures[0].split}: "
        return HeatCell(f"{value.mean:.2f}*", "score", value.mean, note + failures[0].note)
    between = estimate(value, 1.0, 2).note
    note = f"95 %: {between}" if between else "one seed: no interval"
    return HeatCell(f"{value.mean:.2f}", "score", value.mean, note)


def failures(found: Findings) -> list[tuple[str, str]]:
    """Every failure once: potential and reason, jobs first, then single simulations."""
    listed: dict[tuple[str, str], int] = {}
    for entry in found.entries:
        varied = "" if entry.study == "baseline" else f", {entry.study} {entry.value}"
        name = f"{entry.label} on {entry.material}{varied}"
        for kind, reason in entry.failures.items():
            key = (name, f"{'training' if 'train' in entry.failures else kind}: {reason}")
            listed[key] = listed.get(key, 0) + (kind == "train" or "train" not in entry.failures)
        for result in entry.results:
            if result.failure and result.indicator not in ("rdf", "adf", "pressure", "vdos"):
                key = (name, f"{result.indicator}, {result.split}: {result.failure}")
                listed[key] = listed.get(key, 0) + 1
    return [
        (name, f"{text} ({count} times)" if count > 1 else text)
        for (name, text), count in listed.items()
    ]


def unfinished(found: Findings) -> list[str]:
    """What has not been done yet, in words."""
    counts: dict[str, int] = {}
    for entry in found.entries:
        for kind in entry.unfinished:
            counts[kind] = counts.get(kind, 0) + 1
    return [f"{kind} ({count})" for kind, count in counts.items()]


def correlation_table(found: Findings) -> Table | None:
    """Correlation of EF with the scores of simulated quantities."""
    if not found.correlations:
        return None
    rows = []
    known = {(c.material, c.quantity, c.of, c.domain): c for c in found.correlations}
    for key in dict.fromkeys(key[:3] for key in known):
        material, quantity, of = key
        where = _of(material, found.materials)
        row = [Cell(f"{quantity}, {DOMAINS[of][0]}{where}", quantity)]
        for name in DOMAINS:
            match = known.get((*key, name))
            row += [_coefficient(match, "pearson"), _coefficient(match, "spearman")]
        rows.append(row)
    columns = [("score of", ""), ("EF(ID)", "Pearson"), ("EF(ID)", "Spearman")]
    columns += [("EF(OOD)", "Pearson"), ("EF(OOD)", "Spearman")]
    n = spread(*(f(c.n for c in found.correlations) for f in (min, max)))
    caption = (
        f"log EF against score over {n} models of a material: −1 if small errors mean good "
        "simulations, 0 if they say nothing. Small numbers: 95 % over resampled models."
    )
    return Table(columns, rows, caption)


def _coefficient(found: Correlation | None, name: str) -> Cell:
    if found is None:
        return Cell("–")
    value, low, high = getattr(found, name)
    return Cell(f"{shown(value, 2)}", value, interval(low, high, 2))


def cost_table(found: Findings) -> Table | None:
    """Expected and true seconds of every phase."""
    if found.plan is None:
        return None
    plan, phases = found.plan, list(dict.fromkeys(PHASES.values()))
    columns = [("model", ""), ("energy + forces", "µs/atom, batched")]
    columns += [(phase, "s, expected / true") for phase in phases]
    rows = []
    for label in [*found.labels, ""]:
        rate = plan.rates.get(label)
        row = [Cell(label or "all", label), Cell(shown(rate.inference) if rate else "")]
        for phase in phases:
            keys = plan.keys(label, phase)
            done = [key for key in keys if key in plan.true]
            true = shown(plan.total(done, true=True)) if done else "–"
            row.append(Cell(f"{shown(plan.total(keys))} / {true}" if keys else "–"))
        rows.append(row)
    return Table(columns, rows, f"Measured on {plan.hardware}; one worker.")


def anchor_table(found: Findings, material: str) -> Table:
    """Where scores 0 and 1 lie."""
    rows = [
        [
            Cell(a.quantity),
            Cell(a.split),
            Cell(f"{a.metric} ({a.unit})"),
            Cell(shown(a.floor), a.floor),
            Cell(shown(a.baseline), a.baseline),
            Cell(a.why),
        ]
        for a in found.anchors.get(material, ())
    ]
    columns = [("quantity", ""), ("set or structure", ""), ("error", ""), ("score 1", "")]
    return Table([*columns, ("score 0", ""), ("why", "")], rows)
