"""Predicted errors against errors of known size."""

import json

import numpy as np
import pytest

from siliforce.active.calibration import Calibration, calibrate, checked, labelled, quality, rms
from siliforce.active.rule import Outlook, force_error, outlook
from siliforce.active.spread import Answers
from siliforce.errors import ConfigError, DataError


def made(error_of, n_frames=8, n_atoms=64, n_members=20, seed=0):
    """Members whose spread is drawn, with normal errors whose size is a function of it."""
    rng, n = np.random.default_rng(seed), n_frames * n_atoms
    spread = np.exp(rng.normal(size=n) - 3)
    errors = rng.normal(size=(n, 3)) * error_of(spread)[:, None]
    apart = rng.normal(size=(n_members, n, 3))
    apart -= apart.mean(axis=0)
    apart /= np.sqrt(apart.var(axis=0, ddof=1).mean(axis=1))[None, :, None]
    return Answers(apart * spread[None, :, None], -errors, np.full(n_frames, n_atoms))


def test_a_known_multiple_is_found():
    held = made(lambda s: 2.5 * s)
    found = calibrate(held)
    assert found.map.kind == "scale"
    assert found.map.scale == pytest.approx(2.5, rel=0.05)
    assert 1 <= found.factor(100) < 1.15
    measures = checked(held)
    assert measures["within"] == pytest.approx(0.95, abs=0.02)
    assert measures["deviation"] < 0.1
    assert measures["spearman"] > 0.8
    assert sum(row["n"] for row in measures["reliability"]) == 512


def test_where_a_multiple_is_not_enough_a_curve_is_taken():
    held = made(lambda s: 0.1 + 0.5 * s)
    found = calibrate(held)
    assert found.map.kind == "isotonic"
    assert np.all(np.diff(found.map.errors) >= 0)
    some = np.array([0.01, 0.05, 0.2])
    assert found.map(some) == pytest.approx(0.1 + 0.5 * some, rel=0.25)
    far = 10 * held.spread.max()
    assert found.map(np.array([2 * far])) == pytest.approx(2 * found.map(np.array([far])))
    assert checked(held)["within"] == pytest.approx(0.95, abs=0.03)
    again = Calibration.from_json(json.loads(json.dumps(found.to_json())))
    assert again == found


def test_one_frame_promises_nothing_and_identical_members_say_one_error():
    assert calibrate(made(lambda s: s, n_frames=1)).factor(9) is None
    same = Answers(np.zeros((3, 8, 3)), np.full((8, 3), 0.2), np.array([4, 4]))
    found = calibrate(same)
    assert found.map.kind == "constant"
    assert found.map(np.array([0.0, 1.0])) == pytest.approx([0.2, 0.2])
    assert checked(same)["spearman"] is None
    unlabelled = Answers(np.zeros((2, 4, 3)), np.full((4, 3), np.nan), np.array([4]))
    with pytest.raises(DataError, match="held-out frames with forces"):
        calibrate(unlabelled)
    half = Answers(np.zeros((2, 8, 3)), np.vstack([unlabelled.reference, np.zeros((4, 3))]),
                   np.array([4, 4]))  # fmt: skip
    assert len(labelled(half).n_atoms) == 1


def test_frames_that_differ_make_the_bound_wide():
    calm, wild = made(lambda s: s, n_frames=2), made(lambda s: s, n_frames=2)
    wild.reference[:64] *= 3
    assert calibrate(wild).factor(9) > 2 * calibrate(calm).factor(9)


def frames(rng, n_frames, scatter, sizes, n_atoms=16):
    """Two members; how far the error of a frame is from its spread is scattered over the frames.

    `scatter` of the logarithm of that ratio, `sizes` of the logarithm of a frame's spread.
    """
    size, ratio = np.exp(np.array([[sizes], [scatter]]) * rng.normal(size=(2, n_frames)))
    spread = np.repeat(size, n_atoms) * np.exp(0.3 * rng.normal(size=n_frames * n_atoms))
    apart = spread[:, None] * np.full(3, 0.1)
    errors = (
        rng.normal(size=(n_frames * n_atoms, 3)) * (spread * np.repeat(ratio, n_atoms))[:, None]
    )
    return Answers(np.stack([errors + apart, errors - apart]), np.zeros_like(errors),
                   np.full(n_frames, n_atoms))  # fmt: skip


@pytest.mark.parametrize("n_held", [5, 13, 26, 60])
@pytest.mark.parametrize(("scatter", "sizes"), [(0.5, 0.0), (0.3, 0.5)])
def test_the_bound_holds_where_pool_and_held_out_frames_are_alike(n_held, scatter, sizes):
    rng, kept, factors, n_trials = np.random.default_rng(n_held), 0, [], 80
    for _ in range(n_trials):
        held, pool = (frames(rng, n, scatter, sizes) for n in (n_held, 60))
        found = calibrate(held)
        seen = outlook(found, pool.spread, 60, held.spread.max())
        kept += rms(pool.error) <= seen.upper
        factors.append(seen.upper / seen.error)
    assert kept / n_trials > 0.88  # of 95 %, three standard errors below
    assert n_held < 13 or np.median(factors) < 2  # nor is it a bound that nothing could break


def test_quality_of_an_oracle():
    error = np.linspace(0.1, 1, 100)
    found = quality(error, error, np.full(4, 25))
    assert (found["spearman"], found["spearman_frames"]) == (pytest.approx(1), pytest.approx(1))
    assert found["deviation"] == pytest.approx(0, abs=1e-12)
    assert found["predicted"] == found["true"] == pytest.approx(np.sqrt(np.mean(error**2)))
    assert quality(error / 10, error, np.full(4, 25))["within"] == 0


def test_the_rule_stops_and_goes_on():
    calibration = calibrate(made(lambda s: 2.0 * s))
    spread = np.full(100, 0.02)
    found = outlook(calibration, spread, n_frames=10, largest=0.01)
    assert found.error == pytest.approx(0.04, rel=0.06)
    assert found.beyond == 1
    assert found.stop(0.05) is True
    assert found.stop(found.error) is False  # the bound counts, not the mean
    assert "stop" in found.sentence(0.05)
    assert "go on" in found.sentence(0.03)
    assert Outlook(0.04, None, 0.0).stop(1.0) is None
    assert "hold out two frames" in Outlook(0.04, None, 0.0).sentence(1.0)


@pytest.mark.parametrize("text", ["50meV", "50 meV/Å", "0.05eV", "0.05 eV/A"])
def test_errors_are_read_with_their_unit(text):
    assert force_error(text) == pytest.approx(0.05)


@pytest.mark.parametrize("text", ["50", "0meV", "-5meV", "fifty meV", "1.2.3meV"])
def test_errors_without_sense_are_refused(text):
    with pytest.raises(ConfigError, match="write 50meV"):
        force_error(text)
