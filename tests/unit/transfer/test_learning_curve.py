"""Samples saved: read between measured sizes, bounds beyond them."""

from __future__ import annotations

import numpy as np
import pytest

from siliforce.transfer.learning_curve import Curve, samples_for, samples_saved

SIZES = (10, 100, 1000)


def curve(factor: float, noise: float = 0.0) -> Curve:
    """Error 1 / sqrt(n), times a factor; 20 draws."""
    rng = np.random.default_rng(0)
    means = factor / np.sqrt(np.array(SIZES, float))
    return Curve(SIZES, means[:, None] * (1 + noise * rng.normal(size=(3, 20))))


def test_power_laws_are_read_exactly() -> None:
    saving = samples_saved(curve(1.0), curve(2.0), 10)  # a factor 2 of the error is 4 in samples
    assert saving.factor == pytest.approx(4.0)
    assert (saving.low, saving.high) == (pytest.approx(4.0), pytest.approx(4.0))
    assert saving.sentence() == "4× [4, 4]"


def test_noise_widens_the_interval() -> None:
    saving = samples_saved(curve(1.0, 0.3), curve(2.0, 0.3), 100)
    assert saving.low < saving.factor < saving.high
    assert saving.low > 2
    assert saving.high < 8


def test_nothing_is_extrapolated() -> None:
    assert samples_saved(curve(0.1), curve(2.0), 100).sentence() == "> 10×"
    assert samples_saved(curve(9.0), curve(1.0), 10).sentence() == "< 1×"


def test_first_crossing_counts() -> None:
    errors = np.array([4.0, 1.0, 3.0])
    assert samples_for(SIZES, errors, 1.0) == (pytest.approx(100.0), "")
    assert samples_for(SIZES, errors, 2.0) == (pytest.approx(np.sqrt(1000.0)), "")
    assert samples_for(SIZES, errors, 0.5) == (1000.0, ">")


def test_interval_of_the_mean_shrinks_with_the_draws() -> None:
    rng = np.random.default_rng(1)
    few, many = (Curve((5,), rng.normal(10, 1, size=(1, n))) for n in (10, 160))
    widths = [float((c.interval()[1] - c.interval()[0])[0]) for c in (few, many)]
    assert widths[0] > 2 * widths[1]
    assert widths[1] == pytest.approx(2 * 1.96 / np.sqrt(160), rel=0.25)
