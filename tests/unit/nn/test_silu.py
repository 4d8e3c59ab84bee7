"""The activation against PyTorch's."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from siliforce.nn import silu as module
from siliforce.nn.silu import silu


def derivatives(function: Callable[[Tensor], Tensor], x: Tensor) -> list[Tensor]:
    """Value, a first derivative and the derivative of a function of it."""
    weight = torch.linspace(-1, 2, x.numel(), dtype=x.dtype).view(x.shape)
    value = function(x)
    (first,) = torch.autograd.grad((value * weight).sum(), x, create_graph=True)
    return [value, first, *torch.autograd.grad(first.sin().sum(), x)]


def test_two_derivatives() -> None:
    x = torch.linspace(-40, 40, 2 * module.PIECE + 6, dtype=torch.float64).requires_grad_()
    expected = derivatives(functional.silu, x)
    for a, b in zip(derivatives(silu, x), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-13)


def test_strided_and_empty_inputs() -> None:
    x = torch.randn(7, 5, dtype=torch.float64).t().requires_grad_()
    assert torch.autograd.gradgradcheck(silu, (x,))
    empty = torch.zeros(0, 5, dtype=torch.float64, requires_grad=True)
    assert all(y.shape == (0, 5) for y in derivatives(silu, empty))
