"""Attention among the neighbours of an atom, and its derivatives, a few atoms at a time.

For neighbours j, k of one atom with queries, keys and values of unit length, switches s that fall
to zero at the cutoff, and directions r:

    x_jk = (q_j · k_k / sqrt(width) + 20) s_j s_k
    o_j  = sum_k exp(x_jk) s_j s_k (r_j · r_k) v_k / (sum_k exp(x_jk) + n_empty)

The arrays of neighbours x neighbours are many and large; they live for one piece of the atoms
only, in the processor's cache, and are made again for the derivatives rather than kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

SHIFT = 20.0
"""A neighbour at the cutoff has this much less of a logit than one that is near."""

PIECE = 400_000
"""Numbers in the largest temporary array of a piece (1.6 MB in float32)."""


def gated_attention(
    q: Tensor, k: Tensor, v: Tensor, switch: Tensor, direction: Tensor, n_empty: Tensor
) -> Tensor:
    """The sum o at the head of this file, twice differentiable.

    Args:
        q, k, v: queries, keys and values, not normalised, (n_atoms, n_slots, width).
        switch: zero in empty slots, (n_atoms, n_slots, 1).
        direction: unit vectors, (n_atoms, n_slots, 3).
        n_empty: further empty slots to count in the denominator, (); it may be negative, as long
            as it is more than -n_slots.

    Returns:
        (n_atoms, n_slots, width); zero in empty slots.
    """
    if torch.compiler.is_compiling():
        # A compiler differentiates and fuses the plain form by itself.
        return attend(q, k, v, switch, direction, n_empty)
    return _Attend.apply(q, k, v, switch, direction, n_empty)


def attend(
    q: Tensor, k: Tensor, v: Tensor, switch: Tensor, direction: Tensor, n_empty: Tensor
) -> Tensor:
    """`gated_attention` for all atoms at once, differentiated by torch."""
    a, b, c = (switch * inverse for inverse in _inverse_norms(q, k, v))
    a = a * q.shape[2] ** -0.5
    weights = _weights(q @ k.mT, a, b, switch)
    total = weights.sum(2, keepdim=True) + n_empty
    return (weights * (direction @ direction.mT) * c.mT) @ v * (switch / total)


def attend_gradient(
    gradient: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    switch: Tensor,
    direction: Tensor,
    n_empty: Tensor,
) -> tuple[Tensor, ...]:
    """Gradients of `<gradient, attend(...)>` with respect to q, k, v, switch and direction.

    Factors a, b, c of queries, keys and values are the switch over their norms. What is called
    `d_x` is the gradient with respect to x.
    """
    norms = _inverse_norms(q, k, v)
    a, b, c = (switch * inverse for inverse in norms)
    scale = q.shape[2] ** -0.5
    a = a * scale
    products = q @ k.mT
    weights = _weights(products, a, b, switch)
    total = weights.sum(2, keepdim=True) + n_empty
    factor = switch / total
    gated = weights * (direction @ direction.mT)
    h = gradient @ v.mT
    gated_h = gated * h
    d_factor, d_c = gated_h @ c, gated_h.mT @ factor
    d_x = gated_h * factor * c.mT - weights * (factor * d_factor / total)
    d_products = d_x * a * b.mT
    x_products = d_x * products
    d_a, d_b = x_products @ b, x_products.mT @ a
    d_q = _tangential(d_products @ k, q, a * d_a, norms[0])
    d_k = _tangential(d_products.mT @ q, k, b * d_b, norms[1])
    d_v = _tangential((gated.mT @ (factor * gradient)) * c, v, c * d_c, norms[2])
    d_switch = scale * norms[0] * d_a + norms[1] * d_b + norms[2] * d_c + d_factor / total
    d_switch = d_switch + SHIFT * (d_x @ switch + d_x.mT @ switch)
    d_cosines = weights * h * factor * c.mT
    return d_q, d_k, d_v, d_switch, d_cosines @ direction + d_cosines.mT @ direction


def _inverse_norms(q: Tensor, k: Tensor, v: Tensor) -> list[Tensor]:
    """One over the norms, each (n_atoms, n_slots, 1)."""
    return [torch.linalg.vector_norm(x, dim=2, keepdim=True).reciprocal() for x in (q, k, v)]


def _tangential(d_x: Tensor, x: Tensor, along: Tensor, inverse: Tensor) -> Tensor:
    """A gradient less its part along x, of which `along` is the product with x."""
    return torch.addcmul(d_x, x, along * inverse.square(), value=-1)


def _weights(products: Tensor, a: Tensor, b: Tensor, switch: Tensor) -> Tensor:
    """exp(x)."""
    return torch.addcmul(products * a * b.mT, SHIFT * switch, switch.mT).exp()


def _pieces(q: Tensor) -> list[slice]:
    """Runs of atoms, short ones on a CPU and one of all atoms elsewhere."""
    n_atoms, n_slots, width = q.shape
    widest = max(n_slots * max(n_slots, width), 1)
    step = max(PIECE // widest, 1) if q.device.type == "cpu" else max(n_atoms, 1)
    return [slice(start, start + step) for start in range(0, n_atoms, step)]


def _cut(arguments: Sequence[Tensor], piece: slice) -> list[Tensor]:
    """The piece of all arguments but the last, which belongs to all atoms."""
    return [*(x[piece] for x in arguments[:-1]), arguments[-1]]


class _Attend(torch.autograd.Function):
    """`attend` by pieces; what it saves are its arguments."""

    @staticmethod
    def forward(ctx: Any, *arguments: Tensor) -> Tensor:
        ctx.save_for_backward(*arguments)
        out = torch.empty_like(arguments[0])
        for piece in _pieces(out):
            out[piece] = attend(*_cut(arguments, piece))
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return *_AttendGradient.apply(gradient, *ctx.saved_tensors), None


class _AttendGradient(torch.autograd.Function):
    """`attend_gradient` by pieces."""

    @staticmethod
    def forward(ctx: Any, *arguments: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(*arguments)
        out = tuple(torch.empty_like(x) for x in arguments[1:-1])
        for piece in _pieces(out[0]):
            results = attend_gradient(*_cut(arguments, piece))
            for whole, result in zip(out, results, strict=True):
                whole[piece] = result
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        out = [torch.empty_like(x) for x in ctx.saved_tensors[:-1]]
        for piece in _pieces(out[0]):
            *parts, n_empty = _cut(ctx.saved_tensors, piece)
            leaves = [x.detach().requires_grad_() for x in parts]
            with torch.enable_grad():
                results = attend_gradient(*[*leaves, n_empty])
            found = torch.autograd.grad(results, leaves, [x[piece] for x in cotangents])
            for whole, result in zip(out, found, strict=True):
                whole[piece] = result
        return *out, None
