"""Learning curves: nested draws, resumed after kills, extended, summed up."""

import json
import shutil

import numpy as np
import pytest

from siliforce.errors import ConfigError, DataError
from siliforce.indicators.base import Result
from siliforce.transfer.compare import LADDER
from siliforce.transfer.curves import middle_and_band, summary
from siliforce.transfer.study import Plan, Study, study
from tests.cases import CASES, build_potential
from tests.unit.training.target import target

FAST = {"epochs": 1, "batch_size": 4}
SCHNET = next(c for c in CASES if c.model == "schnet")


@pytest.fixture
def inputs(tmp_path):
    build_potential(SCHNET).save(tmp_path / "source.safetensors")
    target(9, tmp_path / "ge")
    return {"source": tmp_path / "source.safetensors", "data": tmp_path / "ge"}


def options(tmp_path, **changes):
    return {
        "frames": (2, 4), "draws": 2, "train": FAST, "out": tmp_path / "study", "quiet": True,
    } | changes  # fmt: skip


def test_draws_are_nested_and_never_meet_the_test(inputs, tmp_path):
    paths = {"source": str(inputs["source"]), "data": [str(inputs["data"])]}
    own = Study(tmp_path, Plan(**paths, frames=[2, 4]))
    small, large = (set(map(int, own.draw(n, 1).indices)) for n in (2, 4))
    assert small < large
    assert set(map(int, own.draw(4, 0).indices)) != large
    assert not large & set(map(int, own.test.indices))
    assert len(own.test) == 3


def test_a_kill_costs_one_training_and_more_can_be_asked_for(inputs, tmp_path, monkeypatch):
    import siliforce.transfer.study as module

    original, begun = module.adapt, []

    def dies(*args, **kwargs):
        begun.append(1)
        if len(begun) == 3:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    monkeypatch.setattr(module, "adapt", dies)
    with pytest.raises(KeyboardInterrupt):
        study(**inputs, **options(tmp_path))
    done = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "study" / "done").iterdir()}
    assert done
    result = study(**inputs, **options(tmp_path))
    after = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "study" / "done").iterdir()}
    kinds = [json.loads((tmp_path / "study" / "done" / name).read_text())["kind"] for name in after]
    assert kinds.count("transfer") == 2 * 2  # numbers of frames, draws
    assert len(begun) == 5
    for n in ("2", "4"):  # the best learning rate lies between two others, or at the last one
        tried = {r["which"] for r in result.tables["trainings"]
                 if r["kind"] == "scratch" and r["n"] == int(n)}  # fmt: skip
        best = result.provenance["control_rates"][n]
        assert min(tried) < best < max(tried) or best in (LADDER[0], LADDER[-1])
    assert done.items() <= after.items()
    assert {row["n"] for row in result.tables["policies"]} == {2, 4}
    more = study(**inputs, **options(tmp_path, policies=["all", "last"], draws=3))
    assert len(begun) == 5 + 2 + 6  # the third draw of the first policy, all of the second
    assert {s["name"] for s in more.curves["series"]} == {"all", "last", "from scratch"}
    kept = Result.load(tmp_path / "study" / "results" / "transfer_study-test.json")
    assert kept.provenance["sentences"] == more.provenance["sentences"]
    assert "still improving when its budget ended" in more.provenance["sentences"][0]  # one epoch


def test_a_target_without_the_source_s_element_and_what_the_source_forgets(inputs, tmp_path):
    """Every atom is new: the control has never heard of the source's frames, and is not asked."""
    target(6, tmp_path / "pure", counts=(8,))
    target(3, tmp_path / "si", new=())
    found = study(
        inputs["source"], tmp_path / "pure", source_test=tmp_path / "si", frames=(2,), draws=1,
        config={"sources": {"Ge": "Si"}}, train=FAST, out=tmp_path / "study", quiet=True,
    )  # fmt: skip
    forgot = {row["kind"]: "source_forces_rmse" in row for row in found.tables["trainings"]}
    assert forgot == {"transfer": True, "scratch": False}
    assert found.provenance["source_forces_rmse"] > 0


def test_test_frames_are_not_among_those_drawn(inputs, tmp_path):
    with pytest.raises(DataError, match="--test: 9 of 9 frames are copies"):
        study(**inputs, **options(tmp_path, test=inputs["data"]))


def test_policies_of_your_own_and_keys_that_stay(inputs, tmp_path):
    """A policy by parts is trained as it is; what it is called changes no other training."""
    paths = {"source": str(inputs["source"]), "data": [str(inputs["data"])], "frames": [4]}
    own = {"policies": {"out": {"parts": {"readout": 1}}}}
    plain, named = Study(tmp_path, Plan(**paths)), Study(tmp_path, Plan(**paths, adapt=own))
    assert [j.key for j in plain.jobs()] == [j.key for j in named.jobs()]
    found = study(**inputs, **options(
        tmp_path, frames=(4,), draws=1, policies=["out", "all"], config=own,
    ))  # fmt: skip
    sizes = {r["which"]: r["n_parameters"] for r in found.tables["trainings"]}
    assert sizes["out"] < sizes["all"] == sizes[1.0]
    train = FAST | {"policy": {"parts": {"readout": 1}}}
    alone = study(**inputs, **options(tmp_path, frames=(4,), draws=1, train=train))
    assert {s["name"] for s in alone.curves["series"]} == {"custom", "from scratch"}
    with pytest.raises(ConfigError, match="are both given"):
        study(**inputs, **options(tmp_path, train=train, policies=["last"]))


def test_replayed_frames_count_by_what_is_in_them(inputs, tmp_path):
    def keys():
        paths = {"source": str(inputs["source"]), "data": [str(inputs["data"])], "frames": [4]}
        own = Study(tmp_path, Plan(**paths, replay=[str(tmp_path / "si")]))
        section = Plan(**paths, adapt={"replay": str(tmp_path / "si")})
        return [j.key for plan in (own, Study(tmp_path, section)) for j in plan.jobs()]

    target(3, tmp_path / "si", new=())
    first = keys()
    assert keys() == first
    shutil.rmtree(tmp_path / "si")
    target(3, tmp_path / "si", new=(), seed=8)
    assert not set(keys()) & set(first)


def test_too_few_frames(inputs, tmp_path):
    with pytest.raises(DataError, match="20 frames and more needs as many; there are 6 beside 3"):
        study(**inputs, **options(tmp_path, frames=(20, 50)))
    with pytest.raises(ConfigError, match="at least 2"):
        study(**inputs, **options(tmp_path, frames=(1, 5)))
    with pytest.raises(ConfigError, match="no policy 'al'"):
        study(**inputs, **options(tmp_path, policies=["al"]))


def made_rows(gain, noise=0.05, counts=(5, 10, 20), draws=4, seed=0):
    """Trainings whose errors fall with the root of the frames; transfer is better by `gain`."""
    rng, rows = np.random.default_rng(seed), []
    for n in counts:
        for k in range(draws):
            for kind, which, factor in (
                ("transfer", "all", 1 / gain), ("scratch", 1.0, 1.0), ("scratch", 0.3, 1.5),
            ):  # fmt: skip
                error = 300 * factor * n**-0.5 * np.exp(noise * rng.normal())
                rows.append(
                    {"kind": kind, "which": which, "n": n, "draw": k, "forces_rmse": error,
                     "energy_rmse": error / 10, "valid_loss": error, "seconds": 1.0, "steps": 10,
                     "n_parameters": 3}
                )  # fmt: skip
    return rows


FACTS = {"model": "bpnn", "policies": ["all"], "frames": [5, 10, 20], "left_out": [50]}


def test_summary_of_a_known_gain():
    result = summary(made_rows(gain=1.5), FACTS)
    found = result.metric("frames_saved_all")
    assert found.value == pytest.approx(1.5**2, rel=0.1)
    assert found.low < 1.5**2 < (found.high or np.inf)
    assert result.provenance["alarm"] == ""
    assert result.provenance["control_rates"] == {"5": 1.0, "10": 1.0, "20": 1.0}
    assert "not measured: 50 frames" in result.provenance["sentences"][-1]
    assert not any("still improving" in s for s in result.provenance["sentences"])
    assert [row["bound"] for row in result.tables["equal"]] == ["", ">", ">"]  # 11, 22, 45
    json.dumps(result.model_dump(mode="json"))


def test_a_control_that_was_not_trained_to_the_end_is_said():
    rows = made_rows(gain=2.0)
    ends = {5: (50, 50, "all epochs done"), 10: (40, 50, "all epochs done"),
            20: (500, 505, "no improvement in 30 validations")}  # fmt: skip
    for row in rows:
        row["best_epoch"], row["epochs"], row["stop_reason"] = ends[row["n"]]
    sentence = summary(rows, FACTS).provenance["sentences"][0]
    assert "frames saved" in sentence
    assert "still improving when its budget ended, in 4 of 12 trainings (5 frames)" in sentence


@pytest.mark.parametrize(("gain", "who"), [(2.0, "from scratch"), (0.1, "with transfer")])
def test_without_a_control_better_than_no_forces_there_is_no_factor(gain, who):
    """From scratch errors are 134, 95 and 67 meV/Å."""
    low, high = (60.0, 100.0) if who == "from scratch" else (300.0, 1000.0)
    none = summary(made_rows(gain, noise=0.01), FACTS | {"zero_forces_rmse": low})
    assert none.metrics == []
    assert none.tables["saved"] == none.tables["equal"] == []
    assert f"{who} nothing was learned" in none.provenance["sentences"][0]
    some = summary(made_rows(gain, noise=0.01), FACTS | {"zero_forces_rmse": high})
    assert some.metric("frames_saved_all") is not None
    said = "From scratch with 5 frames the force error is not below"
    assert any(said in s for s in some.provenance["sentences"]) == (who == "from scratch")


def test_a_learning_rate_at_the_edge_and_draws_that_share_frames_are_said():
    rows = made_rows(gain=2.0)
    sentences = " ".join(summary(rows, FACTS | {"n_pool": 18}).provenance["sentences"])
    assert "With 5, 10, 20 frames the best learning rate of the control is the highest" in sentences
    assert "Draws of 10, 20 frames from a pool of 18" in sentences
    higher = [r | {"which": 3.0, "valid_loss": 1e6} for r in rows if r["which"] == 1.0]
    sentences = " ".join(summary(rows + higher, FACTS | {"n_pool": 100}).provenance["sentences"])
    assert "learning rate" not in sentences
    assert "pool" not in sentences


def test_summary_says_when_transfer_hurts_and_when_it_only_seems_so():
    result = summary(made_rows(gain=0.5), FACTS)
    assert "policy all with 5 frames: 2.0" in result.provenance["alarm"]
    assert "within the noise" not in result.provenance["alarm"]
    assert result.value("frames_saved_all") < 1
    noisy = summary(made_rows(gain=0.98, noise=0.3, seed=3), FACTS).provenance["alarm"]
    assert noisy == "" or "within the noise" in noisy


def test_a_study_that_has_just_begun_can_be_summed_up():
    rows = made_rows(gain=2.0)
    assert summary(rows[:1], FACTS).metrics == []
    assert summary([], FACTS).curves["series"] == []


def test_band_is_that_of_student():
    values = np.exp([0.1, 0.3, 0.2])
    middle, low, high = middle_and_band(values)
    assert middle == pytest.approx(np.exp(0.2))
    assert np.log(high / low) / 2 == pytest.approx(4.302653 * 0.1 / 3**0.5, rel=1e-5)
    assert middle_and_band([2.0]) == (2.0, None, None)
