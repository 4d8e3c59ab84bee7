"""Adding a model takes a file, a line and a row: a test names the one that is missing."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

import siliforce.models
from siliforce.errors import ConfigError
from siliforce.models import MODELS, Model, get_model, list_models
from tests.cases import CASES

FILES = {
    p.stem for p in Path(siliforce.models.__file__).parent.glob("*.py")
} - {"__init__", "base"}  # fmt: skip
LINES = {target.split(":")[0].rsplit(".", 1)[1] for target in MODELS.values()}


def test_every_model_has_file_line_and_case() -> None:
    rows = {MODELS[case.model].split(":")[0].rsplit(".", 1)[1] for case in CASES}
    missing = [f"src/siliforce/models/{n}.py does not exist" for n in sorted(LINES - FILES)]
    missing += [f"siliforce.models.MODELS has no line for {n}.py" for n in sorted(FILES - LINES)]
    missing += [f"tests/cases.py has no row for {n}" for n in sorted((FILES | LINES) - rows)]
    assert not missing, "; ".join(missing)


@pytest.mark.parametrize("name", MODELS)
def test_model_declares_what_the_contract_asks(name: str) -> None:
    model_class = get_model(name)
    assert issubclass(model_class, Model)
    assert model_class.name == name
    assert model_class.title
    assert model_class.reference
    assert {"tiny", "small", "paper"} <= set(model_class.presets)
    assert set(model_class.training_presets) <= set(model_class.presets)
    for config in model_class.presets.values():
        assert type(config) is model_class.Config


@pytest.mark.parametrize("name", MODELS)
def test_configuration_is_closed_and_immutable(name: str) -> None:
    config = get_model(name).presets["tiny"]
    with pytest.raises(ValidationError, match="Extra inputs"):
        type(config).model_validate({"no_such_option": 1})
    with pytest.raises(ValidationError, match="frozen"):
        config.cutoff = 3.0  # type: ignore[misc]
    with pytest.raises(ValidationError, match="greater than 0"):
        type(config).model_validate({"cutoff": -1.0})


@pytest.mark.parametrize("name", MODELS)
def test_weights_depend_on_the_seed_alone(name: str) -> None:
    model_class = get_model(name)

    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        model = model_class(model_class.presets["tiny"], 2)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize("name", MODELS)
def test_width_multipliers_make_smaller_and_larger_models(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Channels alone change: cutoff, degrees and numbers of layers stay the preset's."""
    # Sizes need no numbers, and large orthogonal matrices take a minute.
    monkeypatch.setattr(torch.nn.init, "orthogonal_", lambda weight: weight)
    model_class = get_model(name)
    paper = model_class.presets["paper"]
    sizes = []
    for factor in (0.25, 0.5, 1, 2):
        config = model_class.scaled(paper, factor)
        model = model_class(config, 2)
        sizes.append(sum(p.numel() for p in model.parameters()))
        changed = {k for k, v in config.model_dump().items() if v != paper.model_dump()[k]}
        assert changed == (set(model_class.widths) if factor != 1 else set())
    assert sizes == sorted(sizes)
    # Matrices grow with the square, NequIP's products of two kinds of channels with the cube.
    assert all(1.5 < large / small < 8 for small, large in pairwise(sizes)), sizes


@pytest.mark.parametrize("name", MODELS)
def test_a_cap_on_neighbours_is_refused_where_every_edge_needs_its_reverse(name: str) -> None:
    model_class = get_model(name)
    capped = model_class.presets["tiny"].model_copy(update={"max_neighbors": 20})
    if model_class.needs.reverse_edges:
        with pytest.raises(ConfigError, match=f"{re.escape(model_class.title)} needs the reverse"):
            model_class(capped, 2)
    else:
        assert model_class(capped, 2).needs.max_neighbors == 20


def test_unknown_model_gets_a_suggestion() -> None:
    with pytest.raises(ConfigError, match=r"unknown model 'schnett'; did you mean 'schnet'\?"):
        get_model("schnett")
    assert set(MODELS) <= set(list_models())


@pytest.mark.parametrize(
    ("name", "preset", "n_species", "n_weights"),
    [("bpnn", "paper", 2, 497_282), ("schnet", "paper", 2, 8_988_161)],
)
def test_paper_sizes(name: str, preset: str, n_species: int, n_weights: int) -> None:
    model_class = get_model(name)
    model = model_class(model_class.presets[preset], n_species)
    assert sum(p.numel() for p in model.parameters()) == n_weights
