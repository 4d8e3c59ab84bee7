"""Parts of the ten models, and policies that name them."""

import pytest

from siliforce.errors import ConfigError
from siliforce.training.policy import POLICIES, Policy, freeze, get_policy, rate_factors
from tests.cases import CASES, shared_potential

SCHNET = next(c for c in CASES if c.model == "schnet")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_parts_are_a_partition_in_order(case):
    model = shared_potential(case).model
    parts = model.parts()
    names = [name for part in parts.values() for name in part]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    assert next(iter(parts)) == "input"
    assert list(parts)[-1] == "readout"
    assert len(parts) >= 3  # something lies between them


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_trains_some_of_every_model(case, name):
    model = shared_potential(case).model
    known = {n for n, _ in model.named_parameters()}
    trained = rate_factors(model, get_policy(name)).keys()
    assert trained <= known
    whole = name in ("all", "low_rank") or (case.model.startswith("bpnn") and name == "species")
    assert (trained == known) == whole or (name == "first_last" and len(model.parts()) == 3)


def test_the_first_pattern_that_fits_counts():
    model = shared_potential(SCHNET).model
    policy = Policy(parts={"interactions.1": 0.5, "interactions.*": 0.1, "readout": 1})
    factors = rate_factors(model, policy)
    assert factors["interactions.1.enter.weight"] == 0.5
    assert factors["interactions.0.enter.weight"] == 0.1
    assert "embedding.weight" not in factors


def test_freezing_can_be_taken_back():
    model = shared_potential(SCHNET).model
    freeze(model, get_policy("readout"))
    free = {n for n, p in model.named_parameters() if p.requires_grad}
    assert free == set(model.parts()["readout"])
    freeze(model, get_policy("all"))
    assert all(p.requires_grad for p in model.parameters())


def test_unknown_names_are_answered_with_known_ones():
    model = shared_potential(SCHNET).model
    with pytest.raises(ConfigError, match=r"no part 'readuot'; did you mean 'readout'"):
        rate_factors(model, Policy(parts={"readuot": 1}))
    with pytest.raises(ConfigError, match=r"no policy 'lst'; did you mean 'last'"):
        get_policy("lst")
    with pytest.raises(ValueError, match="at least one is positive"):
        Policy(parts={"*": 0})
