"""Does it reproduce? The claims of the SAMD23 paper, each held against a campaign's results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import fisher_exact

from siliforce.benchmark.findings import Findings
from siliforce.benchmark.ranking import pareto_front
from siliforce.benchmark.studies import baseline_of, ef, memory, points_of, speed, widths

YES, NO, OPEN, UNTESTABLE = "yes", "no", "not yet measured", "not testable here"
UNDECIDED = "not decided"
SMALL = 0.10
"""Relative difference of EF that hardly matters."""
DT, T = "gemnet_dt", "gemnet_t"

Answer = tuple[str, str]


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper.

    Attributes:
        text: what it says.
        needs: the part of a campaign that tests it.
        test: verdict and our number, of a campaign's findings.
    """

    text: str
    needs: str
    test: Callable[[Findings], Answer]


def _material(found: Findings, word: str) -> str | None:
    """The material whose name holds a word, whatever its case."""
    return next((m for m in found.materials if word.lower() in m.lower()), None)


def _pairs(found: Findings) -> Iterator[tuple[str, str]]:
    return ((label, material) for material in found.materials for label in found.labels)


def normalisation(found: Findings) -> Answer:
    """Largest over smallest EF of the three kinds, the median over models."""
    told, verdict = [], YES
    for split, title in (("test", "ID"), ("ood", "OOD")):
        spreads = []
        for label, material in _pairs(found):
            kinds = points_of(found, label, material, "normalisation", ef(split))
            values = [e.mean for e in kinds.values()]
            if len(values) > 1:
                spreads.append(max(values) / min(values) - 1)
        if spreads:
            told.append(f"{title} {100 * np.median(spreads):.0f} % ({len(spreads)} models)")
            verdict = NO if np.median(spreads) > SMALL else verdict
    return (verdict, f"median spread of EF: {', '.join(told)}") if told else (OPEN, "")


def mae_against_mse(word: str, clear: bool) -> Callable[[Findings], Answer]:
    """Share of models that MAE serves better than MSE by more than `SMALL`."""

    def test(found: Findings) -> Answer:
        material = _material(found, word)
        if material is None:
            return (UNTESTABLE if found.materials else OPEN), ""
        ratios = []
        for label in found.labels:
            points = points_of(found, label, material, "loss", ef("test"))
            both = [
                (points[f"mae {w}"].mean, points[f"mse {w}"].mean)
                for w in sorted({v.split()[1] for v in points})
                if f"mae {w}" in points and f"mse {w}" in points
            ]
            if both:
                ratios.append(min(a for a, _ in both) / min(b for _, b in both))
        if not ratios:
            return OPEN, ""
        better = np.median(ratios) < 1 - SMALL
        text = f"EF with MAE over EF with MSE: {np.median(ratios):.2f} (median, {len(ratios)})"
        return (YES if better == clear else NO), text

    return test


def _weights(found: Findings, label: str, material: str) -> dict[float, float]:
    """EF by λ_F, at the baseline's kind of loss if that was varied, else at any."""
    points = points_of(found, label, material, "loss", ef("test"))
    kinds = {value.split()[0] for value in points}
    kind = "mae" if "mae" in kinds else next(iter(kinds), "")
    return {float(v.split()[1]): e.mean for v, e in points.items() if v.startswith(kind)}


def small_weights(found: Findings) -> Answer:
    """λ_F below 1 against λ_F = 1."""
    ratios = []
    for label, material in _pairs(found):
        curve = _weights(found, label, material)
        below = [v for w, v in curve.items() if w < 1]
        if below and 1.0 in curve:
            ratios.append(min(below) / curve[1.0])
    if not ratios:
        return OPEN, ""
    worse = sum(r > 1 for r in ratios)
    return (YES if worse > 0.8 * len(ratios) else NO), f"worse for {worse} of {len(ratios)} models"


def large_weights(found: Findings) -> Answer:
    """Whether GemNet-dT or MACE is best below the largest λ_F."""
    told = []
    for label, material in _pairs(found):
        curve = {w: v for w, v in _weights(found, label, material).items() if w >= 1}
        if label in (DT, "mace") and len(curve) > 1:
            told.append((label, material, min(curve, key=lambda w: curve[w]), max(curve)))
    if not told:
        return OPEN, ""
    text = "; ".join(f"{label} on {m} best at λ_F = {best:g}" for label, m, best, _ in told)
    return (YES if any(best < most for *_, best, most in told) else NO), text


def pareto(found: Findings) -> Answer:
    """Widths of GemNet-dT that no other model beats in both."""
    told, verdict = [], OPEN
    for material in found.materials:
        points = widths(found, material)
        if not any(p[0] == DT for p in points) or len({p[0] for p in points}) < 3:
            continue
        front = pareto_front([(x, y) for _, _, x, y in points])
        on = [
            w for (label, w, _, _), best in zip(points, front, strict=True) if best and label == DT
        ]
        told.append(f"{material}: {len(on)} of {sum(p[0] == DT for p in points)} widths")
        verdict = YES if on and verdict != NO else NO
    return verdict, "; ".join(told)


def _ratio(label: str, least: float, greatest: float, with_memory: bool) -> Callable:
    def test(found: Findings) -> Answer:
        ratios, sizes = [], []
        for material in found.materials:
            pair = [baseline_of(found, m, material, speed) for m in (label, DT)]
            if pair[0] and pair[1]:
                ratios.append(pair[0] / pair[1])
            room = [baseline_of(found, m, material, memory) for m in (label, DT)]
            if room[0] and room[1]:
                sizes.append(room[0] / room[1])
        if not ratios:
            return OPEN, ""
        held = least <= np.mean(ratios) <= greatest
        text = f"{np.mean(ratios):.1f} × slower"
        if with_memory and sizes:
            held = held and np.mean(sizes) > 1
            text += f", {np.mean(sizes):.1f} × the memory"
        return (YES if held else NO), text

    return test


def little_data(found: Findings) -> Answer:
    """Which models lead with 20 % of the frames."""
    told, verdict = [], OPEN
    for material in found.materials:
        errors = {
            label: points["0.2"].mean
            for label in found.labels
            if "0.2" in (points := points_of(found, label, material, "fraction", ef("test")))
        }
        if len(errors) >= 3 and {DT, "mace"} <= set(errors):
            first = sorted(errors, key=lambda k: errors[k])[:2]
            told.append(f"{material}: {first[0]}, then {first[1]}")
            verdict = YES if set(first) == {DT, "mace"} and verdict != NO else NO
    return verdict, "; ".join(told)


def overfitting(found: Findings) -> Answer:
    """Test over training EF with 20 % of the frames, and with all."""
    ratios: dict[str, list[float]] = {"0.2": [], "1": []}
    for label, material in _pairs(found):
        test = points_of(found, label, material, "fraction", ef("test"))
        seen = points_of(found, label, material, "fraction", ef("train"))
        for share, values in ratios.items():
            if share in test and share in seen:
                values.append(test[share].mean / seen[share].mean)
    if not ratios["0.2"]:
        return OPEN, ""
    text = f"EF test over training: {np.median(ratios['0.2']):.2f} at 20 %"
    if ratios["1"]:
        text += f", {np.median(ratios['1']):.2f} at 100 %"
    return (YES if np.median(ratios["0.2"]) > 1 + SMALL else NO), text


def correlation(found: Findings) -> Answer:
    """Mean Spearman coefficient of EF(OOD) and of EF(ID) with the simulated quantities."""
    strength: dict[str, list[float]] = {"id": [], "ood": []}
    for one in found.correlations:
        strength[one.domain].append(-one.spearman[0])
    if not strength["id"] or not strength["ood"]:
        return OPEN, ""
    inside, outside = (float(np.mean(strength[d])) for d in ("id", "ood"))
    text = f"mean Spearman coefficient: OOD {outside:.2f}, ID {inside:.2f}"
    return (YES if outside > inside else NO), text


def close_contacts(found: Findings) -> Answer:
    """Runs of Allegro that ended with atoms on top of each other, and of the others."""
    counts: dict[bool, list[bool]] = {True: [], False: []}
    for entry in found.ranked:
        for result in entry.of("dynamics"):
            counts[entry.label == "allegro"].append(result.failure.startswith("close contact"))
    if not counts[True] or not counts[False]:
        return OPEN, ""
    text = ", ".join(
        f"{name} {sum(counts[own])} of {len(counts[own])} runs"
        for own, name in ((True, "Allegro"), (False, "others"))
    )
    if np.mean(counts[True]) <= np.mean(counts[False]):
        return NO, text
    table = [[sum(counts[own]), len(counts[own]) - sum(counts[own])] for own in (True, False)]
    chance = float(fisher_exact(table, alternative="greater").pvalue)
    return (YES if chance < 0.05 else UNDECIDED), f"{text} (p = {chance:.2g}, Fisher)"


CLAIMS: Sequence[Claim] = (
    Claim("Normalisation hardly matters, even OOD", "normalisations", normalisation),
    Claim("MAE beats MSE on SiN", "losses", mae_against_mse("SiN", True)),
    Claim("MAE does not clearly beat MSE on HfO", "losses", mae_against_mse("HfO", False)),
    Claim("λ_F < 1 is worse", "force_weights", small_weights),
    Claim("More λ_F is not always better (GemNet-dT, MACE)", "force_weights", large_weights),
    Claim("GemNet-dT is on the Pareto front", "widths", pareto),
    Claim(
        "GemNet-T is 2.2 times slower than GemNet-dT, with more memory",
        "speed",
        _ratio(T, 1.8, 2.7, True),
    ),
    Claim(
        "SCN is more than 10 times slower than GemNet-dT", "speed", _ratio("scn", 10, np.inf, False)
    ),
    Claim("GemNet-dT and MACE are best with 20 % of the data", "fractions", little_data),
    Claim("At 20 % of the data, training EF is below test EF", "fractions", overfitting),
    Claim(
        "EF(OOD) correlates better with the indicators than EF(ID)", "all indicators", correlation
    ),
    Claim("Allegro's runs end in close contacts", "survival", close_contacts),
)


def reproduction_page(campaigns: Sequence[Findings]) -> str:
    """The page *Does it reproduce?* in Markdown, from any number of campaigns."""
    lines = [
        "# Does it reproduce?",
        "",
        "Claims of the SAMD23 paper (Kim et al., NeurIPS 2023 Datasets and Benchmarks), each held",
        "against our own campaigns. This page is written by `python tools/reproduce.py FOLDER ...`",
        f"from the results of campaigns; a verdict is {YES}, {NO}, {UNDECIDED} where chance could",
        f"have done it, *{UNTESTABLE}* where none of our data can tell, or *{OPEN}*.",
        "Nothing here was entered by hand, and small presets at small budgets say what these do.",
        "The whole paper is `siliforce benchmark configs/reproduce/samd23.yaml`, once its data are",
        "at hand.",
        "",
    ]
    if not campaigns:
        lines += ["No campaign has been measured yet.", ""]
    for found in campaigns:
        seeds = len({entry.seed for entry in found.ranked})
        times = f"{seeds} seed{'s' * (seeds > 1)}"
        about = f"{len(found.labels)} models, {', '.join(found.materials)}, {times}"
        hardware = f", {found.plan.hardware}" if found.plan else ""
        lines += [f"- **{found.name}**: {about}{hardware}"]
    if campaigns:
        lines.append("")
    heads = [found.name for found in campaigns] or ["verdict"]
    lines += [f"| claim | tested by | {' | '.join(heads)} |", "|" + "---|" * (len(heads) + 2)]
    for claim in CLAIMS:
        answers = [claim.test(found) for found in campaigns] or [(OPEN, "")]
        cells = [f"**{verdict}**: {text}" if text else verdict for verdict, text in answers]
        lines.append(f"| {claim.text} | `{claim.needs}` | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])
