"""Verdicts on the paper's claims: made-up results whose answers are known."""

from __future__ import annotations

from pathlib import Path

import pytest
from scipy.stats import fisher_exact

from siliforce.benchmark.claims import CLAIMS, NO, OPEN, UNDECIDED, YES, reproduction_page
from siliforce.benchmark.collect import Entry
from siliforce.benchmark.findings import Findings
from siliforce.indicators.base import Result
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
    assert found["λ_F < 1 is worse"] == (YES, "worse for 20 of 20 models")
    assert found["SCN is more than 10 times slower than GemNet-dT"][0] == NO
    assert found["GemNet-dT and MACE are best with 20 % of the data"][0] == NO
    assert found["At 20 % of the data, training EF is below test EF"] == (
        YES, "EF test over training: 1.25 at 20 %, 1.25 at 100 %",
    )  # fmt: skip
    chance = fisher_exact([[2, 10], [8, 100]], alternative="greater").pvalue
    contacts = f"Allegro 2 of 12 runs, others 8 of 108 runs (p = {chance:.2g}, Fisher)"
    assert chance > 0.05
    assert found["Allegro's runs end in close contacts"] == (UNDECIDED, contacts)


@pytest.mark.parametrize(("failed", "verdict"), [(0, NO), (1, UNDECIDED), (4, YES)])
def test_close_contacts_of_allegro_are_held_against_chance(failed, verdict) -> None:
    def runs(label: str, bad: int, count: int) -> Entry:
        reasons = ["close contact after 1 ps"] * bad + [""] * (count - bad)
        results = [
            Result(indicator="dynamics", model=label, split="id:a", metrics=[], failure=reason)
            for reason in reasons
        ]
        return Entry(label, "m", 0, results=results)

    found = Findings("c", [runs("allegro", failed, 4), runs("mace", 9, 40)], {})
    assert verdicts(found)["Allegro's runs end in close contacts"][0] == verdict


def test_the_page_of_the_docs_has_every_claim_and_says_where_it_comes_from() -> None:
    page = (DOCS / "reproduce.md").read_text()
    for claim in CLAIMS:
        assert f"| {claim.text} |" in page
    assert "tools/reproduce.py" in page
