"""`train` from a file to a run folder, and everything that can be wrong with its input."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from siliforce.config import load_config
from siliforce.data import load_dataset
from siliforce.errors import ConfigError, DataError, ModelFileError, TrainingError
from siliforce.models import MODELS
from siliforce.potential import Potential, read_header
from siliforce.training import TrainConfig, checkpoint, train
from siliforce.training.runlog import read_metrics
from siliforce.training.trainer import Trainer
from tests.toys import TOYS
from tests.unit.training.frames import morse_silicon, weights

FAST = {"epochs": 2, "batch_size": 4, "lr": 5e-3, "dtype": "float64"}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("SILIFORCE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def labelled(n=16, seed=0, stress=True, symbols=None):
    data = morse_silicon(n, seed)
    frames = []
    for k, atoms in enumerate(data.atoms):
        frame = Atoms(atoms)
        if symbols is not None and k % 2:
            frame.numbers[0] = symbols
        labels = {"energy": data.energy[k], "forces": data.forces[k]}
        if stress:
            labels["stress"] = data.stress[k]
        frame.calc = SinglePointCalculator(frame, **labels)
        frames.append(frame)
    return frames


@pytest.fixture
def xyz(tmp_path):
    write(tmp_path / "si.xyz", labelled(), format="extxyz")
    return tmp_path / "si.xyz"


def run(data, **options):
    arguments = {"model": "schnet", "preset": "tiny", "config": FAST, "quiet": True} | options
    return train(data, arguments.pop("model"), **arguments)


def test_a_file_becomes_a_run_folder(xyz, tmp_path):
    result = run(xyz, out="run")
    names = {p.name for p in (tmp_path / "run").iterdir()}
    assert names == {
        "config.yaml", "run.json", "split.json", "metrics.jsonl",
        "last.checkpoint", "previous.checkpoint", "best.safetensors",
    }  # fmt: skip
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    assert about["stop_reason"] == result.stop_reason == "all epochs done"
    assert about["n_parameters"] == result.n_parameters == weights(result.potential()).numel()
    assert about["n_train"] + about["n_valid"] == 16
    assert about["data_hash"]
    assert about["split_hash"]
    assert {"hardware", "versions", "seeds", "wall_s", "epochs", "steps"} <= about.keys()
    assert len(read_metrics("run")) == 2


def test_the_card_says_where_the_potential_comes_from(xyz):
    card = run({"source": str(xyz), "level_of_theory": "Morse", "licence": "CC0"}, out="run")
    card = card.potential().card
    assert (card.level_of_theory, card.licence) == ("Morse", "CC0")
    assert card.elements == ["Si"]
    assert card.n_frames == 14
    assert card.atoms_per_volume[0] < 8 / 5.43**3 < card.atoms_per_volume[1]
    assert 1.8 < card.min_distance["Si-Si"] < 2.4
    assert card.errors["valid_forces_mae_mev"] > 0
    assert card.config["train"]["lr"] == 5e-3


def test_the_resolved_configuration_repeats_the_run(xyz):
    first = run(xyz, out="a")
    config = load_config("a/config.yaml")
    second = train(config.data, config.model, config=config.train, out="b", quiet=True)
    assert torch.equal(weights(first.potential()), weights(second.potential()))
    texts = [Path(k, "config.yaml").read_text() for k in "ab"]
    assert texts[0] == texts[1]


def test_everything_by_default(xyz, tmp_path, monkeypatch):
    """`train(file)`: model, preset, split and folder are chosen; shortened here."""
    monkeypatch.setattr("siliforce.training.state.DEFAULT_EPOCHS", 1)
    result = train(xyz, quiet=True)
    assert result.run_dir.name == "si-mace"
    header = read_header(result.best_path)
    assert (header["model"], header["preset"]) == ("mace", "small")
    again = train(xyz, quiet=True)
    assert again.run_dir.name == "si-mace-2"


def test_the_folder_is_not_overwritten(xyz):
    run(xyz, out="run")
    with pytest.raises(ConfigError, match="--restart auto"):
        run(xyz, out="run")


def test_restart_of_a_finished_run_returns_it(xyz):
    first = run(xyz, out="run")
    before = (first.run_dir / "last.checkpoint").read_bytes()
    second = run(xyz, out="run", restart="auto")
    assert second.best == first.best
    assert (first.run_dir / "last.checkpoint").read_bytes() == before


class Killed(BaseException):
    """In place of a signal."""


def interrupted(monkeypatch, xyz, at_step, **options):
    real = Trainer._step

    def step(self, data, counts):
        if self.state.step == at_step:
            raise Killed
        real(self, data, counts)

    monkeypatch.setattr(Trainer, "_step", step)
    with pytest.raises(Killed):
        run(xyz, **options)
    monkeypatch.setattr(Trainer, "_step", real)


@pytest.mark.parametrize("model", sorted(MODELS))
def test_a_killed_run_goes_on_exactly(xyz, monkeypatch, model):
    config = {**FAST, "checkpoint_every": 0}
    whole = run(xyz, model=model, config=config, out="whole")
    interrupted(monkeypatch, xyz, 5, model=model, config=config, out="broken")
    shutil.rmtree("cache")
    again = run(xyz, model=model, config=config, out="broken", restart="auto")
    assert torch.equal(weights(whole.potential()), weights(again.potential()))
    assert whole.best | {"time_s": 0} == again.best | {"time_s": 0}


def test_a_lost_best_potential_is_written_again(xyz, capsys):
    first = run(xyz, out="run")
    row = read_metrics(first.run_dir)[-1]
    assert row["valid_loss"] == first.best["valid_loss"], "the last epoch must be the best here"
    before = Potential.load(first.best_path)
    first.best_path.unlink()
    again = run(xyz, out="run", restart="auto", quiet=False)
    said = capsys.readouterr()
    assert "was lost: written again" in " ".join((said.out + said.err).split())
    assert torch.equal(weights(Potential.load(again.best_path)), weights(before))


def test_restart_with_another_configuration_says_what_changed(xyz, monkeypatch):
    interrupted(monkeypatch, xyz, 5, out="run")
    changed = {**FAST, "lr": 1e-3, "loss": {"energy": 3}}
    with pytest.raises(ConfigError) as error:
        run(xyz, config=changed, out="run", restart="auto")
    assert "train.lr was 0.005, is 0.001" in str(error.value)
    assert "train.loss.energy was 1.0, is 3.0" in str(error.value)
    with pytest.raises(ConfigError, match=r"model\.cutoff was 4\.0, is 4\.5"):
        run(xyz, model={"name": "schnet", "preset": "tiny", "cutoff": 4.5}, preset=None, out="run",
            restart="auto")  # fmt: skip


def test_an_option_that_came_later_does_not_stop_a_restart(xyz, monkeypatch):
    interrupted(monkeypatch, xyz, 5, out="run")
    snapshot, _ = checkpoint.load("run")
    for section, option in (("train", "joint"), ("train", "ema"), ("model", "cutoff")):
        del snapshot.header["identity"][section][option]
    checkpoint.save("run", snapshot)
    with pytest.raises(
        ConfigError, match=r"configuration: model\.cutoff was 6\.0, is 4\.0\. Restart"
    ):
        run(xyz, out="run", restart="auto")
    snapshot.header["identity"]["model"]["cutoff"] = 4.0
    checkpoint.save("run", snapshot)
    assert run(xyz, out="run", restart="auto").stop_reason == "all epochs done"


def test_restart_with_other_data_is_refused(xyz, tmp_path, monkeypatch):
    interrupted(monkeypatch, xyz, 5, out="run")
    write(tmp_path / "other.xyz", labelled(seed=1), format="extxyz")
    with pytest.raises(ConfigError, match=r"data\.train was"):
        run(tmp_path / "other.xyz", out="run", restart="auto")


def test_how_it_runs_may_change_on_restart(xyz, monkeypatch):
    interrupted(monkeypatch, xyz, 5, out="run")
    config = {**FAST, "max_edges": 200, "checkpoint_every": 0.0}
    assert run(xyz, config=config, out="run", restart="auto").stop_reason == "all epochs done"


def test_damaged_checkpoints(xyz, monkeypatch, capsys):
    interrupted(monkeypatch, xyz, 5, out="run", config={**FAST, "checkpoint_every": 0})
    last = xyz.parent / "run" / "last.checkpoint"
    last.write_bytes(last.read_bytes()[:1000])
    (xyz.parent / "run" / "previous.checkpoint").rename(last.with_name("kept"))
    with pytest.raises(ModelFileError, match="no other checkpoint is left"):
        run(xyz, out="run", restart="auto", config={**FAST, "checkpoint_every": 0})
    last.with_name("kept").rename(last.with_name("previous.checkpoint"))
    result = run(xyz, out="run", restart="auto", config=FAST, quiet=False)
    assert "going on from the checkpoint before" in capsys.readouterr().out
    assert result.stop_reason == "all epochs done"


def test_an_ensemble(xyz, tmp_path):
    result = run(xyz, config={**FAST, "seeds": 2, "seed": 7}, out="run")
    assert [m.run_dir.name for m in result.members] == ["seed-7", "seed-8"]
    manifest = json.loads((tmp_path / "run" / "ensemble.json").read_text())
    potentials = [Potential.load(tmp_path / "run" / m) for m in manifest["members"]]
    assert manifest["complete"]
    assert not torch.equal(weights(potentials[0]), weights(potentials[1]))
    hashes = {p.card.data_hash for p in potentials}
    assert len(hashes) == 1


def test_validation_frames_of_its_own(xyz, tmp_path):
    write(tmp_path / "valid.xyz", labelled(5, seed=3), format="extxyz")
    result = run(xyz, valid=tmp_path / "valid.xyz", out="run")
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (about["n_train"], about["n_valid"]) == (16, 5)
    assert result.potential().card.n_frames == 16


def test_datasets_in_memory(xyz):
    data = load_dataset(xyz)
    result = run(data.subset(np.arange(12)), valid=data.subset(np.arange(12, 16)), out="run")
    assert result.stop_reason == "all epochs done"


@pytest.mark.parametrize("kind", ["normalised", "centred", "none"])
def test_every_normalisation_starts_from_its_reference(xyz, kind):
    result = run(xyz, config={**FAST, "normalise": kind, "lr": 1e-9}, out=kind)
    potential = result.potential()
    energies = np.array([frame.energy / frame.n_atoms for frame in load_dataset(xyz)])
    rows = read_metrics(kind)
    spread = 1e3 * energies.std()
    if kind == "none":
        assert float(potential.atomic_energies.weight) == 0
        assert rows[0]["valid_energy_mae_mev"] > 1e3 * abs(energies.mean()) / 2
    else:
        assert rows[0]["valid_energy_mae_mev"] < 20 * spread
    assert (float(potential.scale) == 1) == (kind != "normalised")


def test_undetermined_reference_energies_are_said(tmp_path, capsys):
    frames = labelled(16)
    for frame in frames:
        labels = frame.calc.results
        frame.numbers[::2] = 32
        frame.calc = SinglePointCalculator(frame, **labels)
    write(tmp_path / "sige.xyz", frames, format="extxyz")
    result = run(tmp_path / "sige.xyz", out="run", quiet=False)
    assert "determine only 1 of 2 E0" in capsys.readouterr().out
    e0 = result.potential().atomic_energies.weight
    assert e0[0] == pytest.approx(float(e0[1]))
    config = {**FAST, "normalise": {"atomic_energies": {"Si": -1.0, "Ge": -2.0}}}
    given = run(tmp_path / "sige.xyz", config=config, out="given", quiet=False)
    assert given.potential().atomic_energies.weight.tolist() == [-1.0, -2.0]


def test_elements_of_the_validation_must_be_trained(xyz, tmp_path):
    write(tmp_path / "valid.xyz", labelled(4, symbols=32), format="extxyz")
    with pytest.raises(DataError, match="has Ge, which no training frame contains"):
        run(xyz, valid=tmp_path / "valid.xyz", out="run")
    assert not (tmp_path / "run").exists()


def test_stress_needs_labels(tmp_path):
    write(tmp_path / "si.xyz", labelled(stress=False), format="extxyz")
    with pytest.raises(DataError, match="no training frame has stress labels"):
        run(tmp_path / "si.xyz", config={**FAST, "loss": {"stress": 1}}, out="run")


def test_stress_needs_a_gradient_model(xyz, monkeypatch):
    monkeypatch.setattr("siliforce.models.MODELS", MODELS | TOYS)
    with pytest.raises(ConfigError, match="predicts forces directly"):
        run(xyz, model="direct-toy", config={**FAST, "loss": {"stress": 1}}, out="run")
    assert run(xyz, model="direct-toy", out="run").stop_reason == "all epochs done"


def test_nothing_to_learn(xyz):
    with pytest.raises(ConfigError, match="nothing to learn"):
        run(xyz, config={**FAST, "loss": {"energy": 0, "forces": 0}}, out="run")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "shnet"}, "did you mean 'schnet'"),
        ({"preset": "smal"}, "did you mean 'small'"),
        ({"model": {"name": "schnet", "n_layer": 3}}, "did you mean 'n_layers'"),
        ({"model": {"name": "schnet", "preset": "tiny", "n_layers": -1}}, "model.n_layers"),
        ({"config": {"learning": 1}}, "unknown key 'train.learning'"),
        ({"config": {**FAST, "device": "gpu"}}, "device 'gpu' cannot be used"),
        ({"config": {**FAST, "max_time": "soon"}}, "a duration reads"),
    ],
)
def test_bad_options_are_one_line(xyz, options, message):
    with pytest.raises(ConfigError, match=message) as error:
        run(xyz, out="run", **({"preset": None} if "model" in options else {}) | options)
    assert "\n" not in str(error.value)


def test_no_data(tmp_path):
    with pytest.raises(DataError):
        run(tmp_path / "missing.xyz", out="run")
    (tmp_path / "empty.xyz").write_text("")
    with pytest.raises(DataError):
        run(tmp_path / "empty.xyz", out="run")


def test_too_few_frames_to_split(tmp_path):
    write(tmp_path / "one.xyz", labelled(1), format="extxyz")
    with pytest.raises(DataError):
        run(tmp_path / "one.xyz", out="run")


def test_no_time_for_a_step_is_an_error_and_names_no_file(xyz):
    with pytest.raises(TrainingError, match=r"before the first step; give train\.max_time"):
        run(xyz, config={**FAST, "epochs": None, "max_time": 1e-9}, out="run")
    assert not Path("run/best.safetensors").exists()


def test_the_config_file_is_yaml_that_people_can_read(xyz):
    run(xyz, out="run")
    content = yaml.safe_load(Path("run/config.yaml").read_text())
    assert list(content) == ["data", "model", "train"]
    assert content["model"]["name"] == "schnet"
    assert TrainConfig(**content["train"]).lr == 5e-3


def command(*arguments):
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "siliforce.cli", *map(str, arguments)],
        env={**os.environ, **threads},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_sigterm_saves_leaves_and_the_same_command_goes_on(xyz):
    line = ["train", xyz, "--model", "schnet", "--preset", "tiny", "--out", "run", "--epochs", 50]
    line += ["--restart", "auto", "--set", "train.checkpoint_every=1e6"]
    process = command(*line)
    while not read_metrics("run") and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert "continue with --restart auto" in said
    about = json.loads(Path("run/run.json").read_text())
    assert about["stop_reason"] == "interrupted"
    assert 0 < about["steps"] < 50 * 14
    process = command(*line)
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 0
    assert "going on at epoch" in said
    assert [row["epoch"] for row in read_metrics("run")] == list(range(1, 51))
