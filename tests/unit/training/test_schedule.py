"""Learning rates over the budget."""

import pytest

from siliforce.training.schedule import ScheduleConfig, learning_rate_factor


def rate(fraction, **options):
    return learning_rate_factor(ScheduleConfig(**options), fraction)


@pytest.mark.parametrize("kind", ["cosine", "linear"])
def test_falls_from_one_to_the_final_value(kind):
    assert rate(0.0, kind=kind, warmup=0) == 1
    assert rate(1.0, kind=kind, warmup=0) == pytest.approx(0)
    assert rate(0.5, kind=kind, warmup=0) == pytest.approx(0.5)
    assert rate(1.0, kind=kind, final=0.1) == pytest.approx(0.1)
    assert rate(3.0, kind=kind, final=0.1) == pytest.approx(0.1)


def test_exponential_halfway_is_the_geometric_mean():
    assert rate(0.5, kind="exponential", warmup=0, final=1e-4) == pytest.approx(1e-2)
    assert rate(1.0, kind="exponential") == pytest.approx(1e-2)


def test_constant_and_plateau_stay():
    assert rate(0.9, kind="constant") == rate(0.9, kind="plateau") == 1


def test_warmup_rises_and_never_starts_at_zero():
    assert rate(0.05, warmup=0.1) == pytest.approx(0.5)
    assert rate(0.1, warmup=0.1) == 1
    assert 0 < rate(0.0, warmup=0.1) < 0.01


def test_hold_delays_the_decay():
    assert rate(0.5, kind="linear", hold=0.5) == 1
    assert rate(0.75, kind="linear", hold=0.5) == pytest.approx(0.5)
