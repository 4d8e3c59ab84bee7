"""Scores, means, ties, correlations, fronts: against formulas written out here."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from siliforce.benchmark.collect import Entry
from siliforce.benchmark.findings import Findings
from siliforce.benchmark.graph import digest
from siliforce.benchmark.ranking import (
    Estimate,
    over_seeds,
    pareto_front,
    pearson,
    rankdata_of,
    standings,
)
from siliforce.benchmark.recommend import Needs, recommend
from siliforce.benchmark.scores import (
    Anchor,
    _error_anchors,
    anchors,
    domain,
    ideal_gas,
    random_angles,
    reference_noise,
    scores,
)
from siliforce.data import Dataset
from siliforce.errors import DataError
from siliforce.indicators.base import Metric, Result
from siliforce.indicators.eos import fit_birch_murnaghan
from siliforce.report.campaign_verdict import verdicts
from tests.unit.report.synthetic import synthetic


def test_a_score_is_linear_between_floor_and_baseline() -> None:
    anchor = Anchor("rdf", "id:a", "rdf_mae", "1", floor=0.1, baseline=0.9, why="")
    assert [anchor.score(e) for e in (0.0, 0.1, 0.5, 0.9, 2.0)] == pytest.approx([1, 1, 0.5, 0, 0])
    assert anchor.score(-0.5) == anchor.score(0.5)
    survival = Anchor("survival", "id:a", "survived_fraction", "1", 1.0, 0.0, "")
    assert [survival.score(s) for s in (0.0, 0.25, 1.0)] == [0.0, 0.25, 1.0]


def test_domains() -> None:
    assert [domain(s) for s in ("test", "id:x", "ood:y", "train", "valid")] == [
        "id", "id", "ood", "", "",
    ]  # fmt: skip


def test_featureless_distributions() -> None:
    x = 0.05 * np.arange(121)
    gas = ideal_gas(x)
    assert gas[0] == 0
    assert (gas[1:] == 1).all()
    rng = np.random.default_rng(0)
    a, b = (v / np.linalg.norm(v, axis=1)[:, None] for v in rng.normal(size=(2, 400_000, 3)))
    angles = np.degrees(np.arccos((a * b).sum(axis=1)))
    drawn = np.histogram(angles, np.arange(181))[0] / (400_000 / 180)
    expected = random_angles(np.arange(1, 181.0))
    assert expected.mean() == pytest.approx(1)
    assert np.abs(drawn - expected).max() < 0.08


def test_the_noise_of_an_equation_of_state_is_the_effect_of_one_point() -> None:
    scale = np.arange(0.97, 1.051, 0.01)
    volume = 40 * scale**3
    energy = 0.01 * (volume - 41) ** 2
    points = np.stack([scale, volume, energy], axis=1)
    exact = reference_noise(points)
    points[:, 2] += 0.01 * np.random.default_rng(0).normal(size=len(scale))
    noisy = reference_noise(points)
    assert noisy[1] > 3 * exact[1]
    whole = fit_birch_murnaghan(points[:, 1], points[:, 2]).volume
    changes = []
    for k in range(len(points)):
        rest = np.delete(points, k, axis=0)
        changes.append(fit_birch_murnaghan(rest[:, 1], rest[:, 2]).volume / whole - 1)
    assert noisy[0] == pytest.approx(100 * np.sqrt(np.mean(np.square(changes))))


def test_baselines_of_errors_follow_from_the_labels_alone(finished) -> None:
    _, opened, _, _ = finished
    material = opened.shop.material("HfO2")
    found = {(a.quantity, a.split): a for a in anchors(material)}
    test = material.sets["test"]
    forces = np.concatenate([frame.forces for frame in test])
    assert found["forces", "test"].baseline == pytest.approx(1e3 * np.sqrt((forces**2).mean()))
    assert ("energy", "ood:outside") not in found  # two frames of two elements explain themselves
    everything = Dataset.concatenate(list(material.sets.values()))
    shares = everything.counts[1] / everything.n_atoms[:, None]
    energies = everything.energies / everything.n_atoms
    rest = energies - shares @ (np.linalg.pinv(shares) @ energies)
    energy, _ = _error_anchors("test", everything, 1.0, 0.0)
    assert energy.floor == 1.0
    assert energy.baseline == pytest.approx(1e3 * np.sqrt(np.mean(rest**2)))


def entry(label: str, seed: int, error: float | None, failure: str = "") -> Entry:
    metrics = [Metric(name="rdf_mae", value=error, unit="1")]
    result = Result(indicator="rdf", model=label, split="id:a", metrics=metrics, failure=failure)
    return Entry(label, "m", seed, results=[result])


def test_failed_runs_score_zero_and_missing_ones_not_at_all() -> None:
    fixed = [Anchor("rdf", "id:a", "rdf_mae", "1", 0.0, 1.0, "")]
    assert scores(entry("a", 0, 0.25), fixed)[0].score == pytest.approx(0.75)
    failed = scores(entry("a", 0, None, "close contact after 1 ps"), fixed)[0]
    assert failed.score == 0
    assert "close contact" in failed.note
    assert scores(entry("a", 0, None), fixed)[0].score is None
    assert scores(Entry("a", "m", 0), fixed) == []
    broken = Entry("a", "m", 0, failures={"train": "diverged"})
    assert scores(broken, fixed)[0].score == 0


def test_ties_are_shown_as_ties() -> None:
    fixed = [Anchor("rdf", "id:a", "rdf_mae", "1", 0.0, 1.0, "")]
    errors = {"good": (0.10, 0.12, 0.11), "alike": (0.11, 0.13, 0.12), "bad": (0.6, 0.61, 0.62)}
    found = standings(
        [
            s
            for n, e in errors.items()
            for k, v in enumerate(e)
            for s in scores(entry(n, k, v), fixed)
        ]
    )
    assert {s.label: s.rank for s in found} == {"good": 1, "alike": 1, "bad": 3}
    one = standings([s for n, e in errors.items() for s in scores(entry(n, 0, e[0]), fixed)])
    assert [s.rank for s in one] == [1, 2, 3]
    assert one[0].total.low is None


@pytest.mark.parametrize("zero", [0.95, 0.82, 0.79, 0.74, 0.4])
def test_an_entrant_without_an_interval_moves_nobody_out_of_a_tie(zero: float) -> None:
    fixed = [Anchor("rdf", "id:a", "rdf_mae", "1", 0.0, 1.0, "")]
    points = {"A": (0.75, 0.80, 0.85), "B": (0.67, 0.73, 0.79), "zero": (zero,)}
    found = standings(
        [
            s
            for n, values in points.items()
            for k, v in enumerate(values)
            for s in scores(entry(n, k, 1 - v), fixed)
        ]
    )
    ranks = {s.label: s.rank for s in found}
    assert ranks["A"] == ranks["B"]  # 0.80 and 0.73, both ± 0.12 to 0.15
    assert ranks["zero"] == (3 if zero == 0.4 else 1)
    assert ranks["A"] == (2 if zero == 0.95 else 1)  # beyond what A's interval allows


def test_replicas_are_scored_one_by_one() -> None:
    fixed = [Anchor("rdf", "id:a", "rdf_mae", "1", 0.0, 1.0, "")]
    results = [*entry("a", 0, 0.1).results, *entry("a", 0, 0.3).results]
    results += entry("a", 0, 0.05, "close contact after 1 ps").results
    found = scores(Entry("a", "m", 0, results=results), fixed)[0]
    assert found.score == pytest.approx((0.9 + 0.7 + 0.0) / 3)
    assert found.error == pytest.approx(0.2)  # of those that have one
    assert found.note == "1 of 3 failed: close contact after 1 ps"


def test_what_is_not_finished_has_no_rank() -> None:
    fixed = [Anchor("rdf", "id:a", "rdf_mae", "1", 0.0, 1.0, "")]
    errors = {"half": 0.1, "best": 0.2, "next": 0.5}
    entries = [entry(label, 0, error) for label, error in errors.items()]
    entries[0].unfinished.append("eos")
    found = Findings("c", entries, {"m": fixed})
    ranks = [(standing.label, standing.rank) for standing in found.standings]
    assert ranks == [("best", 1), ("next", 2), ("half", None)]
    assert "Not ranked" in verdicts(found)[2].sentences[0]
    last = recommend(found, Needs(100, 1.0, 300.0))[-1]
    assert (last.label, last.rank) == ("half", None)
    assert "not finished" in last.reasons[0]


def test_intervals_over_seeds_are_students() -> None:
    values = np.array([0.3, 0.5, 0.55])
    low, high = stats.t.interval(0.95, 2, values.mean(), stats.sem(values))
    found = over_seeds(values)
    assert (found.mean, found.low, found.high) == pytest.approx((values.mean(), low, high))
    assert over_seeds([0.4]) == Estimate(0.4, None, None, 1)


def test_correlations_equal_those_of_scipy() -> None:
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(5, 9, 2))
    samples[:, 3] = samples[:, 4]  # ties
    for sample, value in zip(samples, pearson(samples), strict=True):
        assert value == pytest.approx(stats.pearsonr(*sample.T).statistic)
    for sample, value in zip(samples, pearson(rankdata_of(samples)), strict=True):
        assert value == pytest.approx(stats.spearmanr(*sample.T).statistic)


def test_made_up_campaigns_show_the_correlation_that_was_put_in() -> None:
    found = synthetic(materials=("one",), seeds=2)
    by_name = {(c.domain, c.quantity, c.of): c for c in found.correlations}
    assert by_name["id", "V0", "id"].spearman[0] < -0.95
    assert by_name["id", "V0", "id"].n == 10
    low, high = by_name["id", "V0", "id"].pearson[1:]
    assert -1 <= low < high < 0


def test_pareto_front() -> None:
    points = [(1.0, 5.0), (2.0, 3.0), (2.5, 3.5), (4.0, 1.0), (4.0, 2.0), (1.0, 5.0)]
    assert pareto_front(points) == [True, True, False, True, False, True]


def test_a_score_does_not_depend_on_who_takes_part() -> None:
    few = synthetic(models=("bpnn", "schnet"), materials=("one",), seeds=2)
    many = synthetic(materials=("one",), seeds=2)
    for label in ("bpnn", "schnet"):
        assert [s for s in few.scores if s.label == label] == [
            s for s in many.scores if s.label == label
        ]


def test_digests_tell_structures_apart() -> None:
    one, two = np.arange(6.0), np.arange(6.0).reshape(2, 3)
    assert digest(one) != digest(two)
    assert digest(one) == digest(one.copy())
    assert digest(one, two) != digest(two, one)


@pytest.mark.parametrize(
    ("failures", "said"),
    [
        ([""], "the one run as hot as this held, 9 ps;"),
        (["", ""], "all 2 runs as hot as this held, 18 ps together;"),
        (["x: y"], "the one run as hot as this failed (x);"),
        (["x: y", ""], "1 of 2 runs as hot as this failed (x);"),
    ],
)
def test_recommendations_count_runs_in_english(failures: list[str], said: str) -> None:
    runs = [
        Result(
            indicator="dynamics", model="a", split="id:a", failure=failure,
            metrics=[Metric(name="survived", value=9.0, unit="ps")],
            provenance={"config": {"temperature": 300.0}},
        )
        for failure in failures
    ]  # fmt: skip
    one = Entry("a", "m", 0, results=[*entry("a", 0, 0.1).results, *runs])
    fixed = {"m": [Anchor("rdf", "id:a", "rdf_mae", "1", 0.0, 1.0, "")]}
    choice = recommend(Findings("c", [one], fixed), Needs(100, 0.001, 300.0))[0]
    assert said in "; ".join(choice.reasons) + ";"


def test_recommendations_follow_the_needs() -> None:
    found = synthetic(materials=("one",), seeds=2)
    any_model = recommend(found, Needs(atoms=100, time=0.01, temperature=1200))
    assert any_model[0].label == "bpnn"
    assert any_model[0].rank == 1
    strict = recommend(found, Needs(atoms=100, time=0.01, temperature=1200, conserve=True))
    unfit = {c.label: c.reasons[0] for c in strict if c.rank is None}
    assert "conserve no energy" in unfit["gemnet_dt"]
    assert "conserve no energy" in unfit["scn"]
    hot = recommend(found, Needs(atoms=100, time=0.01, temperature=1800))
    schnet = next(c for c in hot if c.label == "schnet")
    assert schnet.rank is None
    assert "close contact" in schnet.reasons[0]
    hotter = recommend(found, Needs(atoms=100, time=0.01, temperature=2500))
    assert any("tested to 1800 K only" in reason for reason in hotter[0].reasons)
    long = recommend(found, Needs(atoms=100_000, time=100, temperature=1200))
    assert all(c.rank is None for c in long)
    tight = recommend(found, Needs(atoms=960, time=0.01, temperature=1200, memory=5.0))
    sizes = {label: np.mean([e.value_of("speed", "peak_memory") for e in found.of(label)])
             for label in found.labels}  # fmt: skip
    for choice in tight:
        fits = 0.35 + 10 * sizes[choice.label] <= 5.0
        assert any("for 960 atoms" in reason for reason in choice.reasons)
        assert choice.rank is None or fits
    assert any(choice.rank is not None for choice in tight)
    entries = [replace(e, trained=e.label != "bpnn") for e in found.entries]
    foreign = recommend(
        Findings("c", entries, found.anchors),
        Needs(atoms=10**7, time=1e-5, temperature=1200, memory=1.0),
    )
    told = {c.label: "; ".join(c.reasons) for c in foreign}
    assert "memory was not measured" in told["bpnn"]
    assert "neighbour search included" in told["bpnn"]
    assert "neighbour search" not in told["mace"]
    assert [c.label for c in foreign if c.rank is not None] == ["bpnn"]
    seconds = {c.label: c.seconds for c in any_model}
    speeds = [e.value_of("speed", "energy_forces") for e in found.of("mace")]
    assert seconds["mace"] == pytest.approx(1e-6 * np.mean(speeds) * 100 * 1e4)
    with pytest.raises(DataError, match="there are one"):
        recommend(found, Needs(100, 1, 300, material="two"))
