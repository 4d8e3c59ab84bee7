"""The couplings of mace-torch's symmetric products, which its model files hold as tables."""

from __future__ import annotations

import torch
from torch import Tensor

from siliforce.models.mace import MACEConfig
from siliforce.nn.o3.wigner import wigner_3j

FLIPPED = {(1, d, d) for d in range(2, 7)} | {(3, 4, 6), (4, 4, 5), (4, 5, 6), (5, 5, 5), (5, 6, 6)}
"""Degrees (sorted, up to 6) whose coupling has the other sign in e3nn 0.4.4, which mace-torch
pins, than in newer releases and here. All are couplings that do not conserve natural parity."""


def tables(config: MACEConfig) -> dict[str, Tensor]:
    """The buffers of all layers by name."""
    out = {}
    for layer in range(config.n_layers):
        l_out = config.hidden_l_max if layer < config.n_layers - 1 else 0
        for degree in range(l_out + 1):
            prefix = f"products.{layer}.symmetric_contractions.contractions.{degree}"
            for order in range(1, config.correlation + 1):
                out[f"{prefix}.U_matrix_{order}"] = table(config.l_max, degree, order)
    return out


def table(l_in: int, degree: int, order: int) -> Tensor:
    """Couplings of `order` features to one degree, (2 L + 1, dim, .. dim, n_couplings).

    Factors are coupled from left to right, and the results of every step sorted by (degree,
    parity).
    """
    dim = (l_in + 1) ** 2
    steps = []
    for d in range(l_in + 1):
        first = torch.zeros(2 * d + 1, dim, dtype=torch.float64)
        first[:, d * d : (d + 1) ** 2] = torch.eye(2 * d + 1)
        steps.append(((d, (-1) ** d), first))
    for _ in range(order - 1):
        coupled = []
        for (left, parity), tensor in steps:
            for right in range(l_in + 1):
                for total in range(abs(left - right), left + right + 1):
                    c = wigner_3j_044(left, right, total) * (2 * total + 1) ** 0.5
                    grown = tensor.new_zeros(2 * total + 1, *tensor.shape[1:], dim)
                    grown[..., right * right : (right + 1) ** 2] = torch.einsum(
                        "a...,abc->c...b", tensor, c
                    )
                    coupled.append(((total, parity * (-1) ** right), grown))
        steps = sorted(coupled, key=lambda s: s[0])
    return torch.stack([t for key, t in steps if key == (degree, (-1) ** degree)], dim=-1)


def wigner_3j_044(l1: int, l2: int, l3: int) -> Tensor:
    sign = -1 if tuple(sorted((l1, l2, l3))) in FLIPPED else 1
    return sign * wigner_3j(l1, l2, l3)
