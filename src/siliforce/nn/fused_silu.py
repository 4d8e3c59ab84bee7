"""silu with its scale and a skip connection, differentiable twice from its input alone.

Automatic differentiation writes and keeps half a dozen arrays for every activation when the
derivative is to be derived again, as a loss on forces asks. These keep one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

aten = torch.ops.aten


def scaled_silu(x: Tensor, scale: float) -> Tensor:
    """`scale * silu(x)`."""
    if torch.compiler.is_compiling():  # a compiler differentiates and fuses the plain form
        return functional.silu(x) * scale
    return _Silu.apply(x, None, scale, 0.0)


def skip_silu(skip: Tensor, x: Tensor, scale: float, skip_scale: float) -> Tensor:
    """`skip_scale * skip + scale * silu(x)`."""
    if torch.compiler.is_compiling():
        return skip_scale * skip + scale * functional.silu(x)
    return _Silu.apply(x, skip, scale, skip_scale)


class _Silu(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, skip: Tensor | None, scale: float, skip_scale: float
    ) -> Tensor:
        ctx.save_for_backward(x)
        ctx.scale, ctx.skip_scale = scale, skip_scale
        out = functional.silu(x).mul_(scale)
        return out if skip is None else out.add_(skip, alpha=skip_scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        d_skip = gradient * ctx.skip_scale if ctx.needs_input_grad[1] else None
        return _Slope.apply(gradient, x, ctx.scale), d_skip, None, None


class _Slope(torch.autograd.Function):
    """`g * scale * silu'(x)`."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, x: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(gradient, x)
        ctx.scale = scale
        return aten.silu_backward(gradient, x).mul_(scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        """With `silu'' = s (1 - s) (2 + x - 2 x s)`, s the sigmoid of x."""
        gradient, x = ctx.saved_tensors
        scaled, s = cotangent * ctx.scale, x.sigmoid()
        d_gradient = aten.silu_backward(scaled, x)
        curvature = aten.sigmoid_backward(scaled.mul_(gradient), s)
        d_x = s.mul_(x).mul_(-2).add_(x).add_(2).mul_(curvature)
        return d_gradient, d_x, None
