"""What the contract does not say of MACE."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from siliforce.models.mace import MACE, MACEConfig


def test_paper_preset_has_the_published_sizes() -> None:
    config = MACE.presets["paper"]
    model = MACE(config, n_species=2)
    widths = [tuple(w.shape) for w in model.layers[1].radial.weights]
    assert widths == [(8, 64), (64, 64), (64, 64), (64, 17 * 32)]
    assert model.layers[0].skip.weight.shape == (2, 1, 32, 32)
    assert [w.shape[0] for w in model.layers[1].leave.weights] == [96, 160, 160, 128]


def test_degrees_between_layers_cannot_exceed_the_harmonics() -> None:
    with pytest.raises(ValidationError, match="hidden_l_max is 2, more than l_max = 1"):
        MACEConfig(hidden_l_max=2, l_max=1)


@pytest.mark.parametrize("n_layers", [1, 3])
@pytest.mark.parametrize("correlation", [1, 2])
def test_other_depths_and_body_orders(n_layers: int, correlation: int) -> None:
    config = MACEConfig(n_channels=2, n_layers=n_layers, correlation=correlation, l_max=2)
    model = MACE(config, n_species=1)
    assert len(model.layers) == n_layers
    density = torch.randn(3, 9, 2)
    products = model.layers[0].products(density, torch.zeros(3, dtype=torch.long))
    assert products.shape == (3, 1 if n_layers == 1 else 4, 2)
    assert products.abs().max() > 0
