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


def silu(x: Tensor, scale: float = 1.0) -> Tensor:
    """`scale x / (1 + e^-x)`, elementwise, twice differentiable."""
    # A compiler differentiates and fuses the plain form by itself.
    if torch.compiler.is_compiling():
        return functional.silu(x) * scale
    return _Silu.apply(x, None, scale, 0.0)


def skip_silu(skip: Tensor, x: Tensor, scale: float, skip_scale: float) -> Tensor:
    """`skip_scale skip + scale silu(x)`."""
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
        out = functional.silu(x)
        if scale != 1:
            out.mul_(scale)
        return out if skip is None else out.add_(skip, alpha=skip_scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        d_skip = gradient * ctx.skip_scale if ctx.needs_input_grad[1] else None
        slope = _SiluBackward.apply(gradient.contiguous(), *ctx.saved_tensors, ctx.scale)
        return slope, d_skip, None, None


class _SiluBackward(torch.autograd.Function):
    """`g scale silu'(x)`."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, x: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(gradient, x)
        ctx.scale = scale
        slope = torch.ops.aten.silu_backward(gradient, x)
        return slope if scale == 1 else slope.mul_(scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, Tensor, None]:
        """`c scale silu'(x)` and `c g scale silu''(x)`."""
        gradient, x = ctx.saved_tensors
        first, second = torch.empty_like(gradient), torch.empty_like(gradient)
        step = PIECE if x.device.type == "cpu" else max(x.numel(), 1)
        arrays = (x.contiguous(), gradient, cotangent.contiguous(), first, second)
        pieces = (y.view(-1).split(step) for y in arrays)
        for x_k, g_k, c_k, first_k, second_k in zip(*pieces, strict=True):
            # t = tanh(x / 2), q = (t² - 1) / 4: silu' = (1 + t) / 2 - x q, silu'' = (x t - 2) q.
            t = (0.5 * x_k).tanh_()
            q = t.square().sub_(1).mul_(0.25 * ctx.scale)
            torch.mul(x_k, t, out=second_k).sub_(2).mul_(q).mul_(g_k).mul_(c_k)
            half = 0.5 * ctx.scale
            torch.mul(x_k, q, out=first_k).add_(t, alpha=-half).sub_(half).mul_(c_k).neg_()
        return first, second, None
