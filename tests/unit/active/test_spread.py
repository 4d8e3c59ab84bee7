"""Spreads of ensembles and of last layers, held against ASE and against finite differences."""

import numpy as np
import pytest
import torch

from siliforce.active import last_layer as module
from siliforce.active.last_layer import drawn_members, last_layer
from siliforce.active.spread import Answers, ask, frame_rms, known_frames, load_ensemble
from siliforce.errors import ConfigError, DataError
from siliforce.simulation.calculator import SiliforceCalculator
from siliforce.training import train
from tests.cases import CASES, build_potential
from tests.unit.training.target import target

SCHNET = next(c for c in CASES if c.model == "schnet")
LAST = {
    "schnet": {"readout.layers.1.weight"},
    "allegro": {"readout.weights.1"},
    "gemnet_dt": {f"outputs.{k}.force.leave.weight" for k in range(3)},
    "mace": {"readouts.0.weights.0", "readouts.1.weights.1"},
}


@pytest.fixture(scope="module")
def silicon(tmp_path_factory):
    return target(6, tmp_path_factory.mktemp("si") / "store", new=())


def test_the_spread_is_that_of_the_calculator(silicon):
    members = [build_potential(SCHNET, seed=k) for k in range(3)]
    answers = ask(members, silicon)
    calculator = SiliforceCalculator(members, "cpu", warn=False)
    by_ase, errors = [], []
    for frame in silicon:
        atoms = frame.to_atoms()
        atoms.calc = calculator
        errors.append(atoms.get_forces() - frame.forces)
        by_ase.append(calculator.results["forces_std"])
    expected = np.sqrt(np.square(np.concatenate(by_ase)).mean(axis=1))
    np.testing.assert_allclose(answers.spread, expected, rtol=1e-6)
    whole = np.concatenate(errors)
    np.testing.assert_allclose(answers.error, np.sqrt((whole**2).mean(axis=1)), rtol=1e-6)
    by_frame = [np.sqrt((e**2).mean()) for e in errors]
    np.testing.assert_allclose(frame_rms(answers.error, answers.n_atoms), by_frame, rtol=1e-6)


def test_some_frames_in_another_order():
    n_atoms = np.array([1, 3, 2])
    forces = np.random.default_rng(0).normal(size=(2, 6, 3))
    part = Answers(forces, forces[0], n_atoms).of([2, 0])
    np.testing.assert_array_equal(part.forces, forces[:, [4, 5, 0]])
    np.testing.assert_array_equal(part.frame, [0, 0, 1])
    assert len(part.of([]).spread) == 0


QUICK = ("schnet", "mace")


@pytest.mark.parametrize(
    "name",
    [n if n in QUICK else pytest.param(n, marks=pytest.mark.full) for n in LAST],
)
def test_the_last_layer_is_found(name, silicon):
    potential = build_potential(next(c for c in CASES if c.model == name))
    graph = silicon.batch([0], potential.cutoff, potential.model.needs, torch.float64).graph
    before = {n: p.clone() for n, p in potential.model.named_parameters()}
    assert set(last_layer(potential, graph)) == LAST[name]
    assert all(torch.equal(p, before[n]) for n, p in potential.model.named_parameters())


def test_draws_follow_the_posterior(silicon, monkeypatch):
    potential, some = build_potential(SCHNET), silicon.subset([0, 1])
    layer = potential.model.readout.layers[1].weight
    columns = []  # of the Jacobian: forces are linear in the layer
    here = ask([potential, potential], some)
    for k in range(layer.numel()):
        with torch.no_grad():
            layer.view(-1)[k] += 1
        columns.append((ask([potential, potential], some).forces[0] - here.forces[0]).ravel())
        with torch.no_grad():
            layer.view(-1)[k] -= 1
    expected = np.stack(columns, axis=1).T @ np.stack(columns, axis=1)
    monkeypatch.setattr(module, "PROBES", 1000)
    monkeypatch.setattr(module, "MOST_PROBES", 100)
    rows, names = np.arange(2), ["readout.layers.1.weight"]
    found, noise = module._precision(potential, some, rows, names, seed=0)
    scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    assert (np.abs(found.numpy() - expected) / scale).max() < 0.3
    assert noise == pytest.approx(np.sqrt(np.mean((here.forces[0] - here.reference) ** 2)))
    draws = module._drawn(torch.from_numpy(expected), noise, 20000, seed=0).numpy()
    ridge = module.RIDGE * np.diag(np.diag(expected))
    covariance = noise**2 * np.linalg.inv(expected + ridge)
    scale = np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
    assert (np.abs(np.cov(draws.T) - covariance) / scale).max() < 0.05


def test_a_last_layer_knows_what_it_was_trained_on(silicon, tmp_path):
    potential = build_potential(SCHNET)
    members = drawn_members(potential, silicon, n_members=8)
    answers = ask(members, silicon)
    own = ask([potential, potential], silicon)
    np.testing.assert_allclose(answers.forces.mean(axis=0), own.forces[0], atol=1e-8)
    half = drawn_members(potential, silicon.subset([0]), n_members=8)
    assert ask(half, silicon).spread[8:].mean() > ask(half, silicon).spread[:8].mean()
    with pytest.raises(DataError, match="needs the training frames"):
        drawn_members(potential, silicon.subset([]))


@pytest.fixture(scope="module")
def run(silicon, tmp_path_factory):
    """An ensemble of two, trained for a moment."""
    folder = tmp_path_factory.mktemp("runs") / "e"
    data = {"source": str(silicon.stores[0].path), "split": {"valid": 0.2, "test": 0.2}}
    choice = {"name": "schnet", "preset": "tiny"}
    train(data, choice, config={"epochs": 2, "seeds": 2, "batch_size": 2}, out=folder, quiet=True)
    return folder


def test_members_and_their_frames(run, silicon):
    ensemble = load_ensemble([run])
    assert (ensemble.method, len(ensemble.members)) == ("ensemble", 2)
    digests = [set(map(bytes, part.records["digest"])) for part in (ensemble.train, ensemble.held)]
    assert not digests[0] & digests[1]
    assert len(digests[0] | digests[1]) == len(silicon)
    one = load_ensemble([run / "seed-0"])
    assert (one.method, len(one.members)) == ("last-layer", module.N_MEMBERS)
    files = [run / "seed-0" / "best.safetensors", run / "seed-1" / "best.safetensors"]
    assert load_ensemble(files).train.hash == ensemble.train.hash


def test_what_is_no_ensemble(run, tmp_path):
    with pytest.raises(ConfigError, match="is one model: an ensemble needs several"):
        load_ensemble([run / "seed-0"], "ensemble")
    with pytest.raises(ConfigError, match="takes one model, 2 are named"):
        load_ensemble([run], "last-layer")
    with pytest.raises(ConfigError, match="allowed are auto, ensemble, last-layer"):
        load_ensemble([run], "gp")
    build_potential(SCHNET).save(tmp_path / "alone.safetensors")
    with pytest.raises(DataError, match="does not say which frames"):
        load_ensemble([tmp_path / "alone.safetensors"])
    assert known_frames([tmp_path / "alone.safetensors"]) == (None, None)
    with pytest.raises(ConfigError, match="different elements"):
        load_ensemble([run, tmp_path / "alone.safetensors"])
