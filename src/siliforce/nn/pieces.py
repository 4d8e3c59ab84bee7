"""Long computations in pieces that fit into the processor's cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def in_pieces(
    function: Callable[..., Tensor], size: int, rows: tuple[Tensor, ...], shared: tuple[Tensor, ...]
) -> Tensor:
    """`function(*rows, *shared)`, computed for a few rows at a time and once more in backward.

    No intermediate array of all rows is ever in memory, in training either. Can be differentiated
    once.

    Args:
        function: its output has a row for each row of the first kind of arguments, and depends on
            that row alone.
        size: numbers in the largest intermediate array per row.
        rows: cut along their first dimension, all of the same length.
        shared: passed as they are.
    """
    if torch.compiler.is_compiling():  # a compiler cuts and fuses by itself
        return function(*rows, *shared)
    return _InPieces.apply(function, size, len(rows), *rows, *shared)


PIECE = 1_000_000
"""Numbers in the largest intermediate array of a piece (4 MB in float32)."""


def _pieces(n_rows: int, size: int, device: torch.device) -> Iterator[slice]:
    step = max(PIECE // size, 1) if device.type == "cpu" else max(n_rows, 1)
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))


class _InPieces(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, function: Callable[..., Tensor], size: int, n_cut: int, *tensors: Tensor
    ) -> Tensor:
        ctx.function, ctx.size, ctx.n_cut = function, size, n_cut
        ctx.save_for_backward(*tensors)
        rows, shared = tensors[:n_cut], tensors[n_cut:]
        if len(rows[0]) == 0:
            return function(*tensors)
        out: Tensor | None = None
        for piece in _pieces(len(rows[0]), size, rows[0].device):
            answer = function(*(r[piece] for r in rows), *shared)
            if out is None:
                out = answer.new_empty(len(rows[0]), *answer.shape[1:])
            out[piece] = answer
        assert out is not None
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        tensors, needed = ctx.saved_tensors, ctx.needs_input_grad[3:]
        n_cut = ctx.n_cut
        out = [torch.zeros_like(t) if n else None for t, n in zip(tensors, needed, strict=True)]
        shared = [t.detach().requires_grad_(n) for t, n in zip(tensors, needed, strict=True)][
            n_cut:
        ]
        for piece in _pieces(len(tensors[0]), ctx.size, tensors[0].device):
            with torch.enable_grad():
                rows = [
                    t[piece].detach().requires_grad_(n)
                    for t, n in zip(tensors[:n_cut], needed[:n_cut], strict=True)
                ]
                inputs = [*rows, *shared]
                answer = ctx.function(*inputs)
            wanted = [k for k, n in enumerate(needed) if n]
            parts = torch.autograd.grad(answer, [inputs[k] for k in wanted], gradient[piece])
            for k, part in zip(wanted, parts, strict=True):
                target = out[k]
                assert target is not None
                if k < n_cut:
                    target[piece] = part
                else:
                    target += part
        return None, None, None, *out
