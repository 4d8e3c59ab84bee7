"""The demonstration: features, domain transfer, frozen layers, and a short run to the page."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from siliforce.errors import ConfigError
from siliforce.indicators.base import Result
from siliforce.report.transfer import claim_sentences, write_molecules_page
from siliforce.training.options import parse
from siliforce.transfer.demo import demonstrate
from siliforce.transfer.molecules import (
    ADDED,
    HIDDEN,
    DemoConfig,
    Learner,
    features,
    load_molecules,
    scratch_inputs,
    train_source,
    transfer_inputs,
    translate,
)

SHORT = DemoConfig(
    sizes=(5, 20), n_source=60, n_test=40, n_draws=3, n_tuned=1, max_steps=30, decays=(1e-5, 1e-3)
)


def bent(r1: float, r2: float, angle: float) -> np.ndarray:
    a = np.radians(angle)
    return np.array([[[0, 0, 0], [r1, 0, 0], [r2 * np.cos(a), r2 * np.sin(a), 0]]], float)


def test_features_do_not_see_which_hydrogen_is_which() -> None:
    molecule = bent(0.9, 1.1, 100.0)
    expected = [[1.0, 0.01, np.cos(np.radians(100.0))]]
    np.testing.assert_allclose(features(molecule), expected, rtol=1e-12)
    np.testing.assert_allclose(features(molecule[:, [0, 2, 1]]), expected, rtol=1e-12)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    np.testing.assert_allclose(features(molecule @ turn + 1.3), expected, rtol=1e-12)


def test_domain_transfer_moves_the_mean_of_the_target_to_the_sources() -> None:
    source, target = load_molecules("h2o")[:200].features, load_molecules("h2s")[:50].features
    moved = translate(target, target.mean(0), source.mean(0))
    torch.testing.assert_close(moved.mean(0), source.mean(0))
    torch.testing.assert_close(moved - target, (source.mean(0) - target.mean(0)).expand(50, 3))


def test_embedded_frames_come_in_order_with_energies_above_the_minimum() -> None:
    for name, minimum in (("h2o", -2078.321157), ("h2s", -10863.514814)):
        molecules = load_molecules(name)
        assert len(molecules) >= 400
        assert molecules.energies.min() > minimum
        assert molecules.features[:, 0].min() > 0.7


def test_only_the_added_layer_and_its_output_are_trained() -> None:
    source = train_source(load_molecules("h2o"), SHORT)
    before, target = source.parameters.clone(), load_molecules("h2s")[:20]
    sizes = (HIDDEN[-1], *ADDED, 1)
    learner = Learner(transfer_inputs(source), sizes, SHORT)
    x, y = target.features[None], target.energies[None]
    parameters, _ = learner.train(x, y, torch.tensor([1e-5], dtype=torch.float64), 2)
    assert parameters.shape == (1, 8 * 4 + 4 + 4 + 1)
    assert torch.equal(source.parameters, before)
    # The whole network, written out: the source's two layers, the added one, the output.
    w1, b1, w2, b2, _ = before[0].split([24, 8, 64, 8, 9])
    w3, b3, w4, b4 = parameters[0].split([32, 4, 4, 1])
    moved = translate(x[0], x[0].mean(0), source.scale.center[0])
    h = torch.tanh(source.scale.apply(moved) @ w1.reshape(3, 8) + b1)
    h = torch.tanh(h @ w2.reshape(8, 8) + b2)
    answer = torch.tanh(h @ w3.reshape(8, 4) + b3) @ w4 + b4
    expected = answer * y[0].std() + y[0].mean()
    torch.testing.assert_close(learner.answer(parameters, x, y, x)[0], expected)


def test_the_control_learns_from_its_own_samples_alone() -> None:
    target = load_molecules("h2s")
    learner = Learner(scratch_inputs, (3, *HIDDEN, 1), SHORT.model_copy(update={"max_steps": 150}))
    x, y = target.features[None, :100], target.energies[None, :100]
    parameters, _ = learner.train(x, y, torch.tensor([1e-6], dtype=torch.float64), 2)
    held = target[100:200]
    wrong = learner.answer(parameters, x, y, held.features[None])[0] - held.energies
    assert wrong.square().mean().sqrt() < 0.1 * held.energies.std()


@pytest.fixture(scope="module")
def result() -> Result:
    return demonstrate(SHORT)


def test_demonstration_is_a_result_with_a_page(result, tmp_path) -> None:
    again = Result.load(result.save(tmp_path))
    assert set(again.curves) == {"transfer", "transfer without moved features", "scratch"}
    few = again.metric("transfer_energy_rmse")
    assert few.low <= few.value <= few.high
    assert few.note == "20 samples"
    assert [row["samples"] for row in again.tables["saved"]] == [5, 20]
    page = write_molecules_page(again, tmp_path / "page.html").read_text()
    assert page.count('<svg class="chart"') == 1
    assert "training from scratch with 20 samples" in page


def test_the_claim_is_judged_only_where_it_was_tested(result) -> None:
    assert not any("claim" in s for s in claim_sentences(result))
    tested = result.model_copy(deep=True)
    few, many = tested.metric("transfer_energy_rmse"), tested.metric("scratch_energy_rmse")
    few.note, many.note = "25 samples", "1000 samples"
    few.value, many.value = 2.0, 1.0
    assert any("does not hold" in s for s in claim_sentences(tested))
    few.value = 0.5
    assert any("without, holds here" in s for s in claim_sentences(tested))


def test_sizes_are_a_rising_curve_of_at_least_three_samples() -> None:
    assert parse(DemoConfig, {"sizes": [20, 5, 20]}).sizes == (5, 20)
    for sizes in ([1, 5], [2], []):
        with pytest.raises(ConfigError, match="each at least 3"):
            parse(DemoConfig, {"sizes": sizes})


def test_more_samples_than_there_are() -> None:
    with pytest.raises(ConfigError, match=r"go up to 100000 .* are left to train on"):
        demonstrate(SHORT.model_copy(update={"sizes": (5, 100_000)}))
