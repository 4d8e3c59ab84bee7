"""Verdicts on the paper's claims: made-up results whose answers are known."""

from __future__ import annotations

from pathlib import Path

from siliforce.benchmark.claims import CLAIMS, NO, OPEN, YES, reproduction_page
from siliforce.benchmark.findings import Findings
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
    contacts = "Allegro 2 of 12 runs, others 8 of 108 runs"
    assert found["Allegro's runs end in close contacts"] == (YES, contacts)


def test_the_page_of_the_docs_has_every_claim_and_says_where_it_comes_from() -> None:
    page = (DOCS / "reproduce.md").read_text()
    for claim in CLAIMS:
        assert f"| {claim.text} |" in page
    assert "tools/reproduce.py" in page
