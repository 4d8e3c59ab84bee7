"""An adapted potential beside its control."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from siliforce.data import load_dataset
from siliforce.errors import DataError, TrainingError
from siliforce.indicators.base import Metric, Result
from siliforce.indicators.errors import evaluate
from siliforce.potential import Potential
from siliforce.training import train
from siliforce.training.sets import recorded_sets
from siliforce.transfer.compare import LADDER, _controls, compare, model_section
from siliforce.transfer.judge import _control_alarm, useless
from tests.cases import CASES, build_potential
from tests.run_folders import store_of
from tests.unit.training.target import target

SCHNET = next(c for c in CASES if c.model == "schnet")
FAST = {"epochs": 3, "batch_size": 2, "ema": None}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A SchNet that has learned some silicon."""
    folder = tmp_path_factory.mktemp("source")
    target(12, folder / "si", new=())
    config = {"epochs": 15, "batch_size": 2, "lr": 1e-2}
    own = str(folder / "si")
    train(own, "schnet", preset="tiny", config=config, out=folder / "run", quiet=True)
    return folder / "run"


@pytest.fixture(scope="module")
def compared(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared")
    target(12, folder / "ge")
    silicon = target(3, folder / "si", new=(), seed=5)
    found = compare(
        source, folder / "ge", source_test=silicon, policy="last", train=FAST,
        out=folder / "run", quiet=True,
    )  # fmt: skip
    return found, folder


def test_both_are_judged_on_frames_that_neither_saw(compared):
    found, folder = compared
    data = load_dataset(folder / "ge")
    split = json.loads((folder / "run" / "split.json").read_text())["rows"]
    assert {k: len(v) for k, v in split.items()} == {"train": 8, "valid": 2, "test": 2}
    test = data.subset(split["test"])
    for prefix, run in (("adapted", found.run), ("scratch", found.control)):
        again = evaluate(run.potential(), test)
        assert found.result.value(f"{prefix}_forces_rmse") == again.value("forces_rmse")
    trained = json.loads((found.control.run_dir / "run.json").read_text())
    assert trained["n_train"] == 8


def test_the_control_gets_its_own_rate_and_the_same_budget(compared):
    found, _ = compared
    adapted, *controls = found.result.tables["runs"]
    assert [row["rate"] for row in controls][:2] == [1.0, 0.3]
    assert controls[1]["lr"] == pytest.approx(0.3 * controls[0]["lr"])
    best = min(controls, key=lambda row: row["valid_loss"])
    assert [row["chosen"] for row in controls] == [row is best for row in controls]
    rates = [row["rate"] for row in controls]
    assert min(rates) < best["rate"] < max(rates) or best["rate"] in (LADDER[0], LADDER[-1])
    assert {row["steps"] for row in (adapted, *controls)} == {adapted["steps"]}
    assert all(row["policy"] is None for row in controls)
    sizes = {row["n_parameters"] for row in controls}
    assert adapted["n_parameters"] < min(sizes)


def test_gain_and_alarm(compared):
    """The source has learned something: three epochs from nothing are behind it, and unfinished."""
    found, _ = compared
    mine, theirs = (found.result.value(f"{k}_forces_rmse") for k in ("adapted", "scratch"))
    assert found.result.value("gain") == pytest.approx(theirs / mine)
    assert theirs > mine
    assert found.alarm.startswith("the control was still improving when its budget ended")


@pytest.mark.parametrize("best", [0.003, 0.1, 1.0, 3.0])
def test_the_best_rate_lies_between_two_or_at_the_end_of_what_is_sensible(best):
    """A parabola of the log rate; above 3 nothing can be trained."""

    def training(rate):
        if rate > 3:
            raise TrainingError("diverged")
        return SimpleNamespace(interrupted=False, best={"valid_loss": np.log(rate / best) ** 2})

    found = _controls((1.0, 0.3), training)
    assert min(found, key=lambda rate: found[rate].best["valid_loss"]) == best
    assert max(found) <= 3
    with pytest.raises(TrainingError):
        _controls((100.0, 200.0), training)


def made(relative):
    """Errors, as far as they say whether a control is one."""
    metric = Metric(name="forces_relative", value=relative, unit="%")
    return Result(indicator="errors", model="m", split="test", metrics=[metric])


def test_a_control_that_learned_nothing_is_none():
    assert useless(made(101.0))
    assert not useless(made(60.0))
    row = {"best_epoch": 10, "epochs": 10, "stop_reason": "all epochs done"}
    assert "nothing was learned" in _control_alarm(row, made(101.0))
    assert "still improving" in _control_alarm(row, made(60.0))
    assert _control_alarm(row | {"stop_reason": "no improvement in 30"}, made(60.0)) == ""
    assert _control_alarm(row | {"best_epoch": 8}, made(60.0)) == ""


def test_what_was_forgotten(compared, source):
    found, folder = compared
    silicon = load_dataset(folder / "si")
    before = evaluate(Potential.load(source), silicon).value("forces_rmse")
    after = evaluate(found.run.potential(), silicon).value("forces_rmse")
    assert found.result.value("source_before_forces_rmse") == before
    assert found.result.value("forgetting") == pytest.approx(after / before)


def test_results_lie_in_the_run_folder(compared):
    found, folder = compared
    kept = Result.load(folder / "run" / "results" / "transfer-test.json")
    assert kept.value("gain") == found.result.value("gain")
    names = {p.name for p in (folder / "run" / "results").glob("*.json")}
    assert names == {"transfer-test.json", "errors-test.json", "errors-ood_source.json"}


def test_frames_that_were_learned_from_test_nothing(source, tmp_path):
    data = target(6, tmp_path / "ge")
    options = {"train": FAST, "out": tmp_path / "run", "quiet": True}
    turned = data[1].replace(positions=data[1].positions + 0.3)
    mixed = store_of([*target(2, tmp_path / "new", seed=9), turned], tmp_path / "mixed")
    with pytest.raises(DataError, match="--test: 1 of 3 frames are copies"):
        compare(source, data, test=mixed, **options)
    learned = recorded_sets(source)["train"]
    with pytest.raises(DataError, match=r"--source-test: \d+ of \d+ frames are copies"):
        compare(source, data, source_test=learned, **options)
    assert not (tmp_path / "run").exists()


def test_the_answer_is_said_in_words(compared):
    found, _ = compared
    assert "adapted" in found.sentence
    assert "from scratch on the same frames" in found.sentence


def test_alarm_when_transfer_is_worse(tmp_path):
    """A source that knows nothing and may hardly change is worse than any training."""
    data = target(25, tmp_path / "ge")
    train_ = {"epochs": 8, "batch_size": 2, "policy": {"parts": {"readout": 1.0}}, "lr": 1e-9}
    found = compare(build_potential(SCHNET), data, train=train_, out=tmp_path / "run", quiet=True)
    assert found.result.value("gain") < 1
    assert "worse than training from scratch" in found.alarm
    assert "too few to be sure" not in found.alarm


def test_without_control(source, tmp_path):
    data = target(5, tmp_path / "ge")
    found = compare(source, data, control=False, train=FAST, out=tmp_path / "run", quiet=True)
    assert found.control is None
    assert found.result.value("gain") is None
    assert found.result.value("adapted_forces_rmse") > 0


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_control_is_the_same_model(case):
    from siliforce.training.build import ModelChoice

    source = build_potential(case)
    section = model_section(source.extend([32]))
    choice = ModelChoice.model_validate(section).checked()
    config = choice.architecture(choice.preset)
    fresh = source.model.config.model_dump()
    assert config.model_dump() == fresh | ({"extensions": ()} if "extensions" in fresh else {})
    assert choice.model_class is type(source.model)
    assert np.isclose(config.cutoff, source.cutoff)
