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
from siliforce.transfer.saved import (
    Amount,
    Number,
    Saved,
    frames_needed,
    frames_saved,
    saved_at,
    shared_draws,
)

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


def member(scratch, transfer=1e2, **bound):
    exact = Amount(Number(transfer), Number(transfer), Number(transfer))
    return Saved(Amount(*(Number(scratch * f, **bound) for f in (1, 0.5, 2))), exact, 50.0, 3)


def test_measured_saving_equals_the_formula_for_equal_members():
    found = measured_saving(1e5, [member(1e5)] * 99)
    assert found.value.value == pytest.approx(saving(100, 1e5, 1e2))
    assert found.low.value == pytest.approx((1e5 + 99 * 0.5e5) / (1e5 + 99 * 1e2))
    assert found.high.value == pytest.approx((1e5 + 99 * 2e5) / (1e5 + 99 * 1e2))
    with pytest.raises(ConfigError, match="at least one target"):
        measured_saving(1, [])


def test_a_bound_of_one_member_is_a_bound_of_the_family_and_opposite_ones_say_nothing():
    above, below = member(500.0, bound=">"), member(100.0, bound="<")
    found = measured_saving(100, [above, member(300.0)])
    assert str(found.value) == "> 3"
    assert (found.low.bound, found.high.bound) == (">", ">")
    assert measured_saving(100, [above, below]) is None
    single = Saved(Amount(Number(200.0)), Amount(Number(100.0)), 50.0, 1)
    assert measured_saving(100, [single]).text("") == "1.5"


def power_law(factor, exponent=-0.5):
    return {n: [factor * n**exponent] for n in COUNTS}


@pytest.mark.parametrize("times", [4, 7, 16])
def test_power_laws_give_their_ratio(times):
    """Scratch behind by a factor `times` in frames: its error is larger by the root."""
    found = frames_saved(power_law(100.0), power_law(100.0 * times**0.5))
    assert found.ratio.value.value == pytest.approx(times, rel=1e-9)
    assert found.ratio.value.bound == ""
    text = f"DFT frames saved at equal force error: {times:.2g}× ("
    assert found.sentence().startswith(text)
    assert found.sentence().endswith("; one draw, so without an interval)")


def test_never_extrapolates():
    found = frames_saved(power_law(10.0), power_law(10.0 * 1000))
    assert found.ratio.text() == "> 20×"


def test_transfer_that_hurts():
    found = frames_saved(power_law(200.0), power_law(100.0))
    assert found.ratio.value.value == pytest.approx(0.25)
    assert frames_saved(power_law(1e4), power_law(1.0)).ratio.text() == "< 0.05×"


def test_a_control_that_never_comes_down_to_transfer_is_asked_for_its_error():
    """Its best point may be that of few frames; what counts is that more did not help either."""
    found = frames_saved({4: [562.0], 8: [400.0]}, {4: [2035.0], 8: [2829.0]})
    assert found.ratio.text() == "> 2×"
    assert found.error == pytest.approx(562)
    assert saved_at({4: [562.0], 8: [400.0]}, {4: [2035.0], 8: [2829.0]}, 4).ratio == found.ratio


def noisy(gain, n_draws, rng, counts=(5, 10, 20, 50)):
    """Curves of power 0.4 with 25 % of scatter; transfer is better by a factor."""
    scratch = {n: 300 * n**-0.4 * np.exp(0.25 * rng.normal(size=n_draws)) for n in counts}
    noise = {n: np.exp(0.25 * rng.normal(size=n_draws)) for n in counts}
    return {n: gain * 300 * n**-0.4 * noise[n] for n in counts}, scratch


def holds(amount, truth):
    low = 0 if amount.low.bound == "<" else amount.low.value
    high = np.inf if amount.high.bound == ">" else amount.high.value
    return low <= truth <= high


@pytest.mark.parametrize("n_draws", [2, 3, 20])
@pytest.mark.parametrize("gain", [0.55, 1.3])
def test_the_interval_holds_the_truth_as_often_as_it_says(gain, n_draws):
    """95 % of 200 trials, less three deviations of such a count."""
    rng, truth = np.random.default_rng(0), gain**-2.5
    kept = [holds(frames_saved(*noisy(gain, n_draws, rng)).ratio, truth) for _ in range(200)]
    assert np.mean(kept) >= 0.95 - 3 * (0.95 * 0.05 / 200) ** 0.5


def test_the_interval_shrinks_with_draws():
    """Ten times as many: by the root of ten, and a little more for Student's t."""

    def width(n_draws):
        rng = np.random.default_rng(0)
        found = [frames_saved(*noisy(0.6, n_draws, rng, (1, 10, 100, 1000))) for _ in range(20)]
        return np.mean([np.log(f.ratio.high.value / f.ratio.low.value) for f in found])

    assert width(80) < 0.4 * width(8)


def test_ends_that_are_bounds_are_marked():
    clear = frames_saved({4: [5.0, 5.1, 5.2]}, {4: [50.0, 51.0, 52.0]})
    assert clear.ratio.text() == "> 1× [> 1, > 1]"
    assert "95 % over 3 draws" in clear.sentence()
    vague = frames_saved({4: [5.0, 60.0], 8: [4.0, 40.0]}, {4: [60.0, 7.0], 8: [50.0, 6.0]})
    assert (vague.ratio.low.bound, vague.ratio.high.bound) == ("<", ">")
    assert "2 draws are too few to bound it on either side" in vague.sentence()
    metric = vague.metric("x")
    assert (metric.low, metric.high) == (None, None)
    assert metric.note.startswith(vague.ratio.text())


def test_the_first_crossing_counts_and_later_bumps_are_noise():
    def needed(error):
        return frames_needed({5: [4.0], 10: [2.0], 20: [3.0]}, [error]).value

    assert needed(2.0) == Number(pytest.approx(10.0))
    assert needed(8**0.5) == Number(pytest.approx(50**0.5))
    assert needed(1.0) == Number(20.0, ">")
    assert needed(9.0) == Number(5.0, "<")
    assert needed(4.0) == Number(5.0)


def test_draws_that_share_most_frames_are_said():
    assert shared_draws([5, 10], 20) == []
    assert shared_draws([5, 10], None) == []
    (text,) = shared_draws([5, 11, 20], 20)
    assert "Draws of 11, 20 frames from a pool of 20 share most" in text
