"""Which frames a step holds, and how it is cut."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from siliforce.training.sampler import EdgeBudgetSampler, by_rank, within_budget

EDGES = np.array([10, 200, 30, 40, 50, 1000, 70, 80, 90, 100, 0])
ATOMS = np.full(11, 4)


def sampler(**changes):
    options = {"batch_size": 4, "max_edges": 300, "seed": 1} | changes
    return EdgeBudgetSampler(EDGES, ATOMS, **options)


def test_every_frame_once_an_epoch_and_in_another_order():
    s = sampler()
    epochs = [np.concatenate([s.frames(e, k) for k in range(len(s))]) for e in (0, 1)]
    for order in epochs:
        assert sorted(order) == list(range(11))
    assert list(epochs[0]) != list(epochs[1])


def test_order_is_a_function_of_seed_and_epoch_only():
    a, b = sampler(), sampler(max_edges=50, n_ranks=2, rank=1)
    b.frames(7, 0)
    for step in range(len(a)):
        assert list(a.frames(3, step)) == list(b.frames(3, step))
    assert list(sampler(seed=2).frames(3, 0)) != list(a.frames(3, 0))


def test_steps_are_of_nearly_equal_size():
    s = sampler(batch_size=5)
    assert [len(s.frames(0, k)) for k in range(len(s))] == [4, 4, 3]


@pytest.mark.parametrize("n_ranks", [1, 2, 3])
def test_ranks_and_portions_hold_the_step(n_ranks):
    for step in range(len(sampler())):
        frames = sampler().frames(5, step)
        seen = []
        for rank in range(n_ranks):
            s = sampler(n_ranks=n_ranks, rank=rank)
            portions = s.portions(5, step)
            for p in portions:
                assert len(p) == 1 or s.cost[p].sum() <= 300
            seen += [int(i) for p in portions for i in p]
        assert sorted(seen) == sorted(frames)


def test_ranks_are_balanced_by_cost():
    rng = np.random.default_rng(0)
    cost = rng.integers(100, 2000, size=64)
    load = [cost[p].sum() for p in by_rank(np.arange(64), cost, 4)]
    assert max(load) < 1.02 * min(load)


@given(
    st.lists(st.integers(0, 500), min_size=1, max_size=40),
    st.integers(1, 1000),
)
def test_portions_keep_order_and_budget(costs, budget):
    cost = np.array(costs)
    frames = np.arange(len(cost))
    portions = within_budget(frames, cost, budget)
    assert [int(i) for p in portions for i in p] == list(frames)
    assert all(len(p) == 1 or cost[p].sum() <= budget for p in portions)


def test_nothing_to_cut():
    assert within_budget(np.array([], dtype=int), EDGES, 10) == []
