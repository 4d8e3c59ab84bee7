"""The conclusions follow from the results: each rule is shown on results that trigger it."""

from __future__ import annotations

from pathlib import Path

import pytest

from siliforce.indicators.base import Metric, Result
from siliforce.potential import Card
from siliforce.report.load import Run, load_runs
from siliforce.report.tables import overview
from siliforce.report.verdict import compare, falling, grade_of, judge, unseen_pairs


def errors(
    split: str = "test",
    forces: float = 40.0,
    relative: float = 6.0,
    energy: float = 2.0,
    interval: tuple[float, float] | None = None,
    frames: int = 25,
) -> Result:
    low, high = interval or (None, None)
    metrics = [
        Metric(name="forces_rmse", value=forces, unit="meV/Å", low=low, high=high),
        Metric(name="forces_relative", value=relative, unit="%"),
        Metric(name="energy_rmse", value=energy, unit="meV/atom"),
        Metric(name="energy_rmse_shifted", value=energy, unit="meV/atom"),
        Metric(name="stress_rmse", value=0.2, unit="GPa"),
    ]
    return Result(
        indicator="errors",
        model="mace",
        dataset="d",
        split=split,
        metrics=metrics,
        tables={"by_element": [element("Si"), element("O")]},
        provenance={"n_frames": frames, "force_mode": "gradient"},
    )


def element(label: str, n_atoms: int = 500, relative: float = 6.0) -> dict[str, object]:
    return {
        "label": label,
        "n_atoms": n_atoms,
        "forces_rmse": 40.0,
        "forces_relative": relative,
    }


def run(*results: Result, name: str = "mace", **card: object) -> Run:
    settings = {
        "elements": ["O", "Si"],
        "atoms_per_volume": (0.04, 0.05),
        "temperature": (300.0, 1200.0),
        "min_distance": {"O-Si": 1.5, "Si-Si": 2.2, "O-O": 2.1},
    } | card
    return Run(Path("runs/x"), name, results=list(results), card=Card.model_validate(settings))


@pytest.mark.parametrize(
    ("relative", "energy", "grade", "words"),
    [
        (6.0, 2.0, "good", "may be used for energies, forces and molecular dynamics"),
        (6.0, 9.0, "fair", "to be confirmed by DFT"),
        (25.0, 2.0, "fair", "may be used to explore"),
        (45.0, 2.0, "poor", "should not be used for anything but trying out"),
    ],
)
def test_grade_needs_both_errors_to_be_small(relative, energy, grade, words):
    found = judge(run(errors(relative=relative, energy=energy)))
    assert found.grade == grade
    assert words in found.use
    assert "On structures of O and Si at 20.0 to 25.0 Å³ per atom and up to 1,200 K" in found.use
    assert "40.0 meV/Å" in found.use
    assert "25 test frames" in found.use


def test_without_held_out_errors_nothing_is_claimed():
    found = judge(run(errors("train")))
    assert found.grade == "unknown"
    assert found.use.startswith("Nothing can be recommended for mace yet")
    assert "measure the errors" in found.label


def test_validation_frames_stand_in_and_are_called_so():
    assert "25 validation frames" in judge(run(errors("valid"))).use


def test_range_of_the_data_bounds_the_use():
    found = judge(run(errors())).avoid
    for words in (
        "elements other than O and Si",
        "volumes outside 20.0 to 25.0 Å³ per atom and temperatures above 1,200 K",
        "phases and defects that its data do not hold",
    ):
        assert words in found
    assert "neighbours" not in found
    assert "pressures" not in found


def test_pairs_that_never_meet_are_named():
    found = judge(run(errors(), min_distance={"Si-O": 1.5, "Si-Si": 2.2})).avoid
    assert "O-O as neighbours, a pair that the data do not hold" in found
    assert unseen_pairs(["Si", "Ge"], {"Si-Si": 2.3}) == ["Si-Ge", "Ge-Ge"]
    assert unseen_pairs(["Si", "Ge"], {}) == []


def test_stress_that_was_not_tested_or_not_there():
    result = errors()
    result.metrics = [m for m in result.metrics if m.name != "stress_rmse"]
    assert "its stress was not tested" in judge(run(result)).avoid
    result.provenance["force_mode"] = "direct"
    avoid = judge(run(result)).avoid
    assert "it predicts no stress" in avoid
    assert "conserve none" in avoid
    assert overview([run(result)]).rows[0][0].text.endswith("(non-conservative)")
    assert "conserve" not in judge(run(errors())).avoid


def test_scarce_elements_bound_the_use_and_are_to_be_labelled():
    result = errors()
    result.tables["by_element"] = [element("Si"), element("O", n_atoms=3)]
    found = judge(run(result))
    assert "too few atoms (O 3)" in found.avoid
    assert "frames with O next" in found.label


def test_failed_dynamics_comes_first():
    failed = Result(indicator="dynamics", model="mace", dataset="Si64", failure="energy drift")
    found = judge(run(errors(), failed))
    assert found.avoid.startswith("Do not use mace for dynamics of Si64 (energy drift)")
    assert "that failed" in found.label
    assert "ran to the end" not in found.use


def test_dynamics_that_held_is_counted_only_if_all_did():
    held = Result(
        indicator="dynamics",
        model="mace",
        metrics=[Metric(name="survived", value=1.5, unit="ps")],
        provenance={"config": {"temperature": 600.0}},
    )
    assert "1.5 ps of dynamics at 600 K ran to the end" in judge(run(errors(), held)).use


def test_dynamics_that_left_the_data_does_not_count_as_held():
    left = Result(
        indicator="dynamics",
        model="mace",
        dataset="Si64",
        metrics=[Metric(name="survived", value=1.5, unit="ps")],
        provenance={
            "config": {"temperature": 600.0},
            "frames_outside": 3,
            "outside_training_data": ["Si-Si at 1.80 Å, the training data begin at 2.20 Å"],
        },
    )
    found = judge(run(errors(), left))
    assert "it left the range of the data: Si-Si at 1.80 Å" in found.avoid
    assert "ran to the end" not in found.use


def test_model_that_has_not_learnt_its_training_frames_needs_training_not_data():
    poor = errors(relative=50.0, forces=500.0)
    assert "Train longer" in judge(run(poor, errors("train", forces=480.0))).label
    assert "Train longer" not in judge(run(poor, errors("train", forces=100.0))).label
    assert "Train longer" not in judge(run(errors(), errors("train"))).label


def test_wide_gap_to_an_ood_set():
    found = judge(run(errors(), errors("ood:melt", forces=120.0), errors("ood:near", forces=50.0)))
    assert "structures like melt (force error 3.0 times larger)" in found.avoid
    assert "near" not in found.avoid
    assert found.label == "Label frames of melt next: the error there is 3.0 times larger."


def test_wrong_bulk_modulus():
    def eos(error: float) -> Result:
        metric = Metric(name="B0_error", value=error, unit="%")
        return Result(indicator="eos", model="mace", dataset="Si8", metrics=[metric])

    assert "elastic properties of Si8" in judge(run(errors(), eos(-18.0))).avoid
    assert "elastic" not in judge(run(errors(), eos(4.0))).avoid


def test_worst_category_is_to_be_labelled_relative_to_its_forces():
    result = errors()
    hot = {"label": "1200", "n_atoms": 640, "n_frames": 10, "forces_rmse": 90.0}
    cold = {"label": "300", "n_atoms": 640, "n_frames": 10, "forces_rmse": 20.0}
    result.tables["by_temperature"] = [
        hot | {"forces_relative": 6.0},
        cold | {"forces_relative": 12.0},
    ]
    assert "Label more frames at 300 K next" in judge(run(result)).label
    assert "2.0 times the average (10 test frames)" in judge(run(result)).label
    result.tables["by_temperature"][1]["n_frames"] = 1
    assert "No category stands out" in judge(run(result)).label


def test_training_that_was_still_improving():
    improving = run(errors())
    improving.progress = [{"valid_forces_mae_mev": 100 * 0.95**k} for k in range(20)]
    assert falling(improving) == pytest.approx(1 - 0.95**4)
    assert "Training longer may help" in judge(improving).label
    improving.progress = [{"valid_forces_mae_mev": 50.0} for _ in range(20)]
    assert "Training longer" not in judge(improving).label


def test_comparison_knows_ties_and_different_frames():
    better = run(errors(forces=40, interval=(36, 44)), name="mace")
    worse = run(errors(forces=80, interval=(70, 90)), name="schnet")
    same = run(errors(forces=42, interval=(38, 47)), name="bpnn")
    assert compare([worse, better]).startswith("mace is more accurate than schnet")
    assert "cannot be told apart" in compare([better, same])
    assert compare([better]) == ""
    other = errors(forces=80)
    other.dataset = "e"
    assert "different frames" in compare([better, run(other)])


def test_verdict_on_measured_runs(finished):
    close, far = load_runs(finished)
    assert grade_of(close) in ("good", "fair")
    assert grade_of(far) == "poor"
    assert "Ag-Ag as neighbours" in judge(close).avoid
    assert compare([far, close]).startswith("morse-toy is more accurate than other")
