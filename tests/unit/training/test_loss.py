"""The loss against its formulas written out in NumPy."""

import numpy as np
import pytest
import torch

from siliforce.graph import Topology
from siliforce.potential import Prediction
from siliforce.training.loss import LateWeights, Loss, LossConfig, label_counts, residuals
from siliforce.training.metrics import error_summary, error_sums
from tests.unit.training.frames import morse_silicon


@pytest.fixture
def data():
    return morse_silicon(5)


def batch_of(data, indices=None):
    frames = np.arange(len(data)) if indices is None else np.array(indices)
    return data.batch(frames, 3.0, Topology(), torch.float64)


def noisy_prediction(batch, seed=0):
    rng = torch.Generator().manual_seed(seed)
    t = batch.targets

    def noise(x):
        return torch.randn(x.shape, generator=rng, dtype=torch.float64)

    return Prediction(
        torch.nan_to_num(t.energy) + noise(t.energy),
        torch.zeros(batch.graph.n_atoms),
        torch.nan_to_num(t.forces) + noise(t.forces),
        torch.nan_to_num(t.stress) + 0.01 * noise(t.stress),
    )


def mean_terms(config, batch, prediction, scale=1.0):
    sums = Loss(config, scale).sums(residuals(prediction, batch), batch)
    return (sums / label_counts(batch, config.pool)).numpy()


def deltas(batch, prediction):
    t = batch.targets
    n = t.n_atoms.numpy()
    volume = np.abs(np.linalg.det(batch.graph.cell.numpy()))
    e = (prediction.energy - t.energy).numpy() / n
    f = (prediction.forces - t.forces).numpy()
    s = (prediction.stress - t.stress).numpy() * (volume / n)[:, None, None]
    return e, f, s


def test_mse_pair(data):
    batch = batch_of(data)
    prediction = noisy_prediction(batch)
    e, f, s = deltas(batch, prediction)
    terms = mean_terms(LossConfig(kind="mse"), batch, prediction, scale=2.0)
    expected = [np.mean(e**2) / 4, np.sum(f**2) / f.size / 4, np.mean(s**2) / 4]
    np.testing.assert_allclose(terms, expected, rtol=1e-12)


def test_mae_pair_uses_the_length_of_the_force_error(data):
    batch = batch_of(data)
    prediction = noisy_prediction(batch)
    e, f, s = deltas(batch, prediction)
    terms = mean_terms(LossConfig(kind="mae"), batch, prediction)
    frobenius = np.linalg.norm(s.reshape(len(s), 9), axis=1).mean()
    expected = [np.abs(e).mean(), np.linalg.norm(f, axis=1).mean(), frobenius]
    np.testing.assert_allclose(terms, expected, rtol=1e-12)
    terms = mean_terms(LossConfig(kind="mae", norm="component"), batch, prediction)
    np.testing.assert_allclose(terms[1], np.abs(f).mean(), rtol=1e-12)


def test_huber_is_quadratic_then_linear(data):
    batch = batch_of(data)
    prediction = noisy_prediction(batch)
    _, f, _ = deltas(batch, prediction)
    terms = mean_terms(
        LossConfig(kind="huber", norm="component", huber_delta=0.5), batch, prediction
    )
    x = np.abs(f)
    expected = np.where(x < 0.5, 0.5 * x**2, 0.5 * (x - 0.25)).mean()
    np.testing.assert_allclose(terms[1], expected, rtol=1e-12)


def test_pooling_over_structures_differs_and_is_right(data):
    batch = batch_of(data)
    prediction = noisy_prediction(batch)
    _, f, _ = deltas(batch, prediction)
    index = batch.graph.system_index.numpy()
    per_structure = [(f[index == b] ** 2).mean() for b in range(len(data))]
    pooled = mean_terms(LossConfig(kind="mse"), batch, prediction)[1]
    averaged = mean_terms(LossConfig(kind="mse", pool="structures"), batch, prediction)[1]
    np.testing.assert_allclose(averaged, np.mean(per_structure), rtol=1e-12)
    assert abs(averaged / pooled - 1) > 1e-3


@pytest.mark.parametrize("pool", ["atoms", "structures"])
@pytest.mark.parametrize("kind", ["mae", "mse", "huber"])
def test_missing_labels_count_nowhere_and_gradients_stay_finite(data, kind, pool):
    data.energy[0] = np.nan
    data.forces[1][:] = np.nan
    data.forces[2][0] = np.nan
    data.stress[3] = np.nan
    batch = batch_of(data)
    exact = noisy_prediction(batch)
    leaf = exact.forces.clone().requires_grad_()
    # One prediction is exactly right: the length of a zero vector has no gradient of its own.
    with torch.no_grad():
        leaf[-1] = batch.targets.forces[-1]
    energy, stress = exact.energy.clone().requires_grad_(), exact.stress.clone().requires_grad_()
    prediction = Prediction(energy, exact.atom_energies, leaf, stress)
    config = LossConfig(kind=kind, pool=pool, stress=1)
    sums = Loss(config, 1.0).sums(residuals(prediction, batch), batch)
    sums.sum().backward()
    assert sums.isfinite().all()
    for gradient in (leaf.grad, energy.grad, stress.grad):
        assert gradient.isfinite().all()
    assert energy.grad[0] == 0
    assert stress.grad[3].abs().max() == 0
    mask = torch.isnan(batch.targets.forces).any(dim=1)
    assert leaf.grad[mask].abs().max() == 0
    assert (leaf.grad[~mask][:-1].abs().sum(dim=1) > 0).all()
    n_atoms = int((~mask).sum())
    expected = [4, n_atoms if pool == "atoms" else 4, 4]
    assert label_counts(batch, pool).tolist() == expected


def test_sums_over_portions_are_the_sums_over_the_batch(data):
    data.weight[:] = [1, 2, 0.5, 0, 3]
    data.forces[2][0] = np.nan
    whole, config = batch_of(data), LossConfig(kind="mae", pool="structures", stress=1)
    prediction = noisy_prediction(whole)
    total = Loss(config, 1.3).sums(residuals(prediction, whole), whole)
    index = whole.graph.system_index
    parts = torch.zeros(3, dtype=torch.float64)
    counts = torch.zeros(3, dtype=torch.float64)
    for frames in ([0, 1], [2, 3, 4]):
        part = batch_of(data, frames)
        atoms = torch.isin(index, torch.tensor(frames))
        p = Prediction(
            prediction.energy[frames], part.targets.energy, prediction.forces[atoms],
            prediction.stress[frames],
        )  # fmt: skip
        parts += Loss(config, 1.3).sums(residuals(p, part), part)
        counts += label_counts(part, config.pool)
    torch.testing.assert_close(parts, total, rtol=1e-13, atol=0)
    assert counts.tolist() == label_counts(whole, config.pool).tolist()


def test_weight_two_is_a_frame_given_twice(data):
    config = LossConfig(kind="mse", stress=1)
    once = batch_of(data, [0, 1])
    twice = batch_of(data, [0, 1, 1])
    data.weight[1] = 2
    weighted = batch_of(data, [0, 1])

    def sums(batch):
        zero = Prediction(
            torch.zeros_like(batch.targets.energy), batch.targets.energy,
            torch.zeros_like(batch.targets.forces), torch.zeros_like(batch.targets.stress),
        )  # fmt: skip
        return Loss(config, 1.0).sums(residuals(zero, batch), batch)

    torch.testing.assert_close(sums(weighted), sums(twice))
    assert not torch.allclose(sums(weighted), sums(once))


def test_late_weights_take_over():
    config = LossConfig(energy=1, forces=5, late=LateWeights(start=0.8, energy=50, forces=1))
    assert config.weights(0.79) == (1, 5, 0)
    assert config.weights(0.8) == (50, 1, 0)
    late_stress = LossConfig(late=LateWeights(energy=1, forces=1, stress=1))
    assert late_stress.uses == (True, True, True)
    assert LossConfig(energy=0).uses == (False, True, False)


def test_metrics_are_per_component_in_shown_units(data):
    data.forces[1][:] = np.nan
    data.stress[:] = np.nan
    batch = batch_of(data)
    prediction = noisy_prediction(batch)
    summary = error_summary(error_sums(residuals(prediction, batch), batch), "valid")
    e, f, _ = deltas(batch, prediction)
    f = f[~np.isnan(f).any(axis=1)]
    assert summary["valid_energy_mae_mev"] == pytest.approx(1e3 * np.abs(e).mean())
    assert summary["valid_energy_rmse_mev"] == pytest.approx(1e3 * np.sqrt((e**2).mean()))
    assert summary["valid_forces_mae_mev"] == pytest.approx(1e3 * np.abs(f).mean())
    assert summary["valid_forces_rmse_mev"] == pytest.approx(1e3 * np.sqrt((f**2).mean()))
    assert not any("stress" in key for key in summary)
