"""`adapt`: what is frozen stays, what is bad input is said, what is killed goes on."""

import copy
import json
from types import SimpleNamespace

import pytest
import torch

from siliforce.config import load_config
from siliforce.errors import ConfigError, DataError
from siliforce.potential import Potential, read_header
from siliforce.training.adapt import adapt
from siliforce.training.adapted import AdaptConfig, Adapted, fingerprint, stated_difference
from siliforce.training.policy import get_policy, rate_factors
from siliforce.training.runlog import read_metrics
from tests.cases import CASES, build_potential
from tests.toys import TOYS
from tests.unit.training.target import E0, exact, target

FAST = {"epochs": 2, "batch_size": 2, "lr": 1e-2}
QUIET = {"quiet": True}
SCHNET = next(c for c in CASES if c.model == "schnet")


@pytest.fixture(scope="module")
def germanium(tmp_path_factory):
    return target(4, tmp_path_factory.mktemp("data") / "ge")


def extended_like(source, result):
    """The source with the elements of the result, before anything was trained."""
    fresh = copy.deepcopy(source)
    new = [z for z in result.species.numbers if z not in fresh.species.numbers]
    return fresh.extend(new)


QUICK = {"schnet", "mace", "gemnet_dt"}
"""Models of the short run: without and with O(3) products, and one with direct forces."""


@pytest.mark.parametrize(
    "case",
    [c if c.model in QUICK else pytest.param(c, marks=pytest.mark.full) for c in CASES],
    ids=str,
)
def test_what_is_frozen_stays_bit_for_bit(case, germanium, tmp_path):
    """With weight decay and averaging, which must not reach what is frozen either."""
    source = build_potential(case)
    before = fingerprint(source)
    train = FAST | {"policy": "last", "weight_decay": 0.1, "decay": "all"}
    result = adapt(source, germanium, train=train, out=tmp_path / "run", **QUIET)
    # What training starts from: extended, and with constants of the new columns (BPNN).
    still = train | {"lr": 1e-30}
    start = adapt(source, germanium, train=still, out=tmp_path / "still", **QUIET).potential()
    end = result.potential()
    trained = rate_factors(end.model, get_policy("last"))
    assert 0 < len(trained) < len(list(end.model.named_parameters()))
    ours = dict(start.model.named_parameters())
    for name, parameter in end.model.named_parameters():
        same = torch.equal(parameter, ours[name])
        assert same or name in trained, name
    moved = Potential.load(tmp_path / "run")
    assert fingerprint(source) == before  # the source itself is never changed
    assert moved.species.symbols == ("O", "Si", "Ge")
    assert moved.model.mean_neighbors == source.model.mean_neighbors
    assert float(moved.scale) == float(source.scale)
    weights = _checkpoint_weights(tmp_path / "run")
    assert any(not torch.equal(weights[n], ours[n]) for n in trained)


def _checkpoint_weights(folder):
    from siliforce.training import checkpoint

    tensors = checkpoint.load(folder)[0].tensors
    start = "potential.model."
    return {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}


def test_low_rank_updates_have_that_rank_and_files_are_ordinary(germanium, tmp_path):
    source = build_potential(SCHNET)
    train = FAST | {"policy": {"rank": 2}, "epochs": 5, "ema": None}
    result = adapt(source, germanium, train=train, out=tmp_path / "run", **QUIET)
    weights, start = (
        _checkpoint_weights(tmp_path / "run"),
        extended_like(source, result.potential()),
    )
    names = set(read_state(tmp_path / "run" / "best.safetensors"))
    assert names == set(start.state_dict())
    update = weights["interactions.0.enter.weight"] - start.model.interactions[0].enter.weight
    values = torch.linalg.svdvals(update.detach())
    assert values[1] > 1e-6
    assert (values[2:] < 1e-12).all()
    assert result.n_parameters < sum(p.numel() for p in start.model.parameters())


def read_state(path):
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return list(file.keys())


def test_factors_scale_the_steps(germanium, tmp_path):
    """Adam's first step is as long as the learning rate, whatever the gradient."""
    source = build_potential(SCHNET)
    parts = {"readout": 1.0, "input": 0.1}
    train = {"policy": {"parts": parts}, "epochs": 1, "batch_size": 4, "lr": 1e-3, "ema": None}
    train["schedule"] = {"kind": "constant", "warmup": 0.0}
    adapt(source, germanium, train=train, out=tmp_path / "run", **QUIET)
    weights = _checkpoint_weights(tmp_path / "run")
    start = source.extend([32])
    moved = {
        name: (weights[name] - parameter).abs().max().item()
        for name, parameter in start.model.named_parameters()
    }
    assert moved["readout.layers.0.weight"] == pytest.approx(1e-3, rel=0.01)
    assert moved["embedding.weight"] == pytest.approx(1e-4, rel=0.01)
    assert moved["interactions.0.enter.weight"] == 0


def test_the_source_is_the_first_candidate(monkeypatch, germanium, tmp_path):
    """A source that is exact is not made worse: only the new element's E0 was to be found."""
    for name, where in TOYS.items():
        monkeypatch.setitem(__import__("siliforce.models").models.MODELS, name, where)
    train = FAST | {"lr": 0.5, "divergence": 1e30}
    result = adapt(exact(), germanium, train=train, out=tmp_path / "run", **QUIET)
    assert result.best["epoch"] == 0
    assert result.best["valid_forces_mae_mev"] < 1e-6
    found = result.potential().atomic_energies.weight
    assert found.tolist() == pytest.approx([0.0, E0["Ge"]], abs=1e-8)
    assert read_metrics(tmp_path / "run")[0]["valid_energy_mae_mev"] < 1e-6


def test_learns_and_records_where_it_comes_from(germanium, tmp_path):
    source = build_potential(SCHNET)
    source.save(tmp_path / "source.safetensors")
    result = adapt(
        tmp_path / "source.safetensors", germanium, policy="all",
        train={"epochs": 25, "lr": 5e-3, "batch_size": 1}, out=tmp_path / "run", **QUIET,
    )  # fmt: skip
    rows = read_metrics(tmp_path / "run")
    assert result.best["valid_forces_mae_mev"] < 0.7 * rows[0]["valid_forces_mae_mev"]
    header = read_header(tmp_path / "run" / "best.safetensors")
    assert header["card"]["adapted_from"]["source_hash"] == fingerprint(source)
    assert header["card"]["config"]["adapt"]["source"].endswith("source.safetensors")
    config = load_config(tmp_path / "run" / "config.yaml")
    assert config.adapt.source == str(tmp_path / "source.safetensors")
    assert config.train.policy == get_policy("all")


def test_restart_goes_on_bit_for_bit(germanium, tmp_path):
    source = build_potential(SCHNET)

    def run(folder, epochs, restart="never", policy="low_rank"):
        train = FAST | {"epochs": 4, "schedule": "constant", "policy": policy}
        if epochs < 4:
            train["max_time"] = None
        return adapt(source, germanium, train=train, out=folder, restart=restart, **QUIET)

    run(tmp_path / "whole", 4)
    from siliforce.training.trainer import Trainer

    original = Trainer._epoch
    with pytest.MonkeyPatch.context() as patch:

        def dies(self, stop):
            if self.state.epoch == 2:
                self.save()
                raise KeyboardInterrupt
            return original(self, stop)

        patch.setattr(Trainer, "_epoch", dies)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cut", 4)
    run(tmp_path / "cut", 4, restart="auto")
    whole, cut = (_checkpoint_weights(tmp_path / name) for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    with pytest.raises(ConfigError, match=r"train.policy"):
        run(tmp_path / "cut", 4, restart="auto", policy="last")


def test_replay_mixes_source_frames(germanium, tmp_path):
    source, silicon = build_potential(SCHNET), target(9, tmp_path / "si", new=())
    result = adapt(
        source, germanium, replay=silicon, config={"replay_ratio": 2.0},
        train=FAST | {"epochs": 1}, out=tmp_path / "run", **QUIET,
    )  # fmt: skip
    about = json.loads((result.run_dir / "run.json").read_text())
    assert about["n_train"] == 3 + 6
    assert about["n_valid"] == 1
    split = json.loads((result.run_dir / "split.json").read_text())
    assert len(split["rows"]["train"]) == 3


def test_replay_with_another_energy_zero_is_refused(tmp_path):
    data = target(4, tmp_path / "ge", counts=(0, 1), zero=0.5)
    silicon = target(4, tmp_path / "si", new=())
    with pytest.raises(ConfigError, match=r"\+0.4583 eV/atom.*cannot be trained on together"):
        adapt(exact(), data, replay=silicon, train=FAST, out=tmp_path / "run", **QUIET)


@pytest.mark.parametrize("case", [CASES[0], SCHNET], ids=str)
def test_a_target_without_new_elements(case, tmp_path):
    source = build_potential(case)
    data = target(4, tmp_path / "si", new=())
    result = adapt(source, data, train=FAST, out=tmp_path / "run", **QUIET)
    assert result.potential().species.symbols == ("O", "Si")


def test_fewer_frames_than_folds(germanium, tmp_path):
    source = build_potential(SCHNET)
    with pytest.raises(DataError, match=r"4 target frames cannot be divided into 6 folds"):
        adapt(source, germanium, config={"folds": 6}, out=tmp_path / "run", **QUIET)
    with pytest.raises(DataError, match=r"1 target frame cannot"):
        adapt(source, germanium.subset([0]), out=tmp_path / "run", **QUIET)


def test_no_shared_element(tmp_path, germanium):
    data = target(4, tmp_path / "data", new=("Sn",), host="Ge")
    with pytest.raises(DataError, match=r"shares no element.*--set adapt.sources.Ge=Si"):
        adapt(exact(), data, train=FAST, out=tmp_path / "run", **QUIET)
    source = build_potential(SCHNET)
    meant = {"sources": {"Ge": "Si", "Sn": "Si"}}
    result = adapt(source, data, config=meant, train=FAST, out=tmp_path / "run", **QUIET)
    assert result.potential().species.symbols == ("O", "Si", "Ge", "Sn")
    with pytest.raises(ConfigError, match="new elements are Ge, known ones O, Si"):
        adapt(source, germanium, config={"sources": {"Si": "O"}}, out=tmp_path / "x", **QUIET)


def test_given_reference_energies(germanium):
    start = Adapted(build_potential(SCHNET), "x", AdaptConfig(atomic_energies={"Si": -1.0}))
    start.n_target = len(germanium)
    from siliforce.training.console import Console

    with pytest.raises(ConfigError, match="names Si, but only new elements"):
        start._fit_energies(start.source, germanium, (32,), Console(quiet=True))


QE = "QE-6.7 PBE Gamma ecut24Ry fd0.002Ry nspin{} {}"


@pytest.mark.parametrize(
    ("source", "target", "differ"),
    [
        (QE.format(1, "Si.pbe-rrkj.UPF"), QE.format(1, "Si.pbe-rrkj.UPF+Ge.pbe-k.UPF"), False),
        (QE.format(1, "Si.pbe-rrkj.UPF"), QE.format(2, "Si.pbe-rrkj.UPF+P.pbe-n.UPF"), False),
        (QE.format(1, "Si.pbe-rrkj.UPF"), QE.format(1, "Si.pbe-nl.UPF+Ge.pbe-k.UPF"), True),
        ("VASP PBE 520 eV Si", "VASP PBE 520 eV Ge_d+Si", False),
        ("VASP PBE 520 eV Si", "VASP PBE 400 eV Ge_d+Si", True),
        ("VASP PBE 520 eV Si_GW", "VASP PBE 520 eV Ge_d+Si", True),
        ("PBE", "PW91", True),
        ("PBE", "PBE+U", True),
    ],
)
def test_levels_of_theory_are_compared_for_shared_elements(source, target, differ):
    card = SimpleNamespace(level_of_theory=source, elements=[14])
    data = SimpleNamespace(facts={"level_of_theory": target}, elements=(14, 15, 32))
    assert bool(stated_difference(card, data)) is differ
