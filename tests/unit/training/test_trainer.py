"""The trainer: learning, resuming, running out of memory, diverging."""

import dataclasses
import errno
import itertools
import json
import math
import os
import signal

import numpy as np
import pytest
import torch

from siliforce.errors import TrainingError
from siliforce.potential import Potential
from siliforce.training import checkpoint
from siliforce.training.runlog import read_metrics
from tests.unit.training.frames import Heard, make_trainer, morse_silicon, weights


def rows_without_time(run_dir):
    return [{k: v for k, v in row.items() if k != "time_s"} for row in read_metrics(run_dir)]


def test_learns(tmp_path):
    trainer = make_trainer(tmp_path, n_train=24, n_valid=8, epochs=40, loss={"stress": 0.1})
    state = trainer.fit()
    rows = read_metrics(tmp_path)
    assert len(rows) == 40
    assert state.stop_reason == "all epochs done"
    assert rows[-1]["valid_forces_mae_mev"] < 0.5 * rows[0]["valid_forces_mae_mev"]
    assert rows[-1]["valid_energy_mae_mev"] < 0.5 * rows[0]["valid_energy_mae_mev"]
    assert rows[-1]["lr"] == pytest.approx(0, abs=1e-12)
    best = Potential.load(tmp_path / "best.safetensors")
    assert best.card.errors["valid_loss"] == min(row["valid_loss"] for row in rows)


@pytest.mark.parametrize(("clock", "finished"), [("wall", False), ("processor", True)])
def test_what_others_do_does_not_use_up_processor_time(tmp_path, monkeypatch, clock, finished):
    """A machine that stands still for an hour at every look at the clock."""
    standing_still = itertools.count(step=3600)
    monkeypatch.setattr(
        "siliforce.training.trainer.time.monotonic", lambda: float(next(standing_still))
    )
    state = make_trainer(tmp_path, epochs=2, max_time=600, clock=clock).fit()
    assert (state.stop_reason == "all epochs done") == finished
    assert (state.epoch == 2) == finished


def test_metrics_have_the_agreed_columns(tmp_path):
    make_trainer(tmp_path, loss={"stress": 1}).fit()
    row = read_metrics(tmp_path)[0]
    for part in ("train", "valid"):
        assert f"{part}_loss" in row
        for name in ("energy_mae_mev", "energy_rmse_mev", "forces_mae_mev", "forces_rmse_mev"):
            assert row[f"{part}_{name}"] > 0
        assert row[f"{part}_stress_mae_gpa"] > 0
    assert {"epoch", "step", "time_s", "lr"} <= row.keys()


def test_best_is_the_average_on_the_validation_set(tmp_path):
    """Reloaded, the best file gives the validation error that its row claims."""
    trainer = make_trainer(tmp_path, epochs=2)
    trainer.fit()
    valid = trainer.validator.loader
    potential = Potential.load(tmp_path / "best.safetensors")
    batch = valid.batch(np.arange(4))
    error = (potential(batch.graph).forces - batch.targets.forces).abs().mean()
    best = min(read_metrics(tmp_path), key=lambda row: row["valid_loss"])
    assert best["valid_forces_mae_mev"] == pytest.approx(1e3 * error.item(), rel=1e-9)
    running = weights(trainer.potential)
    assert not torch.equal(running, weights(potential))


def test_same_seed_same_weights_and_other_seed_not(tmp_path):
    runs = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        trainer = make_trainer(tmp_path / name, seed=seed)
        trainer.fit()
        runs[name] = weights(trainer.potential)
    assert torch.equal(runs["a"], runs["b"])
    assert not torch.equal(runs["a"], runs["c"])


class StopAt:
    """Raises at a chosen step, in place of a kill."""

    def __init__(self, trainer, step):
        self.trainer, self.step, self.real = trainer, step, trainer._step

    def __call__(self, data, counts):
        if self.trainer.state.step == self.step:
            raise KeyboardInterrupt
        self.real(data, counts)


@pytest.mark.parametrize("step", [1, 4, 6, 8])
@pytest.mark.parametrize("every", [0, 1e9])
def test_resume_is_exact(tmp_path, step, every):
    """Killed at any step, with a checkpoint at every step or only the first."""
    options = {
        "epochs": 3,
        "n_train": 12,
        "checkpoint_every": every,
        "amsgrad": True,
        "weight_decay": 1e-4,
    }
    whole = make_trainer(tmp_path / "whole", **options)
    whole.fit()
    broken = make_trainer(tmp_path / "broken", **options)
    broken._step = StopAt(broken, step)
    with pytest.raises(KeyboardInterrupt):
        broken.fit()
    again = make_trainer(tmp_path / "broken", **options)
    again.restore(checkpoint.load(tmp_path / "broken")[0])
    assert again.state.step == (step if every == 0 else 0)
    again.fit()
    assert torch.equal(weights(whole.potential), weights(again.potential))
    for a, b in zip(whole.optimiser.average, again.optimiser.average, strict=True):
        assert torch.equal(a, b)
    assert rows_without_time(tmp_path / "whole") == rows_without_time(tmp_path / "broken")
    best = [Potential.load(tmp_path / k / "best.safetensors") for k in ("whole", "broken")]
    assert torch.equal(weights(best[0]), weights(best[1]))


def test_signal_saves_and_leaves(tmp_path):
    trainer = make_trainer(tmp_path, epochs=50)
    real = trainer._step

    def step(data, counts):
        real(data, counts)
        if trainer.state.step == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    trainer._step = step
    before = signal.getsignal(signal.SIGTERM)
    state = trainer.fit()
    assert state.stop_reason == "interrupted"
    assert signal.getsignal(signal.SIGTERM) is before
    header = checkpoint.load(tmp_path)[0].header
    assert header["state"]["step"] == 5
    assert header["state"]["stop_reason"] == ""


def test_portions_do_not_change_the_result(tmp_path):
    a = make_trainer(tmp_path / "a", max_edges=10**6)
    b = make_trainer(tmp_path / "b", max_edges=1)
    a.fit()
    b.fit()
    torch.testing.assert_close(weights(a.potential), weights(b.potential), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_out_of_memory_shrinks_the_budget_and_goes_on(tmp_path, error):
    plain = make_trainer(tmp_path / "plain")
    plain.fit()
    heard = Heard()
    tight = make_trainer(tmp_path / "tight", console=heard)
    real, limit = tight.predict, 300

    def predict(graph, create_graph):
        if graph.n_edges > limit:
            raise error
        return real(graph, create_graph)

    tight.predict = predict
    assert max(tight.sampler.cost) <= limit, "a single frame must fit"
    tight.fit()
    assert "out of memory" in heard
    assert tight.state.max_edges < 100_000
    torch.testing.assert_close(
        weights(plain.potential), weights(tight.potential), rtol=1e-9, atol=1e-12
    )


def test_a_frame_that_does_not_fit_is_an_error(tmp_path):
    trainer = make_trainer(tmp_path)

    def predict(graph, create_graph):
        raise torch.OutOfMemoryError("CUDA out of memory")

    trainer.predict = predict
    with pytest.raises(TrainingError, match="largest frame"):
        trainer.fit()


def test_other_runtime_errors_are_not_taken_for_memory(tmp_path):
    trainer = make_trainer(tmp_path)

    def predict(graph, create_graph):
        raise RuntimeError("shapes do not match")

    trainer.predict = predict
    with pytest.raises(RuntimeError, match="shapes do not match"):
        trainer.fit()


def poison(trainer, at_step, times=1):
    """Makes a step's gradient NaN, so many times."""
    real, left = trainer.gradient, [times]

    def gradient(data, factors):
        result = real(data, factors)
        if trainer.state.step == at_step and left[0]:
            left[0] -= 1
            trainer.optimiser.gradient.fill_(math.nan)
        return result

    trainer.gradient = gradient


def test_divergence_restores_and_lowers_the_rate(tmp_path):
    heard = Heard()
    trainer = make_trainer(tmp_path, epochs=4, console=heard)
    poison(trainer, at_step=7)
    state = trainer.fit()
    assert state.stop_reason == "all epochs done"
    assert (state.divergences, state.lr_factor) == (1, 0.5)
    assert "diverged at step 9" in heard
    assert "Back to step 6" in heard
    assert weights(trainer.potential).isfinite().all()
    rows = read_metrics(tmp_path)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert all(math.isfinite(v) for row in rows for v in row.values())


def test_divergence_gives_up_and_keeps_the_best(tmp_path):
    trainer = make_trainer(tmp_path, epochs=4, max_divergences=2)
    poison(trainer, at_step=7, times=99)
    with pytest.raises(TrainingError, match="diverged 3 times"):
        trainer.fit()
    assert weights(Potential.load(tmp_path)).isfinite().all()
    assert weights_finite_in_checkpoint(tmp_path)


def weights_finite_in_checkpoint(run_dir):
    tensors = checkpoint.load(run_dir)[0].tensors
    return all(t.isfinite().all() for k, t in tensors.items() if k.startswith("potential."))


def test_a_validation_loss_far_above_the_best_is_a_divergence(tmp_path):
    trainer = make_trainer(tmp_path, epochs=4, divergence=5.0)
    real, calls = trainer.evaluate, []

    def evaluate():
        loss, sums = real()
        calls.append(loss)
        return (100 * loss if len(calls) == 3 else loss), sums

    trainer.evaluate = evaluate
    state = trainer.fit()
    assert state.divergences == 1
    assert len(read_metrics(tmp_path)) == 4


def test_a_divergence_at_the_very_start(tmp_path):
    trainer = make_trainer(tmp_path, epochs=2)
    poison(trainer, at_step=0)
    assert trainer.fit().divergences == 1


def test_full_disk_is_said_and_training_goes_on(tmp_path, monkeypatch):
    heard = Heard()
    trainer = make_trainer(tmp_path, epochs=3, console=heard, checkpoint_every=0)
    real, calls = checkpoint.save, []

    def save(folder, snapshot):
        calls.append(1)
        if len(calls) in (3, 4):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(folder, snapshot)

    monkeypatch.setattr(checkpoint, "save", save)
    trainer.fit()
    assert "No space left on device" in heard
    assert checkpoint.load(tmp_path)[0].header["state"]["stop_reason"] == "all epochs done"


def test_full_disk_while_the_best_is_written(tmp_path, monkeypatch):
    """The old best stays, and is replaced at the next validation although that is no better."""
    heard = Heard()
    trainer = make_trainer(tmp_path, epochs=3, console=heard)
    losses = iter([3.0, 1.0, 2.0])
    evaluate, save, calls = trainer.evaluate, Potential.save, []
    trainer.evaluate = lambda: (next(losses), evaluate()[1])

    def full_once(self, path):
        calls.append(path)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return save(self, path)

    monkeypatch.setattr(Potential, "save", full_once)
    state = trainer.fit()
    assert "cannot write best.safetensors" in heard
    assert (state.best_epoch, state.best_loss) == (3, 2.0)
    assert Potential.load(tmp_path).card.errors["valid_loss"] == 2.0


def test_full_disk_at_the_end_is_an_error(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path, epochs=1, checkpoint_every=1e9)

    def save(folder, snapshot):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save", save)
    with pytest.raises(
        TrainingError, match="cannot write a checkpoint; the one before stays at the end"
    ):
        trainer.fit()


def test_early_stopping(tmp_path):
    trainer = make_trainer(tmp_path, epochs=50, early_stopping=2, lr=1e-12)
    losses = iter([3.0, 2.0, 2.5, 2.5, 2.5, 2.5])
    real = trainer.evaluate
    trainer.evaluate = lambda: (next(losses), real()[1])
    state = trainer.fit()
    assert (state.epoch, state.best_epoch) == (4, 2)
    assert "no improvement in 2 validations" in state.stop_reason


def test_plateau_lowers_the_rate(tmp_path):
    schedule = {"kind": "plateau", "patience": 2, "factor": 0.1, "warmup": 0}
    trainer = make_trainer(tmp_path, epochs=6, schedule=schedule)
    losses = iter([3.0, 2.0, 2.5, 2.5, 2.5, 1.0])
    real = trainer.evaluate
    trainer.evaluate = lambda: (next(losses), real()[1])
    assert trainer.fit().lr_factor == pytest.approx(0.1)


def test_time_limit_ends_the_schedule(tmp_path, monkeypatch):
    """With a clock that advances by one second a look, the rate ends where the time ends."""
    ticks = iter(range(10**6))
    monkeypatch.setattr("siliforce.training.trainer.time.monotonic", lambda: float(next(ticks)))
    trainer = make_trainer(tmp_path, max_time=60, epochs=None, schedule="linear")
    rates, real = [], trainer.learning_rate

    def learning_rate(fraction):
        rates.append(real(fraction))
        return rates[-1]

    trainer.learning_rate = learning_rate
    state = trainer.fit()
    assert state.stop_reason == "time limit"
    assert 55 <= state.elapsed <= 62
    assert rates[-1] < 0.1 * max(rates)
    assert (np.diff(rates[5:]) <= 0).all()


def test_late_weights_and_one_scale_of_validation(tmp_path):
    loss = {"energy": 1, "forces": 1, "late": {"start": 0.5, "energy": 100, "forces": 1}}
    late = make_trainer(tmp_path / "late", epochs=2, loss=loss)
    late.fit()
    rows = read_metrics(tmp_path / "late")
    assert rows[1]["train_loss"] > 3 * rows[0]["train_loss"]
    assert rows[1]["valid_loss"] < 3 * rows[0]["valid_loss"]


def test_energies_alone(tmp_path):
    data = morse_silicon(16)
    for forces in data.forces:
        forces[:] = np.nan
    data.stress[:] = np.nan
    trainer = make_trainer(tmp_path, data=data, loss={"forces": 0})
    trainer.fit()
    row = read_metrics(tmp_path)[-1]
    assert "valid_forces_mae_mev" not in row
    assert row["valid_energy_mae_mev"] > 0


def test_missing_labels_in_some_frames(tmp_path):
    data = morse_silicon(16)
    data.energy[:4] = np.nan
    data.forces[5][:] = np.nan
    data.stress[::2] = np.nan
    trainer = make_trainer(tmp_path, data=data, loss={"stress": 1})
    assert trainer.fit().divergences == 0
    assert all(math.isfinite(v) for row in read_metrics(tmp_path) for v in row.values())


def test_weight_decay_spares_tables_and_biases(tmp_path):
    trainer = make_trainer(tmp_path, weight_decay=0.1)
    names = {id(p): n for n, p in trainer.potential.named_parameters()}
    decayed, spared = (
        [names[id(p)] for p in g["params"]] for g in trainer.optimiser.adam.param_groups
    )
    assert "model.embedding.weight" in spared
    assert all(n.endswith("bias") or "embedding" in n for n in spared)
    assert decayed
    assert not any(n.endswith("bias") for n in decayed)
    everything = make_trainer(tmp_path, weight_decay=0.1, decay="all").optimiser.adam.param_groups
    assert [g["weight_decay"] for g in everything] == [0.1]


def test_gradient_is_clipped(tmp_path):
    trainer = make_trainer(tmp_path, clip=1e-3)
    trainer.optimiser.gradient.fill_(1.0)
    norm = trainer.optimiser.step(1e-3, 0)
    n = trainer.optimiser.gradient.numel()
    assert norm.item() == pytest.approx(math.sqrt(n))
    assert trainer.optimiser.gradient.norm().item() == pytest.approx(1e-3)


def test_metrics_file_is_cut_to_the_checkpoint(tmp_path):
    trainer = make_trainer(tmp_path, epochs=2)
    trainer.fit()
    path = tmp_path / "metrics.jsonl"
    before = path.read_bytes()
    path.write_bytes(before + b'{"epoch": 3, "half a ro')
    again = make_trainer(tmp_path, epochs=2)
    again.restore(checkpoint.load(tmp_path)[0])
    again.fit()
    assert path.read_bytes() == before
    json.loads(before.splitlines()[-1])


def test_tensorboard_is_written_when_asked(tmp_path):
    pytest.importorskip("tensorboard")
    make_trainer(tmp_path, epochs=1, tensorboard=True).fit()
    assert list((tmp_path / "tensorboard").iterdir())


def test_without_a_compiler_training_goes_on(tmp_path, monkeypatch):
    def fail(*_, **__):
        def call(*_, **__):
            raise RuntimeError("No working C++ compiler found\nand many more lines")

        return call

    monkeypatch.setattr(torch, "compile", fail)
    heard = Heard()
    trainer = make_trainer(tmp_path, epochs=1, console=heard)
    before = trainer.predict
    trainer.compile()
    assert trainer.predict == before
    assert "does not work here (No working C++ compiler found); training goes on" in heard


def test_a_compiler_that_changes_gradients_is_not_used(tmp_path, monkeypatch):
    def wrong(predict, **_):
        def call(graph, create_graph):
            prediction = predict(graph, create_graph)
            return dataclasses.replace(prediction, forces=1.1 * prediction.forces)

        return call

    monkeypatch.setattr(torch, "compile", wrong)
    heard = Heard()
    trainer = make_trainer(tmp_path, epochs=1, console=heard)
    trainer.compile()
    assert "changes gradients" in heard
    assert trainer.predict == trainer._predict


@pytest.mark.full
def test_compiled_training_is_the_same(tmp_path):
    """Needs a C++ compiler, and minutes."""
    heard = Heard()
    plain = make_trainer(tmp_path / "plain", epochs=2)
    plain.fit()
    trainer = make_trainer(tmp_path / "compiled", epochs=2, console=heard)
    trainer.compile()
    assert trainer.predict != trainer._predict, heard.lines
    trainer.fit()
    for a, b in zip(
        read_metrics(tmp_path / "plain"), read_metrics(tmp_path / "compiled"), strict=True
    ):
        assert b["valid_loss"] == pytest.approx(a["valid_loss"], rel=1e-8)
