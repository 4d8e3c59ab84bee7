"""Attention by pieces is the plain form, with the derivatives torch would find."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from siliforce.nn import gated_attention as module
from siliforce.nn.gated_attention import attend, gated_attention

N_EMPTY = torch.tensor(-2.0, dtype=torch.float64)
"""Fewer slots than there are, as for an atom with more neighbours than usual."""


@pytest.fixture
def arguments(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """q, k, v, switch and direction of three atoms, the first with two empty slots."""
    monkeypatch.setattr(module, "PIECE", 50)  # two atoms
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 3, 5, 4, dtype=torch.float64).unbind(0)
    switch = torch.rand(3, 5, 1, dtype=torch.float64)
    direction = torch.nn.functional.normalize(torch.randn(3, 5, 3, dtype=torch.float64), dim=2)
    switch[0, 3:], direction[0, 3:] = 0, 0
    return [x.clone().requires_grad_() for x in (q, k, v, switch, direction)]


def test_value_and_derivatives(arguments: list[Tensor]) -> None:
    assert torch.equal(gated_attention(*arguments, N_EMPTY), attend(*arguments, N_EMPTY))
    assert torch.autograd.gradcheck(lambda *a: gated_attention(*a, N_EMPTY), arguments)
    assert torch.autograd.gradgradcheck(lambda *a: gated_attention(*a, N_EMPTY), arguments)


def test_empty_slots_change_nothing(arguments: list[Tensor]) -> None:
    full = [x[:1] for x in arguments]
    short = [x[:, :3] for x in full]
    out = gated_attention(*full, N_EMPTY)
    assert torch.allclose(out[:, :3], gated_attention(*short, N_EMPTY + 2), rtol=1e-12)
    assert (out[:, 3:] == 0).all()
