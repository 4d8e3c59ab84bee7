"""Errors of energies, forces and stress, accumulated on the device as sums."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from siliforce.data.batch import Batch
from siliforce.training.loss import Residuals, label_masks
from siliforce.units import EV_PER_A3_IN_GPA

N_SUMS = 9
"""Per quantity: sum of |Δ|, sum of Δ², number of values; energy per atom, forces, stress."""

_QUANTITIES = (("energy", 1e3, "mev"), ("forces", 1e3, "mev"), ("stress", EV_PER_A3_IN_GPA, "gpa"))


@torch.no_grad()
def error_sums(residual: Residuals, batch: Batch) -> Tensor:
    """Sums over a batch, (N_SUMS,), float64; they add over batches and ranks."""
    parts = []
    values = (residual.energy, residual.forces, residual.stress)
    for delta, mask, width in zip(values, label_masks(batch), (1, 3, 9), strict=True):
        if delta is None:
            parts.append(torch.zeros(3, dtype=torch.float64, device=mask.device))
            continue
        delta = delta.detach()
        parts.append(torch.stack([delta.abs().sum(), delta.square().sum(), mask.sum() * width]))
    return torch.cat(parts)


def error_summary(sums: Tensor, prefix: str) -> dict[str, float]:
    """MAE and RMSE in meV/atom, meV/Å and GPa, per component; only of what was labelled."""
    values = sums.tolist()
    result = {}
    for k, (name, factor, unit) in enumerate(_QUANTITIES):
        absolute, square, count = values[3 * k : 3 * k + 3]
        if count:
            result[f"{prefix}_{name}_mae_{unit}"] = factor * absolute / count
            result[f"{prefix}_{name}_rmse_{unit}"] = factor * math.sqrt(square / count)
    return result
