"""Functions that fall to zero at the cutoff."""

from __future__ import annotations

import torch
from torch import Tensor


def polynomial_envelope(x: Tensor, p: int) -> Tensor:
    """`1 - (p+1)(p+2)/2 x^p + p(p+2) x^(p+1) - p(p+1)/2 x^(p+2)` for x < 1, else 0.

    Value, first and second derivative vanish at x = 1.

    Args:
        x: length over cutoff.
        p: order, at least 2.

    Reference:
        Gasteiger et al., DimeNet (2020), eq. 8.
    """
    a, b, c = -(p + 1) * (p + 2) / 2, p * (p + 2), -p * (p + 1) / 2
    value = 1 + x**p * (a + x * (b + x * c))
    return torch.where(x < 1, value, torch.zeros_like(value))


def cosine_cutoff(lengths: Tensor, cutoff: float) -> Tensor:
    """`(cos(π r / r_c) + 1) / 2` for r < r_c, else 0; value and first derivative vanish there.

    Reference:
        Behler & Parrinello, PRL 98, 146401 (2007), eq. 4.
    """
    value = 0.5 * (torch.cos(lengths * (torch.pi / cutoff)) + 1)
    return torch.where(lengths < cutoff, value, torch.zeros_like(value))
