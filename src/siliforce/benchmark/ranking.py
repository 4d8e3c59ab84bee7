"""What scores say together: means over seeds, ranks with ties, correlations, Pareto fronts."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np
from scipy.stats import rankdata

from siliforce.benchmark.collect import Entry, baselines
from siliforce.benchmark.estimate import Estimate, over_seeds
from siliforce.benchmark.scores import SHOWN, Score
from siliforce.indicators.sampling import interval_95

RESAMPLES = 1000
MIN_POINTS = 4
"""Fewer models than this say nothing about a correlation."""


@dataclass(frozen=True)
class Standing:
    """A model's place.

    Attributes:
        rank: 1 is best; models that cannot be told from the first of their group share it. None
            while parts of its measurements are to come.
        total: mean over quantities, domains and materials.
        domains: the same for `id` and `ood` alone.
        missing: quantities that others have and this one has not.
    """

    label: str
    rank: int | None
    total: Estimate
    domains: dict[str, Estimate]
    missing: list[str]


def mean_scores(
    scores: Sequence[Score], domain: str = "", material: str = ""
) -> dict[str, dict[str, Estimate]]:
    """By model and quantity: mean over splits (and materials), then over seeds."""
    table: dict[str, dict[str, Estimate]] = {}
    for label in dict.fromkeys(score.label for score in scores):
        row = {}
        for quantity in SHOWN:
            chosen = [
                s
                for s in scores
                if s.label == label
                and s.quantity == quantity
                and s.score is not None
                and s.domain == (domain or s.domain)
                and s.material == (material or s.material)
            ]
            by_seed = [_mean([s for s in chosen if s.seed == n]) for n in _seeds(chosen)]
            if by_seed:
                row[quantity] = over_seeds(by_seed)
        table[label] = row
    return table


def standings(scores: Sequence[Score], unfinished: Container[str] = ()) -> list[Standing]:
    """Models from best to worst; ties share a rank, `unfinished` ones follow without one."""
    totals = {label: _total(scores, label) for label in dict.fromkeys(s.label for s in scores)}
    known = {(s.material, s.domain, s.quantity) for s in scores if s.score is not None}
    measured = [label for label in totals if totals[label] is not None]
    order = sorted(measured, key=lambda x: (x in unfinished, -_of(totals, x).mean))
    ranks = _ranks([_of(totals, label) for label in order if label not in unfinished])
    found: list[Standing] = []
    for place, label in enumerate(order):
        total, rank = _of(totals, label), ranks[place] if place < len(ranks) else None
        own = {
            (s.material, s.domain, s.quantity)
            for s in scores
            if s.label == label and s.score is not None
        }
        missing = [" ".join(part for part in what if part) for what in sorted(known - own)]
        domains = {d: e for d in ("id", "ood") if (e := _total(scores, label, d)) is not None}
        found.append(Standing(label, rank, total, domains, missing))
    return found


def _ranks(totals: Sequence[Estimate]) -> list[int]:
    """Ranks of totals from best to worst: those that cannot be told from a group's first share it.

    One without an interval (one seed, a calculator) is no group's first as long as others have
    one: it cannot come between models that are tied without it.
    """
    ranks: list[int] = []
    first: tuple[Estimate, int] | None = None
    for place, total in enumerate(totals, start=1):
        if first is not None and first[0].tied(total):
            ranks.append(first[1])
            continue
        alone = place > 1 and totals[place - 2].low is None and totals[place - 2].tied(total)
        ranks.append(ranks[-1] if alone else place)
        if total.low is not None:
            first = total, ranks[-1]
    return np.minimum.accumulate(ranks[::-1])[::-1].tolist()


def _of(totals: dict[str, Estimate | None], label: str) -> Estimate:
    found = totals[label]
    assert found is not None
    return found


def _total(scores: Sequence[Score], label: str, domain: str = "") -> Estimate | None:
    """Every quantity of every material and domain counts the same, whatever its splits."""
    own = [s for s in scores if s.label == label and s.score is not None]
    own = [s for s in own if s.domain == (domain or s.domain)]
    by_seed = []
    for seed in _seeds(own):
        cells: dict[tuple[str, str, str], list[Score]] = {}
        for score in own:
            if score.seed == seed:
                cells.setdefault((score.material, score.domain, score.quantity), []).append(score)
        by_seed.append(float(np.mean([_mean(cell) for cell in cells.values()])))
    return over_seeds(by_seed) if by_seed else None


def _seeds(scores: Sequence[Score]) -> list[int]:
    return list(dict.fromkeys(score.seed for score in scores))


def _mean(scores: Sequence[Score]) -> float:
    return float(np.mean([s.score for s in scores]))


@dataclass(frozen=True)
class Correlation:
    """How an indicator's score goes with EF, over a material's models: -1 is what one hopes for.

    Attributes:
        domain: of EF: `id` or `ood`.
        quantity: whose score, in `of` (`id`, `ood`).
        pearson, spearman: value, low, high (95 % over resampled models).
        n: models.
        samples: Spearman's coefficient of resampled models, the same ones in all correlations of
            the same models, so that differences can be told from chance.
    """

    material: str
    domain: str
    quantity: str
    of: str
    pearson: tuple[float, float | None, float | None]
    spearman: tuple[float, float | None, float | None]
    n: int
    samples: np.ndarray = field(compare=False, repr=False)


def correlations(entries: Sequence[Entry], scores: Sequence[Score]) -> list[Correlation]:
    """EF in and out of distribution against every simulated quantity; seeds are averaged."""
    found = []
    simulated = [q for q in SHOWN if q not in ("energy", "forces")]
    materials = dict.fromkeys(entry.material for entry in entries)
    for material, domain in product(materials, ("id", "ood")):
        errors = _ef([e for e in entries if e.material == material], domain)
        for of, quantity in product(("id", "ood"), simulated):
            pairs = [
                (error, float(np.mean(values)))
                for label, error in errors.items()
                if (values := _scores_of(scores, (label, material), quantity, of))
            ]
            correlation = _correlation(material, domain, quantity, of, pairs)
            if correlation is not None:
                found.append(correlation)
    return found


def _ef(entries: Sequence[Entry], domain: str) -> dict[str, float]:
    """log10 of EF by model, mean over splits and seeds; trained models only."""
    found: dict[str, list[float]] = {}
    for entry in baselines(entries):
        for result in entry.of("errors") if entry.trained else []:
            inside = result.split == "test" if domain == "id" else result.split.startswith("ood")
            value = result.value("ef")
            if inside and value:
                found.setdefault(entry.label, []).append(float(np.log10(value)))
    return {key: float(np.mean(values)) for key, values in found.items()}


def _scores_of(
    scores: Sequence[Score], key: tuple[str, str], quantity: str, domain: str
) -> list[float]:
    return [
        s.score
        for s in scores
        if (s.label, s.material) == key
        and s.quantity == quantity
        and s.domain == domain
        and s.score is not None
    ]


def _correlation(
    material: str, domain: str, quantity: str, of: str, pairs: Sequence[tuple[float, float]]
) -> Correlation | None:
    """None where there are too few points, or all are alike."""
    points = np.array(pairs)
    if len(pairs) < MIN_POINTS or np.ptp(points, axis=0).min() == 0:
        return None
    rng = np.random.default_rng(0)
    drawn = rng.integers(len(pairs), size=(RESAMPLES, len(pairs)))
    values = []
    for prepare in (np.asarray, rankdata_of):
        samples = pearson(prepare(points[drawn]))
        low, high = interval_95(samples)
        values.append((float(pearson(prepare(points[None]))[0]), low, high))
    pearsons, spearmans = values
    return Correlation(material, domain, quantity, of, pearsons, spearmans, len(pairs), samples)


def rankdata_of(points: np.ndarray) -> np.ndarray:
    """Ranks of each coordinate, ties sharing their mean: Pearson of them is Spearman's."""
    return rankdata(points, axis=-2)


def pearson(points: np.ndarray) -> np.ndarray:
    """Correlation of the two columns of (n_samples, n_points, 2); NaN where one is constant."""
    x, y = np.moveaxis(points - points.mean(axis=-2, keepdims=True), -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (x * y).sum(-1) / np.sqrt((x * x).sum(-1) * (y * y).sum(-1))


def pareto_front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Whether no other point is at least as good in both and better in one; smaller is better."""
    return [
        not any(a <= x and b <= y and (a, b) != (x, y) for j, (a, b) in enumerate(points) if j != i)
        for i, (x, y) in enumerate(points)
    ]
