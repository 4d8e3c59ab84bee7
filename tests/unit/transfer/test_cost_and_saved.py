"""The formulas' figures, and frames saved from curves with a known answer."""

import numpy as np
import pytest

from siliforce.errors import ConfigError
from siliforce.transfer.cost import (
    measured_saving,
    samples_from_scratch,
    samples_with_transfer,
    saving,
)
from siliforce.transfer.saved import equivalent_frames, frames_needed, frames_saved

COUNTS = [5, 10, 20, 50, 100]


@pytest.mark.parametrize(("n", "ratio"), [(100, 91), (1000, 500), (10_000, 909)])
def test_figures_of_the_paper(n, ratio):
    assert round(saving(n, 1e5, 1e2)) == ratio
    assert samples_from_scratch(n, 1e5) == 1e5 * n
    assert samples_with_transfer(n, 1e5, 1e2) == 1e5 + (n - 1) * 1e2


def test_saving_is_bounded_by_the_ratio_of_samples():
    assert saving(10**9, 1e3, 1e2) == pytest.approx(10, rel=1e-3)
    assert saving(10**9, 1e3, 1e2) < 10
    assert saving(1, 1e3, 1e2) == 1


def test_measured_saving_equals_the_formula_for_equal_members():
    assert measured_saving(1e5, [1e2] * 99, [1e5] * 99) == pytest.approx(saving(100, 1e5, 1e2))
    with pytest.raises(ConfigError, match="2 targets with transfer and 1 from scratch"):
        measured_saving(1, [1, 2], [1])


def power_law(factor, exponent=-0.5):
    return {n: [factor * n**exponent] for n in COUNTS}


@pytest.mark.parametrize("times", [4, 7, 16])
def test_power_laws_give_their_ratio(times):
    """Scratch behind by a factor `times` in frames: its error is larger by the root."""
    found = frames_saved(power_law(100.0), power_law(100.0 * times**0.5))
    assert found.ratio == pytest.approx(times, rel=1e-9)
    assert found.bound == ""
    assert found.sentence() == f"DFT frames saved at equal force error: {times:.2g}×"


def test_never_extrapolates():
    found = frames_saved(power_law(10.0), power_law(10.0 * 1000))
    assert found.ratio == pytest.approx(20)
    assert found.bound == ">"
    assert "> 20×" in found.sentence()


def test_transfer_that_hurts():
    found = frames_saved(power_law(200.0), power_law(100.0))
    assert found.ratio == pytest.approx(0.25)
    worst = frames_saved(power_law(1e4), power_law(1.0))
    assert worst.ratio == pytest.approx(0.05)
    assert worst.bound == "<"


def test_interval_covers_the_truth_and_shrinks_with_draws():
    rng, widths = np.random.default_rng(0), []
    for n_draws in (4, 30):
        noise = {n: np.exp(rng.normal(scale=0.2, size=(2, n_draws))) for n in COUNTS}
        transfer = {n: 100 * n**-0.5 * noise[n][0] for n in COUNTS}
        scratch = {n: 300 * n**-0.5 * noise[n][1] for n in COUNTS}
        found = frames_saved(transfer, scratch)
        assert found.low < 9 < found.high
        widths.append(found.high / found.low)
    assert widths[1] < widths[0]


def test_a_bump_is_read_as_noise():
    assert frames_needed([5, 10, 20], [4.0, 2.0, 3.0], 2.0) == pytest.approx(10)
    assert frames_needed([5, 10, 20], [4.0, 2.0, 3.0], 1.0) is None
    assert frames_needed([5, 10, 20], [4.0, 2.0, 3.0], 9.0) == 5


def test_equivalent_frames():
    rows = equivalent_frames([5, 10, 20], [4.0, 2.0, 0.5], [8.0, 4.0, 2.0])
    assert [(n, bound) for n, _, bound in rows] == [(5, ""), (10, ""), (20, ">")]
    assert [value for _, value, _ in rows] == pytest.approx([10, 20, 20])
