"""The activation `silu(x) = x / (1 + e^-x)`, cheap to differentiate twice.

Forces in a loss take the derivative of a derivative. PyTorch writes the first one out in six
elementwise steps for that, keeps what each has made, and goes through all of them once more
backwards; here it stays one kernel that keeps its two inputs, and the second derivative is
computed in pieces that stay in the processor's cache.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

PIECE = 1 << 16
"""Numbers in a piece."""


def silu(x: Tensor) -> Tensor:
    """`x / (1 + e^-x)`, elementwise, twice differentiable."""
    # A compiler differentiates and fuses the plain form by itself.
    return functional.silu(x) if torch.compiler.is_compiling() else _Silu.apply(x)


class _Silu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return functional.silu(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _SiluBackward.apply(gradient.contiguous(), *ctx.saved_tensors)


class _SiluBackward(torch.autograd.Function):
    """`g silu'(x)`."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(gradient, x)
        return torch.ops.aten.silu_backward(gradient, x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, Tensor]:
        """`c silu'(x)` and `c g silu''(x)`."""
        gradient, x = ctx.saved_tensors
        first, second = torch.empty_like(gradient), torch.empty_like(gradient)
        step = PIECE if x.device.type == "cpu" else max(x.numel(), 1)
        arrays = (x.contiguous(), gradient, cotangent.contiguous(), first, second)
        pieces = (y.view(-1).split(step) for y in arrays)
        for x_k, g_k, c_k, first_k, second_k in zip(*pieces, strict=True):
            # t = tanh(x / 2), q = (t² - 1) / 4: silu' = (1 + t) / 2 - x q, silu'' = (x t - 2) q.
            t = (0.5 * x_k).tanh_()
            q = t.square().sub_(1).mul_(0.25)
            torch.mul(x_k, t, out=second_k).sub_(2).mul_(q).mul_(g_k).mul_(c_k)
            torch.mul(x_k, q, out=first_k).add_(t, alpha=-0.5).sub_(0.5).mul_(c_k).neg_()
        return first, second
