"""Inputs without correlations and with unit variances."""

from __future__ import annotations

import torch
from torch import Tensor


def whitening(mean: Tensor, covariance: Tensor, floor: float) -> Tensor:
    """Matrix W such that `(x - mean) @ W` has unit variances and no correlations.

    Columns are first scaled by their deviations; principal components whose variance is then
    below `floor` are scaled as if it were `floor`, so that rounding errors are not blown up.
    A column that never varies keeps the scale of its mean.
    """
    deviation = covariance.diagonal().clamp(min=0).sqrt()
    deviation = torch.maximum(deviation, 1e-4 * mean.abs())
    deviation = torch.where(deviation > 0, deviation, torch.ones_like(deviation))
    values, vectors = torch.linalg.eigh(covariance / (deviation[:, None] * deviation))
    return vectors / deviation[:, None] * values.clamp(min=floor).rsqrt()
