"""A catalogue of compositions: made, killed, extended, summed up."""

import json
import shutil
from dataclasses import asdict

import pytest
import yaml

from siliforce.data import load_dataset
from siliforce.errors import ConfigError, DataError
from siliforce.indicators.base import Result
from siliforce.potential import Potential
from siliforce.training.settings import TrainConfig
from siliforce.transfer.cost import saving
from siliforce.transfer.family import _job, catalogue, load_family, work_on_family
from siliforce.transfer.saved import Amount, Number, Saved
from tests.cases import CASES, build_potential
from tests.toys import toy_potential
from tests.unit.training.target import target

FAST = TrainConfig(epochs=1, batch_size=4)
SCHNET = next(c for c in CASES if c.model == "schnet")


def write(folder, names, **changes):
    targets = [
        {"name": f"Si7{x}", "element": x, "site": "Si", "count": 1, "data": x} for x in names
    ]
    content = {"source": "source.safetensors", "targets": targets} | changes
    (folder / "family.yaml").write_text(yaml.safe_dump(content))
    return load_family(folder / "family.yaml")


@pytest.fixture
def folder(tmp_path):
    source = build_potential(SCHNET)
    source.card.n_frames = 40
    source.save(tmp_path / "source.safetensors")
    for x in ("Ge", "Sn"):
        target(5, tmp_path / x, new=(x,))
    return tmp_path


def test_grows_by_one_composition(folder):
    first = work_on_family(write(folder, ["Ge"]), folder / "out", train=FAST, quiet=True)
    made = (folder / "out" / "Si7Ge" / "best.safetensors").stat().st_mtime_ns
    both = work_on_family(write(folder, ["Ge", "Sn"]), folder / "out", train=FAST, quiet=True)
    assert (folder / "out" / "Si7Ge" / "best.safetensors").stat().st_mtime_ns == made
    assert both.tables["catalogue"][0] == first.tables["catalogue"][0]
    row = both.tables["catalogue"][1]
    assert (row["name"], row["count"], row["concentration"]) == ("Si7Sn", 1, 1 / 8)
    assert row["n_frames"] == 4  # a fifth is kept for the test
    assert row["adapted_forces_rmse"] > 0
    assert row["scratch_forces_rmse"] > 0
    potential = Potential.load(folder / "out" / row["model"])
    assert potential.species.symbols == ("O", "Si", "Sn")
    assert both.value("R_formula") == pytest.approx(saving(3, 40, 4))
    assert both.metric("R_measured") is None
    kept = Result.load(folder / "out" / "results" / "transfer_family.json")
    assert kept.tables == both.tables


def test_a_composition_that_gets_frames_or_settings_is_trained_beside_the_old_one(folder):
    work_on_family(write(folder, ["Ge"]), folder / "out", train=FAST, quiet=True)
    shutil.rmtree(folder / "Ge")
    target(8, folder / "Ge", new=("Ge",))
    grown = work_on_family(write(folder, ["Ge"]), folder / "out", train=FAST, quiet=True)
    (row,) = grown.tables["catalogue"]
    assert grown.provenance["failed"] == []
    assert row["n_frames"] == 6
    assert row["model"].startswith("Si7Ge-")
    assert (folder / "out" / row["model"]).is_file()
    assert (folder / "out" / "Si7Ge" / "best.safetensors").is_file()
    longer = FAST.model_copy(update={"max_time": "60s"})
    longer = TrainConfig.model_validate(longer.model_dump(exclude_unset=True))
    again = work_on_family(write(folder, ["Ge"]), folder / "out", train=longer, quiet=True)
    assert again.provenance["failed"] == []
    assert again.tables["catalogue"][0]["model"] not in (row["model"], "Si7Ge/best.safetensors")


def test_learning_curves_may_follow_without_training_the_model_again(folder):
    work_on_family(write(folder, ["Ge"]), folder / "out", train=FAST, quiet=True)
    made = (folder / "out" / "Si7Ge" / "best.safetensors").stat().st_mtime_ns
    family = write(folder, ["Ge"], study={"frames": [2, 3], "draws": 1})
    found = work_on_family(family, folder / "out", train=FAST, quiet=True)
    assert found.tables["catalogue"][0]["model"] == "Si7Ge/best.safetensors"
    assert (folder / "out" / "Si7Ge" / "best.safetensors").stat().st_mtime_ns == made


def test_one_composition_that_fails_does_not_stop_the_others(folder):
    shutil.rmtree(folder / "Ge")
    target(3, folder / "Ge", new=("Ge",))
    target(12, folder / "Sn2", new=("Sn",))
    family = write(folder, ["Ge", "Sn"], study={"frames": [3], "draws": 1})
    found = work_on_family(family, folder / "out", train=FAST, quiet=True)
    assert [row["name"] for row in found.tables["catalogue"]] == ["Si7Sn"]
    (lost,) = found.provenance["failed"]
    assert lost.startswith("Si7Ge (a study of 3 frames and more needs as many")


def test_test_frames_count_by_what_is_in_them(folder):
    def key():
        family = write(folder, ["Ge"])
        targets = [t.model_copy(update={"test": [str(folder / "t")]}) for t in family.targets]
        source = Potential.load(folder / "source.safetensors")
        frames = load_dataset(targets[0].data)
        return _job(family.model_copy(update={"targets": targets}), targets[0], frames, source, [])

    target(2, folder / "t", new=("Ge",), seed=3)
    first = key()
    assert key() == first
    shutil.rmtree(folder / "t")
    target(2, folder / "t", new=("Ge",), seed=4)
    assert key().key != first.key


def test_policies_are_checked_before_work_begins(folder):
    with pytest.raises(ConfigError, match="did you mean 'last'"):
        work_on_family(write(folder, ["Ge"], policy="lsat"), folder / "out", quiet=True)
    train = TrainConfig(policy="last")
    with pytest.raises(ConfigError, match="name one as policy in the family file"):
        work_on_family(write(folder, ["Ge"]), folder / "out", train=train, quiet=True)
    assert not (folder / "out").exists()


def test_goes_on_after_a_kill(folder, monkeypatch):
    import siliforce.transfer.family as module

    original, begun = module.compare, []

    def dies(*args, **kwargs):
        begun.append(kwargs["out"].name)
        if len(begun) == 2:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    monkeypatch.setattr(module, "compare", dies)
    family = write(folder, ["Ge", "Sn"])
    with pytest.raises(KeyboardInterrupt):
        work_on_family(family, folder / "out", train=FAST, quiet=True)
    found = work_on_family(family, folder / "out", train=FAST, quiet=True)
    assert begun == ["Si7Ge", "Si7Sn", "Si7Sn"]
    assert len(found.tables["catalogue"]) == 2


@pytest.fixture
def forces_are_strong(monkeypatch):
    """Potentials of one epoch count as better than nothing."""
    monkeypatch.setattr("siliforce.transfer.study.Study._zero_forces", lambda self: 1e9)


def test_with_learning_curves_the_saving_is_measured(folder, forces_are_strong):
    family = write(folder, ["Ge"], study={"frames": [2, 3], "draws": 2})
    found = work_on_family(family, folder / "out", train=FAST, quiet=True)
    row = found.tables["catalogue"][0]
    saved = row["at_equal_error"]
    assert saved["policy"] == "all"
    scratch, transfer = (saved[kind]["value"]["value"] for kind in ("scratch", "transfer"))
    assert found.value("R_measured") == pytest.approx((40 + scratch) / (40 + transfer))
    json.dumps(found.model_dump(mode="json"))


def test_bounds_are_said():
    source = toy_potential()
    source.card.n_frames = 100
    two, four = Amount(Number(2.0)), Amount(Number(4.0))
    bounded, exact = Amount(Number(20.0, ">")), Amount(Number(12.0))
    rows = [
        {"name": "a", "n_frames": 10, "alarm": "",
         "at_equal_error": asdict(Saved(bounded, two, 50.0, 1))},
        {"name": "b", "n_frames": 10, "alarm": "worse",
         "at_equal_error": asdict(Saved(exact, four, 50.0, 1))},
    ]  # fmt: skip
    result = catalogue(rows, source, ["c"])
    assert result.value("R_measured") == pytest.approx((100 + 20 + 12) / 106)
    assert result.metric("R_measured").note.startswith("> 1.2, ")
    assert result.provenance["alarms"] == ["b: worse"]


def test_what_is_studied_is_the_policy_of_the_model_files(folder, forces_are_strong):
    curves = {"frames": [2, 3], "draws": 1}
    assert write(folder, ["Ge"], study=curves).study.policies == ["all"]
    assert write(folder, ["Ge"], policy="last", study=curves).study.policies == ["last"]
    both = write(folder, ["Ge"], policy="last", study=curves | {"policies": ["all", "last"]})
    found = work_on_family(both, folder / "out", train=FAST, quiet=True)
    assert found.tables["catalogue"][0]["at_equal_error"]["policy"] == "last"
    with pytest.raises(ConfigError, match=r"study\.policies lacks last"):
        write(folder, ["Ge"], policy="last", study=curves | {"policies": ["all"]})


def test_frames_of_another_composition(folder):
    family = write(folder, ["Ge"])
    wrong = family.targets[0].model_copy(update={"count": 2})
    with pytest.raises(DataError, match=r"frames hold \[1\] atoms of Ge, the family says 2"):
        work_on_family(family.model_copy(update={"targets": [wrong]}), folder / "out", quiet=True)


def test_bad_files(folder):
    with pytest.raises(ConfigError, match=r"did you mean 'study'"):
        write(folder, ["Ge"], studdy={})
    with pytest.raises(ConfigError, match="Si7Ge is there twice"):
        write(folder, ["Ge", "Ge"])
    with pytest.raises(ConfigError, match="not a family file"):
        load_family(folder / "none.yaml")
