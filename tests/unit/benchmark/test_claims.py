"""Verdicts on the paper's claims: made-up results whose answers are known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import fisher_exact

from siliforce.benchmark.claims import (
    CLAIMS,
    NO,
    OPEN,
    UNDECIDED,
    UNTESTABLE,
    YES,
    reproduction_page,
)
from siliforce.benchmark.collect import Entry
from siliforce.benchmark.findings import Findings
from siliforce.benchmark.scores import Anchor
from siliforce.benchmark.studies import widths
from siliforce.indicators.base import Metric, Result
from tests.unit.report.synthetic import synthetic

DOCS = Path(__file__).resolve().parents[3] / "docs"


def verdicts(found: Findings) -> dict[str, tuple[str, str]]:
    return {claim.text: claim.test(found) for claim in CLAIMS}


def test_nothing_is_claimed_before_it_is_measured() -> None:
    empty = Findings("empty", [], {})
    assert {verdict for verdict, _ in verdicts(empty).values()} == {OPEN}
    assert reproduction_page([]).count(OPEN) == len(CLAIMS) + 1
    assert "No campaign has been measured yet" in reproduction_page([])


def test_verdicts_follow_from_the_numbers() -> None:
    found = verdicts(synthetic(seeds=2))
    assert found["Normalisation hardly matters, even OOD"][0] == YES  # 5 % was put in
    assert "ID 5 %" in found["Normalisation hardly matters, even OOD"][1]
    assert found["MAE beats MSE on SiN"][0] == YES  # a factor of 1.2
    assert found["MAE does not clearly beat MSE on HfO"][0] == NO
    assert "0.83" in found["MAE beats MSE on SiN"][1]
    assert found["λ_F < 1 is worse"] == (
        YES, "worse for 20 of 20 models, EF times 1.18 (1.18 to 1.18)",
    )  # fmt: skip
    assert found["SCN is more than 10 times slower than GemNet-dT"][0] == UNTESTABLE
    assert found["GemNet-dT and MACE are best with 20 % of the data"][0] == NO
    assert found["At 20 % of the data, training EF is below test EF"] == (
        YES, "EF test over training: 1.25 (1.25 to 1.25) at 20 %, 1.25 (1.25 to 1.25) at 100 %",
    )  # fmt: skip
    chance = fisher_exact([[2, 10], [8, 100]], alternative="greater").pvalue
    contacts = f"Allegro 2 of 12 runs, others 8 of 108 runs (p = {chance:.2g}, Fisher)"
    assert chance > 0.05
    assert found["Allegro's runs end in close contacts"] == (UNDECIDED, contacts)


def of_size(found: Findings, preset: str) -> Findings:
    entries = [replace(entry, preset=preset) for entry in found.entries]
    return Findings(found.name, entries, found.anchors)


def test_speed_and_pareto_are_tested_by_models_of_the_papers_sizes_alone() -> None:
    made_up = synthetic(materials=("one",), seeds=3)
    slow = "SCN is more than 10 times slower than GemNet-dT"
    front = "GemNet-dT is on the Pareto front"
    small, paper = verdicts(of_size(made_up, "small")), verdicts(of_size(made_up, "paper"))
    assert small[slow][0] == small[front][0] == UNTESTABLE
    assert "not of the paper's sizes" in small[slow][1]
    assert paper[slow][0] == NO  # the tenth of the made-up models is the fastest
    assert paper[front][0] in (YES, UNDECIDED)  # slower ones are better, and nobody is both
    one_width = [e for e in made_up.entries if e.study != "width"]
    found = verdicts(of_size(Findings("c", one_width, made_up.anchors), "paper"))
    assert found[front][0] == UNTESTABLE
    assert "it takes several" in found[front][1]


def test_one_seed_or_one_model_decides_nothing() -> None:
    one_seed = verdicts(of_size(synthetic(materials=("one",), seeds=1), "paper"))
    for text in (
        "GemNet-dT is on the Pareto front",
        "GemNet-T is 2.2 times slower than GemNet-dT, with more memory",
        "SCN is more than 10 times slower than GemNet-dT",
        "More λ_F is not always better (GemNet-dT, MACE)",
        "GemNet-dT and MACE are best with 20 % of the data",
    ):
        assert one_seed[text][0] == UNDECIDED
    one_model = verdicts(synthetic(models=("mace",), materials=("SiN",), seeds=1))
    for text in ("MAE beats MSE on SiN", "λ_F < 1 is worse"):
        assert one_model[text][0] == UNDECIDED


def correlated(better: float) -> Findings:
    """Ten models whose RDF follows EF(ID) loosely, and EF(OOD) as closely as is said."""
    rng = np.random.default_rng(3)
    truth = np.linspace(0.1, 0.9, 10)
    fixed = {"m": [Anchor("rdf", "id:a", "rdf_mae", "1", 0.0, 1.0, "")]}
    entries = []
    for k, error in enumerate(truth):
        noise = rng.normal(size=2)
        values = {"test": noise[0], "ood:x": 3 * better * error + (1 - better) * noise[1]}
        results = [
            Result(
                indicator="errors", model="m", split=split,
                metrics=[Metric(name="ef", value=float(np.exp(v)), unit="")],
            )
            for split, v in values.items()
        ]  # fmt: skip
        metric = Metric(name="rdf_mae", value=float(error), unit="1")
        results.append(Result(indicator="rdf", model="m", split="id:a", metrics=[metric]))
        entries.append(Entry(f"model{k}", "m", 0, results=results))
    return Findings("c", entries, fixed)


@pytest.mark.parametrize(("better", "verdict"), [(1.0, YES), (0.0, UNDECIDED)])
def test_correlations_are_compared_with_their_chance(better: float, verdict: str) -> None:
    text = "EF(OOD) correlates better with the indicators than EF(ID)"
    assert verdicts(correlated(better))[text][0] == verdict


def test_correlations_stay_within_a_material() -> None:
    apart = synthetic(materials=("one", "two"), seeds=2)
    alone = synthetic(materials=("one",), seeds=2)
    assert [c for c in apart.correlations if c.material == "one"] == alone.correlations
    assert {c.n for c in apart.correlations} == {10}


def test_calculators_that_were_not_trained_here_are_no_rivals() -> None:
    found = synthetic(models=("gemnet_dt", "mace", "scn"), materials=("one",), seeds=2)
    foreign = [
        replace(entry, label="foreign", trained=False)
        for entry in found.ranked
        if entry.label == "mace"
    ]
    more = Findings("c", [*found.entries, *foreign], found.anchors)
    assert widths(more, "one") == widths(found, "one")
    assert verdicts(more) == verdicts(found)


@pytest.mark.parametrize(
    ("failed", "of", "verdict"),
    [(0, 4, UNDECIDED), (1, 4, UNDECIDED), (4, 4, YES), (0, 40, NO)],
)
def test_close_contacts_of_allegro_are_held_against_chance(failed, of, verdict) -> None:
    def runs(label: str, bad: int, count: int) -> Entry:
        reasons = ["close contact after 1 ps"] * bad + [""] * (count - bad)
        results = [
            Result(indicator="dynamics", model=label, split="id:a", metrics=[], failure=reason)
            for reason in reasons
        ]
        return Entry(label, "m", 0, results=results)

    found = Findings("c", [runs("allegro", failed, of), runs("mace", 9, 40)], {})
    assert verdicts(found)["Allegro's runs end in close contacts"][0] == verdict


def test_the_page_of_the_docs_has_every_claim_and_says_where_it_comes_from() -> None:
    page = (DOCS / "reproduce.md").read_text()
    for claim in CLAIMS:
        assert f"| {claim.text} |" in page
    assert "tools/reproduce.py" in page
