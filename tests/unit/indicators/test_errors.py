"""Errors against numbers worked out by hand, and what is said when labels are missing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

from siliforce.data import Dataset, Frame, Store
from siliforce.errors import DataError
from siliforce.indicators import predictions as predictions_module
from siliforce.indicators.base import Result
from siliforce.indicators.errors import check_tags, evaluate, evaluate_sets
from siliforce.indicators.predictions import formula, packed, predict
from siliforce.indicators.tables import breakdown_table
from siliforce.simulation.calculator import SiliforceCalculator
from siliforce.units import EV_PER_A3_IN_GPA
from tests.toys import DirectMorse, toy_potential


def frames(n: int = 6, groups: int = 1, symbols: tuple[str, ...] = ("Cu",)) -> list[Atoms]:
    """Frames labelled by the toy potential itself: zero error before something is added."""
    found = []
    for k in range(n):
        atoms = bulk("Cu", "fcc", a=3.6 + 0.02 * k, cubic=True)
        if k % 2:
            atoms = atoms.repeat((1, 1, 2))
        atoms.rattle(0.05, seed=k)
        atoms.symbols[-1] = symbols[-1]
        atoms.info["group"] = f"run{k % groups}"
        atoms.info["config_type"] = "long" if k % 2 else "cubic"
        atoms.calc = SiliforceCalculator(toy_potential(symbols), device="cpu")
        atoms.info["energy"] = atoms.get_potential_energy()
        atoms.info["stress"] = atoms.get_stress(voigt=False)
        atoms.arrays["forces"] = atoms.get_forces()
        atoms.calc = None
        found.append(atoms)
    return found


@pytest.fixture
def dataset(tmp_path: Path) -> Callable[[list[Atoms]], Dataset]:
    """Makes a stored dataset of labelled atoms."""
    count = iter(range(100))

    def make(labelled: list[Atoms]) -> Dataset:
        store = Store.create(tmp_path / f"{next(count)}.store")
        store.append(
            [
                Frame.from_atoms(
                    atoms,
                    forces=atoms.arrays.get("forces"),
                    tags={k: v for k, v in atoms.info.items() if k in ("temperature", "strain")},
                    **{
                        k: v
                        for k, v in atoms.info.items()
                        if k in ("energy", "stress", "group", "config_type")
                    },
                )
                for atoms in labelled
            ]
        )
        return Dataset([store])

    return make


def test_right_answers_have_no_error(dataset):
    result = evaluate(toy_potential(), dataset(frames()))
    for name in ("energy_mae", "forces_rmse", "forces_max", "stress_rmse", "ef"):
        assert result.value(name) == pytest.approx(0, abs=1e-8)
    assert result.value("forces_relative") == pytest.approx(0, abs=1e-6)


def test_definitions_on_known_errors(dataset):
    data = frames(2)  # 4 and 8 atoms
    data[0].info["energy"] -= 4 * 0.010  # answers are 10 meV/atom too high
    data[1].info["energy"] += 8 * 0.030  # and 30 too low
    data[0].arrays["forces"][0] -= [0.3, 0.0, -0.4]
    data[1].info["stress"] += 0.01 * np.eye(3)
    result = evaluate(toy_potential(), dataset(data))
    expected = {
        "energy_mae": 20.0,
        "energy_rmse": np.sqrt(500),
        "energy_shift": -10.0,
        "energy_rmse_shifted": 20.0,
        "energy_mae_shifted": 20.0,
        "energy_max": 30.0,
        "forces_mae": 1e3 * 0.7 / 36,  # twelve atoms, three components
        "forces_rmse": 1e3 * np.sqrt(0.25 / 36),
        "forces_max": 500.0,  # length of one atom's error
        "ef": np.sqrt(500) / 1e3 + np.sqrt(0.25 / 36),
        "stress_mae": EV_PER_A3_IN_GPA * 0.03 / 18,
        "stress_rmse": EV_PER_A3_IN_GPA * np.sqrt(3e-4 / 18),
        "stress_max": EV_PER_A3_IN_GPA * 0.01,
    }
    for name, value in expected.items():
        assert result.value(name) == pytest.approx(value, rel=1e-6), name
    reference = np.concatenate([a.arrays["forces"] for a in data])
    relative = 100 * np.sqrt(0.25 / 36) / np.sqrt(np.square(reference).mean())
    assert result.value("forces_relative") == pytest.approx(relative)


def test_breakdowns_name_the_worst_first(dataset):
    data = frames(6, symbols=("Cu", "Ag"))
    for atoms in data[1::2]:
        atoms.arrays["forces"][-1] += 0.6  # the silver atom of the long frames
    result = evaluate(toy_potential(("Cu", "Ag")), dataset(data))
    elements = {row["label"]: row for row in result.tables["by_element"]}
    assert elements["Cu"]["forces_mae"] == pytest.approx(0, abs=1e-9)
    assert elements["Ag"]["n_atoms"] == 6
    assert elements["Ag"]["forces_mae"] == pytest.approx(300)
    assert elements["Ag"]["forces_max"] == pytest.approx(600 * np.sqrt(3))
    worst = result.tables["by_config_type"][0]
    assert (worst["label"], worst["n_frames"], worst["n_atoms"]) == ("long", 3, 24)
    assert worst["forces_mae"] == pytest.approx(600 / 8)
    assert [row["label"] for row in result.tables["by_size"]] == ["8", "4"]
    assert {row["label"] for row in result.tables["by_formula"]} == {"Cu3Ag", "Cu7Ag"}


def test_tags_break_down_where_the_data_have_them(dataset):
    data = frames(4)
    for k, atoms in enumerate(data):
        atoms.info["temperature"] = 300.0 if k < 2 else 600.0
    tables = evaluate(toy_potential(), dataset(data), by=("temperature", "phase")).tables
    assert {row["label"] for row in tables["by_temperature"]} == {"300", "600"}
    assert "by_phase" not in tables


def test_crossed_tags_and_their_table(dataset):
    data = frames(4)
    for k, atoms in enumerate(data):
        atoms.info |= {"temperature": 900.0 if k < 2 else 1200.0, "strain": 0.03 * (k % 2)}
    data[3].arrays["forces"] += 0.1
    result = evaluate(toy_potential(), dataset(data), by=("temperature,strain",))
    table = breakdown_table(result, "temperature,strain")
    columns = [list(column.cells) for column in table.columns]
    assert [column.header for column in table.columns[:3]] == ["temperature", "strain", "frames"]
    assert columns[0] == ["900", "900", "1200", "1200"]
    assert columns[1] == ["0", "0.03", "0", "0.03"]
    assert columns[5][3] == "100"
    with pytest.raises(DataError, match=r"no frame has the tag .phase.; they have .*strain"):
        check_tags({"test": dataset(data)}, ["temperature,phase"])


def test_missing_labels_are_left_out_and_said(dataset):
    data = frames(4)
    data[0].info["energy"] = np.nan
    data[1].info["energy"] += 8 * 0.012
    del data[2].arrays["forces"]
    for atoms in data:
        del atoms.info["stress"]
    result = evaluate(toy_potential(), dataset(data))
    assert result.value("energy_mae") == pytest.approx(12 / 3)
    assert result.value("forces_mae") == pytest.approx(0, abs=1e-9)
    assert result.value("stress_mae") is None
    assert result.metric("stress_mae").note == "no labels"


def test_direct_model_has_no_stress_error(dataset):
    result = evaluate(toy_potential(model=DirectMorse), dataset(frames(4)))
    assert result.value("stress_mae") is None
    assert result.value("forces_mae") > 1


def test_intervals_hold_the_truth_and_narrow_with_more_frames(dataset):
    rng = np.random.default_rng(3)
    widths = []
    for n in (12, 48):
        data = frames(n)
        for atoms in data:
            atoms.info["energy"] += len(atoms) * rng.normal(0, 0.01)
        metric = evaluate(toy_potential(), dataset(data)).metric("energy_rmse")
        assert metric.low < metric.value < metric.high
        assert metric.low < 10 < metric.high
        widths.append(metric.high - metric.low)
    assert widths[1] < 0.75 * widths[0]


def test_groups_are_resampled_where_there_are_enough(dataset):
    data = frames(24, groups=6)
    rng = np.random.default_rng(0)
    offset = rng.normal(0, 0.02, 6)
    for k, atoms in enumerate(data):  # frames of one run share their error
        atoms.info["energy"] += len(atoms) * offset[k % 6]
    by_group = evaluate(toy_potential(), dataset(data))
    assert by_group.provenance["independent_units"] == 6
    for k, atoms in enumerate(data):
        atoms.info["group"] = f"frame{k}"
    by_frame = evaluate(toy_potential(), dataset(data))
    assert "frames" in by_frame.provenance["intervals"]

    def width(result: Result) -> float:
        metric = result.metric("energy_rmse")
        return metric.high - metric.low

    assert width(by_group) > 1.4 * width(by_frame)


def test_few_frames_have_no_interval(dataset):
    result = evaluate(toy_potential(), dataset(frames(3)))
    assert result.metric("energy_mae").low is None
    assert result.provenance["intervals"] == "none"


def test_batches_of_any_size_and_any_calculator_agree(dataset):
    data = frames(5)
    for atoms in data:
        atoms.arrays["forces"] += 0.1
    whole = predict(toy_potential(), dataset(data), edge_budget=10**9)
    single = predict(toy_potential(), dataset(data), edge_budget=1)
    by_ase = predict(SiliforceCalculator(toy_potential(), device="cpu"), dataset(data))
    for other in (single, by_ase):
        for name in ("energy", "energy_ref", "forces", "forces_ref", "stress", "stress_ref"):
            np.testing.assert_allclose(getattr(whole, name), getattr(other, name), atol=1e-10)
        assert list(other.labels["formula"]) == list(whole.labels["formula"])
        np.testing.assert_array_equal(other.numbers, whole.numbers)


def test_zero_shot_column_for_another_calculator(dataset):
    result = evaluate(EMT(), dataset(frames(5)))
    assert result.model == "emt"
    assert result.value("forces_mae") > 0
    assert result.value("stress_mae") > 0


def test_ood_sets_get_their_gap(dataset):
    inside, outside = frames(5), frames(5)
    for atoms in inside:
        atoms.arrays["forces"] += 0.05
    for atoms in outside:
        atoms.arrays["forces"] += 0.15
    sets = {"test": dataset(inside), "ood:hot": dataset(outside), "ood:none": dataset([])}
    test, ood = evaluate_sets(toy_potential(), sets)
    assert (test.split, ood.split) == ("test", "ood:hot")
    assert ood.value("gap_forces_mae") == pytest.approx(100)
    assert test.value("gap_forces_mae") is None


def test_frames_that_were_trained_on_are_counted(dataset):
    data = frames(6)
    train, test = dataset(data[:4]), dataset(data[3:])
    found = {r.split: r for r in evaluate_sets(toy_potential(), {"train": train, "test": test})}
    assert found["test"].provenance["n_trained_on"] == 1
    assert found["train"].provenance["n_trained_on"] == 4
    assert "n_trained_on" not in evaluate(toy_potential(), test).provenance


def test_unknown_elements_and_empty_sets_are_refused(dataset):
    data = frames(2)
    data[0].symbols[0] = "Au"
    with pytest.raises(DataError, match="knows Cu but not Au"):
        evaluate(toy_potential(), dataset(data))
    with pytest.raises(DataError, match="no frames"):
        evaluate(toy_potential(), dataset([]))


def test_memory_that_runs_out_halves_the_batch(dataset, monkeypatch):
    real, sizes = predictions_module._ask_batch, []

    def scarce(potential, data, table, indices):
        sizes.append(len(indices))
        if len(indices) > 2:
            raise torch.OutOfMemoryError
        real(potential, data, table, indices)

    monkeypatch.setattr(predictions_module, "_ask_batch", scarce)
    steps = []
    found = predict(
        toy_potential(), dataset(frames(5)), progress=lambda done, total: steps.append(done)
    )
    assert sizes == [5, 2, 3, 1, 2]
    assert steps == [2, 3, 5]
    assert np.isfinite(found.energy).all()


def test_packing_keeps_the_budget():
    counts = np.array([10, 500, 30, 40, 20, 90])
    groups = list(packed(counts, 100))
    assert sorted(np.concatenate(groups)) == list(range(6))
    assert all(counts[g].sum() <= 100 or len(g) == 1 for g in groups)
    assert list(packed(np.array([], dtype=int), 10)) == []


def test_formula():
    assert formula(np.array([14] * 63 + [32])) == "Si63Ge"
    assert formula(np.array([8, 72, 8])) == "O2Hf"
