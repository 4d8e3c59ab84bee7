"""Does it reproduce? The claims of the SAMD23 paper, each held against a campaign's results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import fisher_exact

from siliforce.benchmark.estimate import Estimate, over_seeds
from siliforce.benchmark.findings import Findings
from siliforce.benchmark.ranking import pareto_front
from siliforce.benchmark.studies import Reading, Width, ef, memory, points_of, speed, widths
from siliforce.indicators.sampling import interval_95

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
    return ((label, material) for material in found.materials for label in found.trained)


def _within(found: Estimate, least: float = -np.inf, most: float = np.inf) -> str:
    """Whether a mean lies between two bounds; not decided where its interval does not tell."""
    if found.low is None or found.high is None:
        return UNDECIDED
    if least <= found.low and found.high <= most:
        return YES
    return NO if found.high < least or found.low > most else UNDECIDED


def _less(one: Estimate, other: Estimate) -> str:
    """Whether a mean is smaller than another; not decided without both intervals."""
    if one.low is None or other.low is None or one.tied(other):
        return UNDECIDED
    return YES if one.mean < other.mean else NO


def _every(verdicts: Sequence[str]) -> str:
    """Of several that all have to hold."""
    return next((v for v in (NO, UNDECIDED) if v in verdicts), YES)


def _some(verdicts: Sequence[str]) -> str:
    """Of several of which one has to hold."""
    return next((v for v in (YES, UNDECIDED) if v in verdicts), NO)


def _shown(found: Estimate, unit: str = "", digits: int = 2) -> str:
    """A mean with its interval."""
    between = ""
    if found.low is not None and found.high is not None:
        between = f" ({found.low:.{digits}f} to {found.high:.{digits}f})"
    return f"{found.mean:.{digits}f}{unit}{between}"


def _geometric(ratios: Sequence[float]) -> Estimate:
    """Mean of ratios, in which twice and half cancel."""
    found = over_seeds(np.log(ratios).tolist())
    values = (None if v is None else float(np.exp(v)) for v in (found.mean, found.low, found.high))
    mean, low, high = values
    assert mean is not None
    return Estimate(mean, low, high, found.n)


def normalisation(found: Findings) -> Answer:
    """Largest over smallest EF of the three kinds, the mean over models."""
    told, verdicts = [], []
    for split, title in (("test", "ID"), ("ood", "OOD")):
        spreads = []
        for label, material in _pairs(found):
            kinds = points_of(found, label, material, "normalisation", ef(split))
            values = [e.mean for e in kinds.values()]
            if len(values) > 1:
                spreads.append(100 * (max(values) / min(values) - 1))
        if spreads:
            mean = over_seeds(spreads)
            told.append(f"{title} {_shown(mean, ' %', 0)}, {len(spreads)} models")
            verdicts.append(_within(mean, most=100 * SMALL))
    return (_every(verdicts), f"mean spread of EF: {'; '.join(told)}") if told else (OPEN, "")


def mae_against_mse(word: str, clear: bool) -> Callable[[Findings], Answer]:
    """Whether MAE serves models better than MSE by more than `SMALL`."""

    def test(found: Findings) -> Answer:
        material = _material(found, word)
        if material is None:
            return (UNTESTABLE if found.materials else OPEN), ""
        ratios = []
        for label in found.trained:
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
        ratio = _geometric(ratios)
        text = f"EF with MAE over EF with MSE: {_shown(ratio)}, {len(ratios)} models"
        bounds = {"most": 1 - SMALL} if clear else {"least": 1 - SMALL}
        return _within(ratio, **bounds), text

    return test


def _weights(found: Findings, label: str, material: str) -> dict[float, Estimate]:
    """EF by λ_F, at the baseline's kind of loss if that was varied, else at any."""
    points = points_of(found, label, material, "loss", ef("test"))
    kinds = {value.split()[0] for value in points}
    kind = "mae" if "mae" in kinds else next(iter(kinds), "")
    return {float(v.split()[1]): e for v, e in points.items() if v.startswith(kind)}


def small_weights(found: Findings) -> Answer:
    """λ_F below 1 against λ_F = 1."""
    ratios = []
    for label, material in _pairs(found):
        curve = {weight: e.mean for weight, e in _weights(found, label, material).items()}
        below = [v for w, v in curve.items() if w < 1]
        if below and 1.0 in curve:
            ratios.append(min(below) / curve[1.0])
    if not ratios:
        return OPEN, ""
    worse = sum(r > 1 for r in ratios)
    text = f"worse for {worse} of {len(ratios)} models, EF times {_shown(_geometric(ratios))}"
    return _within(_geometric(ratios), least=1.0), text


def large_weights(found: Findings) -> Answer:
    """Whether GemNet-dT or MACE is better at some λ_F than at the largest."""
    told, verdicts = [], []
    for label, material in _pairs(found):
        curve = {w: v for w, v in _weights(found, label, material).items() if w >= 1}
        if label in (DT, "mace") and len(curve) > 1:
            *smaller, most = sorted(curve)
            verdicts.append(_some([_less(curve[w], curve[most]) for w in smaller]))
            best = min(curve, key=lambda w: curve[w].mean)
            told.append(f"{label} on {material} best at λ_F = {best:g}")
    return (_some(verdicts), "; ".join(told)) if told else (OPEN, "")


def pareto(found: Findings) -> Answer:
    """Widths of GemNet-dT that no model which is as fast beats; seeds tell how surely."""
    told, verdicts = [], []
    for material in found.materials:
        points = widths(found, material)
        own = [p for p in points if p.label == DT]
        if not own or len({p.label for p in points}) < 3:
            continue
        found_here = [
            _every([_less(p.error, rival.error) for rival in points if _as_fast(rival, p)])
            for p in own
        ]
        verdicts.append(_some(found_here) if len(own) > 1 else UNTESTABLE)
        places = [(p.time.mean, p.error.mean) for p in points]
        front = pareto_front(places)
        on = sum(best and p.label == DT for p, best in zip(points, front, strict=True))
        told.append(f"{material}: {on} of {len(own)} widths")
    if not told:
        return OPEN, ""
    text = "; ".join(told)
    if UNTESTABLE in verdicts:
        return UNTESTABLE, f"{text}, it takes several"
    return _of_paper_size(found, _every(verdicts), text)


def _as_fast(rival: Width, own: Width) -> bool:
    return rival.label != own.label and rival.time.mean <= own.time.mean


def _of_paper_size(found: Findings, verdict: str, text: str) -> Answer:
    """What holds for models of the paper's sizes is not tested by smaller ones."""
    if found.presets != ["paper"]:
        return UNTESTABLE, f"{text}, not of the paper's sizes"
    return verdict, text


def _ratio(label: str, least: float, greatest: float, with_memory: bool) -> Callable:
    def test(found: Findings) -> Answer:
        times, sizes = ([*_ratios(found, label, reading)] for reading in (speed, memory))
        if not times:
            return OPEN, ""
        verdicts = [_within(_geometric(times), least, greatest)]
        text = f"{_shown(_geometric(times), ' ×', 1)} slower"
        if with_memory and sizes:
            verdicts.append(_within(_geometric(sizes), least=1.0))
            text += f", {_shown(_geometric(sizes), ' ×', 1)} the memory"
        return _of_paper_size(found, _every(verdicts), text)

    return test


def _ratios(found: Findings, label: str, reading: Reading) -> Iterator[float]:
    """A model's reading over GemNet-dT's, of each material and seed."""
    values = {(e.label, e.material, e.seed): reading(e) for e in found.ranked if e.trained}
    for (name, material, seed), value in values.items():
        other = values.get((DT, material, seed))
        if name == label and value and other:
            yield value / other


def little_data(found: Findings) -> Answer:
    """Which models lead with 20 % of the frames."""
    told, verdicts = [], []
    for material in found.materials:
        errors = {
            label: points["0.2"]
            for label in found.trained
            if "0.2" in (points := points_of(found, label, material, "fraction", ef("test")))
        }
        best = {DT, "mace"}
        if len(errors) >= 3 and best <= set(errors):
            first = sorted(errors, key=lambda k: errors[k].mean)[:2]
            told.append(f"{material}: {first[0]}, then {first[1]}")
            others = set(errors) - best
            verdicts += [_less(errors[a], errors[b]) for a in best for b in others]
    return (_every(verdicts), "; ".join(told)) if told else (OPEN, "")


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
    ratio = _geometric(ratios["0.2"])
    text = f"EF test over training: {_shown(ratio)} at 20 %"
    if ratios["1"]:
        text += f", {_shown(_geometric(ratios['1']))} at 100 %"
    return _within(ratio, least=1 + SMALL), text


def correlation(found: Findings) -> Answer:
    """How much better EF(OOD) goes with the simulated quantities than EF(ID), over models."""
    known = {(c.material, c.quantity, c.of, c.domain): c for c in found.correlations}
    pairs = [
        (one, other)
        for (material, quantity, of, domain), one in known.items()
        if domain == "id" and (other := known.get((material, quantity, of, "ood")))
        if other.n == one.n
    ]
    if not pairs:
        return OPEN, ""
    # A good coefficient is -1: the score falls as the error grows.
    inside, outside = (-np.mean([pair[k].spearman[0] for pair in pairs]) for k in (0, 1))
    gains = np.nanmean([one.samples - other.samples for one, other in pairs], axis=0)
    gain = Estimate(float(outside - inside), *interval_95(gains), pairs[0][0].n)
    text = f"mean Spearman coefficient: OOD {outside:.2f}, ID {inside:.2f}"
    return _within(gain, least=0.0), f"{text}; difference {_shown(gain)} over {gain.n} models"


def close_contacts(found: Findings) -> Answer:
    """Runs of Allegro that ended with atoms on top of each other, and of the others."""
    counts: dict[bool, list[bool]] = {True: [], False: []}
    for entry in found.ranked:
        for result in entry.of("dynamics") if entry.trained else []:
            counts[entry.label == "allegro"].append(result.failure.startswith("close contact"))
    if not counts[True] or not counts[False]:
        return OPEN, ""
    text = ", ".join(
        f"{name} {sum(counts[own])} of {len(counts[own])} runs"
        for own, name in ((True, "Allegro"), (False, "others"))
    )
    table = [[sum(counts[own]), len(counts[own]) - sum(counts[own])] for own in (True, False)]
    more, fewer = (
        float(fisher_exact(table, alternative=side).pvalue) for side in ("greater", "less")
    )
    verdict = YES if more < 0.05 else NO if fewer < 0.05 else UNDECIDED
    return verdict, f"{text} (p = {min(more, fewer):.2g}, Fisher)"


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
        f"have done it, *{UNTESTABLE}* where none of our data can tell, or where it takes models",
        f"of the paper's sizes or several widths, or *{OPEN}*. Ranges are 95 %: over models, or",
        "over seeds where models are compared; one seed then decides nothing. Nothing here was",
        "entered by hand, and small presets at small budgets say what these do.",
        "The whole paper is `siliforce benchmark configs/reproduce/samd23.yaml`, once its data are",
        "at hand.",
        "",
    ]
    if not campaigns:
        lines += ["No campaign has been measured yet.", ""]
    for found in campaigns:
        seeds = len({entry.seed for entry in found.ranked})
        times = f"{seeds} seed{'s' * (seeds > 1)}"
        sizes = f"preset {', '.join(found.presets)}" if found.presets else "presets not known"
        about = f"{len(found.trained)} models, {', '.join(found.materials)}, {times}, {sizes}"
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
