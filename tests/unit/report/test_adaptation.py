"""What the report says of adapted potentials, studies and families."""

from dataclasses import asdict
from html import escape

import pytest

from siliforce.indicators.base import Metric, Result
from siliforce.report import write_report
from siliforce.report.adaptation import comparison_part, equal_table, policy_table, study_folder
from siliforce.transfer.curves import summary
from siliforce.transfer.family import catalogue
from siliforce.transfer.saved import Amount, Number
from tests.run_folders import make_run
from tests.toys import toy_potential
from tests.unit.transfer.test_study import made_rows

FIVE = Amount(Number(5.0))
FACTS = {
    "model": "bpnn", "policies": ["all", "last"], "frames": [5, 10, 20], "left_out": [],
    "draws": 4, "n_test": 7, "source_forces_rmse": 40.0,
}  # fmt: skip


@pytest.fixture
def studied():
    rows = made_rows(gain=2.0)
    last = [row | {"which": "last"} for row in made_rows(1.3, seed=1) if row["kind"] == "transfer"]
    for row in rows + last:
        row["source_forces_rmse"] = 40.0 + 100 / row["n"] if row["kind"] == "transfer" else None
    return summary(rows + last, FACTS)


def test_page_of_a_study(studied, tmp_path):
    studied.save(tmp_path / "results")
    page = write_report(tmp_path).read_text()
    for sentence in studied.provenance["sentences"]:
        assert escape(sentence) in page
    assert page.count('<svg class="chart"') == 2
    assert "What it forgets" in page
    assert "run.json is missing" not in page


def test_tables_of_a_study(studied):
    equal = equal_table(studied)
    assert [row[0].value for row in equal.rows] == ["all"] * 3 + ["last"] * 3
    assert equal.rows[2][4].text.startswith("> ")
    policies = policy_table(studied)
    five = [row for row in policies.rows if row[0].value == 5]
    assert [row[1].value for row in five] == ["all", "last", "from scratch"]
    assert [row[3].best for row in five] == [True, False, False]


def test_page_of_a_family(tmp_path):
    source = toy_potential()
    source.card.n_frames = 60
    rows = [
        {
            "name": name, "element": x, "site": "Si", "count": 1, "concentration": 1 / 64,
            "n_frames": 9, "model": f"{name}/best.safetensors", "seconds": 40.0, "alarm": alarm,
            "adapted_energy_rmse": 2.0, "adapted_forces_rmse": 50.0, "scratch_energy_rmse": 9.0,
            "scratch_forces_rmse": 150.0,
            "at_equal_error": {
                "text": f"{bound} 6×".strip(), "error": 50.0, "draws": 1,
                "scratch": asdict(Amount(Number(30.0, bound))), "transfer": asdict(FIVE),
            },
        }
        for name, x, alarm, bound in (("Si63Ge", "Ge", "", ""), ("Si63P", "P", "it is bad", ">"))
    ]  # fmt: skip
    catalogue(rows, source, ["Si63B"]).save(tmp_path / "results")
    page = write_report(tmp_path).read_text()
    for text in ("Si63Ge", "1.56", "&gt; 6×", "Si63P: it is bad", "Failed: Si63B", "R = &gt; 1.7"):
        assert text in page


def test_section_of_an_adapted_run(tmp_path):
    folder = make_run(tmp_path / "run", simulations=False, ood=False)
    row = {"kind": "adapted", "lr": 1e-3, "n_parameters": 3, "steps": 9, "best_epoch": 2}
    row |= {"forces_rmse": 50.0, "energy_rmse": 2.0, "seconds": 3.0}
    result = Result(
        indicator="transfer", model="morse-toy", split="test",
        metrics=[
            Metric(name="gain", value=0.5, unit="", low=0.4, high=0.7),
            Metric(name="source_before_forces_rmse", value=30.0, unit="meV/Å"),
            Metric(name="source_after_forces_rmse", value=60.0, unit="meV/Å"),
            Metric(name="forgetting", value=2.0, unit=""),
        ],
        tables={"runs": [row, row | {"kind": "scratch", "forces_rmse": 25.0}]},
        provenance={"n_frames": 8, "n_test": 3, "alarm": "transfer is worse"},
    )  # fmt: skip
    result.save(folder / "results")
    assert study_folder(folder) == []
    sentences, table = comparison_part(result)
    assert "same 8 frames divided by 0.50 (95 %: 0.40 to 0.70)" in sentences[0]
    assert [r[0].text for r in table.rows] == ["adapted", "from scratch"]
    page = write_report(folder).read_text()
    assert "Warning: transfer is worse." in page
    assert 'href="#transfer"' in page


def test_a_run_that_was_not_adapted_has_no_such_section(finished, tmp_path):
    page = write_report(finished[0], tmp_path / "a.html").read_text()
    assert 'id="transfer"' not in page
