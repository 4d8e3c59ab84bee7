"""The report of a campaign: made-up results, so that every kind of content is there."""

from __future__ import annotations

import csv
import io
import re
from html.parser import HTMLParser

import pytest

from siliforce.benchmark.collect import Entry
from siliforce.benchmark.findings import Findings
from siliforce.benchmark.scores import Anchor
from siliforce.indicators.base import Metric, Result
from siliforce.report.campaign import render_campaign, scores_csv
from siliforce.report.campaign_tables import heat_map, ranking
from siliforce.report.campaign_verdict import verdicts
from siliforce.report.radar import radar
from tests.unit.report.synthetic import synthetic

FEW = ("bpnn", "schnet", "gemnet_dt", "dpa1", "allegro")


@pytest.fixture(scope="module")
def page() -> str:
    return render_campaign(synthetic(models=FEW, materials=("one",)))


def test_the_page_is_complete_and_needs_no_network(page: str) -> None:
    for section in ("ranking", "verdicts", "rdf", "adf", "V0", "B0", "pec", "survival"):
        assert f'<section id="{section}">' in page
    for title in ("Accuracy against time", "Learning curves", "Loss", "Normalisation"):
        assert f"<h2>{title}</h2>" in page
    assert "src=" not in page
    assert "http" not in page.replace("http-equiv", "")
    for link in re.findall(r'href="#([^"]+)"', page):
        assert f'id="{link}"' in page
    body = page.partition("<body>")[2].partition("<script>")[0]
    assert not re.search(r"\bnan\b", body)


def test_every_score_stands_in_the_table() -> None:
    found = synthetic(models=FEW, materials=("one",))
    rows = list(csv.DictReader(io.StringIO(scores_csv(found))))
    assert len(rows) == len(found.scores) > 0
    anchors = {(a.quantity, a.split): a for a in found.anchors["one"]}
    scored = [row for row in rows if row["value"] and row["score"]]
    assert {row["model"] for row in scored} == set(FEW)
    for row in scored:
        anchor = anchors[row["quantity"], row["split"]]
        assert row["unit"] == anchor.unit
        assert anchor.score(float(row["value"])) == pytest.approx(float(row["score"]))
    for row in rows:
        assert row["value"] or row["note"]


def test_its_tags_are_balanced(page: str) -> None:
    stack: list[str] = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            if tag not in ("meta", "path", "br"):
                stack.append(tag)

        def handle_endtag(self, tag: str) -> None:
            if tag != "path":
                assert stack.pop() == tag

    Parser().feed(page)
    assert stack == []


def test_failures_are_shown_as_failures(page: str) -> None:
    assert '<td class="failed"' in page
    assert "close contact after 1.200 ps" in page
    assert "the loss diverged 3 times" in page


def test_one_profile_for_each_model(page: str) -> None:
    assert page.count('aria-label="Scores of') == len(FEW)


def test_verdicts_say_what_was_found() -> None:
    found = {v.label: v for v in verdicts(synthetic(models=FEW, materials=("one",)))}
    assert "usable for NVT to 1800 K" in found["bpnn"].sentences[0]
    assert found["bpnn"].grade == "good"
    assert "1200 K" in found["schnet"].sentences[0]
    assert "3 of 3 runs failed" in found["schnet"].sentences[0]
    assert re.search(
        r"volume [\d.]+ % too large out of distribution", found["allegro"].sentences[0]
    )
    assert any("Conserves no energy" in s for s in found["gemnet_dt"].sentences)
    assert "the loss diverged" in " ".join(found["dpa1"].sentences)


def one_model(*results: Result, fixed: tuple[Anchor, ...] = ()) -> Findings:
    return Findings("c", [Entry("a", "m", 0, results=list(results))], {"m": fixed})


def result(indicator: str, split: str, failure: str = "", **values: float) -> Result:
    metrics = [Metric(name=name, value=value, unit="") for name, value in values.items()]
    config = {"config": {"temperature": 1200.0}}
    return Result(
        indicator=indicator, model="a", split=split, failure=failure, metrics=metrics,
        provenance=config,
    )  # fmt: skip


def test_errors_that_cancel_are_told() -> None:
    errors = (2.1, 0.8, -3.3, 1.2, 3.9)
    found = one_model(
        *(result("eos", f"id:s{k}", V0_error=v) for k, v in enumerate(errors)),
        result("eos", "id:s5", "the energies have no minimum"),
        fixed=(Anchor("V0", "id:s0", "V0_error", "%", 0.0, 9.0, ""),),
    )
    sentence = verdicts(found)[0].sentences[0]
    assert "volume 2.3 % off in distribution (at most 3.9 %, s4)" in sentence
    assert "no equation of state for 1 of 6 curves in distribution" in sentence


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (0.1, "usable for NVT to 1200 K"),
        (0.8, "not to be relied on in dynamics: wrong structure in 1 of 1 starts (x scores 0.20"),
        (None, "runs hold, structure not compared, to 1200 K"),
    ],
)
def test_runs_are_usable_only_with_the_structure_of_the_reference(error, said: str) -> None:
    runs = [result("dynamics", "id:x", survived=9.0, planned=9.0)]
    runs += [result("survival", "id:x", survived_fraction=1.0)]
    if error is not None:
        runs.append(result("rdf", "id:x", rdf_mae=error))
    fixed = (
        Anchor("rdf", "id:x", "rdf_mae", "1", 0.0, 1.0, ""),
        Anchor("survival", "id:x", "survived_fraction", "1", 1.0, 0.0, ""),
    )
    assert verdicts(one_model(*runs, fixed=fixed))[0].sentences[0].startswith(said)


def test_hovering_over_a_score_of_one_seed_says_so() -> None:
    found = one_model(
        result("rdf", "id:x", rdf_mae=0.1),
        fixed=(Anchor("rdf", "id:x", "rdf_mae", "1", 0.0, 1.0, ""),),
    )
    assert heat_map(found, "m").rows[0][2][0].note == "one seed: no interval"


def test_times_say_what_else_ran_and_where() -> None:
    found = synthetic(models=FEW, materials=("one",), seeds=1)
    timed = [r for e in found.ranked for r in e.of("speed")]
    assert "Timed at" not in ranking(found).caption
    for k, one in enumerate(timed):
        one.provenance["load_average"] = 1.0 + k
    assert f"Timed at a load of 1.0 to {len(timed)}.0." in ranking(found).caption
    timed[0].hardware, timed[1].hardware = {"cpu": "one"}, {"cpu": "other"}
    assert "of 2 machines and not comparable" in ranking(found).caption


def test_a_radar_draws_corners_where_the_scores_are() -> None:
    svg = radar(["a", "b", "c", "d"], {"ID": ({"a": 1.0, "b": 0.5, "c": 0.0, "d": 0.5}, 0)}, "t")
    corners = re.search(r'class="line area s0" d="M([^"]+)Z"', svg)
    assert corners is not None
    points = [tuple(map(float, p.split())) for p in corners[1].split("L")]
    assert points == [(140.0, 48.0), (186.0, 140.0), (140.0, 140.0), (94.0, 140.0)]
