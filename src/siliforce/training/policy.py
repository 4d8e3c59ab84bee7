"""Policies of transfer: which parameters of a source go on learning, and how fast.

A policy names *parts* of a model (`Model.parts`) with a factor on the learning rate. What it does
not name stays frozen, bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

from pydantic import Field, field_validator

from siliforce.errors import ConfigError
from siliforce.models import Model
from siliforce.nn.species_table import SpeciesTable
from siliforce.training.options import Options, did_you_mean

FIRST, LAST, SPECIES = "first", "last", "species"
"""Words that stand for parts of any model: its first part, its last two, its per-species tables."""


class Policy(Options):
    """What is trained, and how fast."""

    parts: dict[str, float] = Field(
        {"*": 1.0},
        description="part, pattern of parts (layers.*), or first, last, species -> factor on the "
        "learning rate; the first that fits a parameter counts, what none fits is frozen",
    )
    lr: float = Field(1.0, gt=0, description="learning rate over that of the preset")
    rank: int | None = Field(
        None, ge=1, description="low-rank update W + BA of matrices with more rows and columns"
    )

    @field_validator("parts")
    @classmethod
    def _not_negative(cls, value: dict[str, float]) -> dict[str, float]:
        if not any(value.values()) or min(value.values()) < 0:
            raise ValueError("factors are zero or positive, and at least one is positive")
        return value


POLICIES: dict[str, Policy] = {
    "all": Policy(lr=0.3),
    "last": Policy(parts={LAST: 1.0}),
    "readout": Policy(parts={"readout": 1.0}),
    "species": Policy(parts={SPECIES: 1.0}),
    "first_last": Policy(parts={FIRST: 1.0, LAST: 1.0}),
    "low_rank": Policy(rank=4),
}
"""Policies by name; a configuration may give its own as `train.policy.parts`, `.lr`, `.rank`."""


def get_policy(name: str, own: Mapping[str, Policy] | None = None) -> Policy:
    """A policy by its name; those of the configuration (`adapt.policies`) come first.

    Raises:
        ConfigError: there is none of that name; the message suggests one.
    """
    known = {**POLICIES, **(own or {})}
    if name not in known:
        hint = did_you_mean(name, list(known))
        raise ConfigError(f"no policy '{name}'; {hint}there are {', '.join(known)}")
    return known[name]


def rate_factors(model: Model, policy: Policy) -> dict[str, float]:
    """Factor on the learning rate of every parameter that is trained, by its name in the model.

    Raises:
        ConfigError: the policy names a part that the model does not have, or nothing is trained.
    """
    parts = model.parts()
    members = {pattern: _members(model, parts, pattern) for pattern in policy.parts}
    for pattern, names in members.items():
        if not names:
            hint = did_you_mean(pattern, list(parts))
            raise ConfigError(
                f"{model.title} has no part '{pattern}'; {hint}its parts are {', '.join(parts)}, "
                f"and any policy may say {FIRST}, {LAST}, {SPECIES}"
            )
    factors: dict[str, float] = {}
    for pattern, factor in policy.parts.items():
        for name in members[pattern]:
            factors.setdefault(name, factor)
    trained = {name: factor for name, factor in factors.items() if factor > 0}
    if not trained:
        raise ConfigError(f"the policy trains nothing of {model.title}")
    return trained


def freeze(model: Model, policy: Policy) -> dict[str, float]:
    """Let only those parameters learn that the policy names.

    Returns:
        `rate_factors`.
    """
    factors = rate_factors(model, policy)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in factors)
    return factors


def _members(model: Model, parts: Mapping[str, tuple[str, ...]], pattern: str) -> set[str]:
    """Names of the parameters that a pattern stands for."""
    if pattern == SPECIES:
        return _species_parameters(model)
    order = list(parts)
    if pattern == FIRST:
        chosen = order[:1]
    elif pattern == LAST:
        chosen = order[-2:]
    else:
        chosen = [part for part in order if fnmatchcase(part, pattern)]
    return {name for part in chosen for name in parts[part]}


def _species_parameters(model: Model) -> set[str]:
    tables = [name for name, m in model.named_modules() if isinstance(m, SpeciesTable)]
    known = dict(model.named_parameters())
    return {f"{table}.weight" for table in tables if f"{table}.weight" in known}
