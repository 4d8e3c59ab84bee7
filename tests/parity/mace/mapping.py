"""Weights of mace-torch -> weights of siliforce's MACE."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from siliforce.models.mace import MACEConfig
from siliforce.nn.mlp import unit_gain
from siliforce.nn.o3.symmetric import monomials, multiplicity, polynomials, symmetric_basis
from siliforce.nn.o3.wigner import wigner_3j

FLIPPED = {(1, d, d) for d in range(2, 7)} | {(3, 4, 6), (4, 4, 5), (4, 5, 6), (5, 5, 5), (5, 6, 6)}
"""Degrees (sorted, up to 6) whose coupling has the other sign in e3nn 0.4.4, which mace-torch
pins, than in newer releases and here. All are couplings that do not conserve natural parity."""


def from_mace_torch(
    weights: Mapping[str, Tensor], config: MACEConfig, n_species: int, silu_gain: float
) -> dict[str, Tensor]:
    """State dict of `MACE` with the function of ScaleShiftMACE's parameters.

    Args:
        weights: its named parameters.
        config: with the same sizes.
        n_species: elements of both.
        silu_gain: the authors' normalisation constant of silu, estimated there by sampling.
    """
    n, last = config.n_channels, config.n_layers - 1
    ratio = silu_gain / unit_gain("silu")
    embedding = weights["node_embedding.linear.weight"].reshape(n_species, n)
    out = {"embedding.weight": embedding / n_species**0.5}
    for k in range(config.n_layers):
        mine, theirs = f"layers.{k}", f"interactions.{k}"
        l_out = config.hidden_l_max if k < last else 0
        out |= _matrices(f"{mine}.enter", weights[f"{theirs}.linear_up.weight"], n, [n] * 99)
        n_radial = len(config.radial_hidden) + 1
        for i in range(n_radial):
            matrix = weights[f"{theirs}.conv_tp_weights.layer{i}.weight"]
            out[f"{mine}.radial.weights.{i}"] = matrix * (ratio if i else 1.0)
        out |= _matrices(f"{mine}.leave", weights[f"{theirs}.linear.weight"], n, _fan_in(config, k))
        skip = weights[f"{theirs}.skip_tp.weight"].reshape(-1, n, n_species, n)
        out[f"{mine}.skip.weight"] = skip.permute(2, 0, 1, 3) / (n * n_species) ** 0.5
        for degree in range(l_out + 1):
            prefix = f"products.{k}.symmetric_contractions.contractions.{degree}"
            for order in range(1, config.correlation + 1):
                lower = config.correlation - 1 - order
                key = f"{prefix}.weights.{lower}" if lower >= 0 else f"{prefix}.weights_max"
                basis = _projection(config.l_max, degree, order)
                name = f"{mine}.products.weights.{degree}_{order}.weight"
                out[name] = torch.einsum("bp,spc->sbc", basis, weights[key])
        out |= _matrices(f"{mine}.mix", weights[f"products.{k}.linear.weight"], n, [n] * 99)
    for k in range(last):
        out[f"readouts.{k}.weights.0"] = weights[f"readouts.{k}.linear.weight"].reshape(n, 1)
    head = f"readouts.{last}"
    out[f"{head}.weights.0"] = weights[f"{head}.linear_1.weight"].reshape(n, -1)
    out[f"{head}.weights.1"] = weights[f"{head}.linear_2.weight"].reshape(-1, 1) * ratio
    return out


def _fan_in(config: MACEConfig, layer: int) -> list[int]:
    """Channels of every degree after the convolution."""
    l_in = config.hidden_l_max if layer else 0
    counts = []
    for l3 in range(config.l_max + 1):
        pairs = [(l1, l2) for l1 in range(l_in + 1) for l2 in range(config.l_max + 1)]
        counts.append(sum(abs(a - b) <= l3 <= a + b and (a + b + l3) % 2 == 0 for a, b in pairs))
    return [c * config.n_channels for c in counts]


def _matrices(name: str, flat: Tensor, n_out: int, fan_in: list[int]) -> dict[str, Tensor]:
    """One matrix per degree out of one flat vector."""
    out, start = {}, 0
    for degree, n_in in enumerate(fan_in):
        if start == flat.numel():
            break
        out[f"{name}.weights.{degree}"] = flat[start : start + n_in * n_out].view(n_in, n_out)
        start += n_in * n_out
    return out


def _projection(l_in: int, degree: int, order: int) -> Tensor:
    """The authors' couplings in terms of the orthonormal symmetric ones, (n_basis, n_couplings).

    They couple factors from left to right and sort the results of every step by (degree, parity).
    """
    steps = [((d, (-1) ** d), (d,), torch.eye(2 * d + 1).double()) for d in range(l_in + 1)]
    for _ in range(order - 1):
        coupled = []
        for (left, parity), degrees, tensor in steps:
            for right in range(l_in + 1):
                for total in range(abs(left - right), left + right + 1):
                    c = _wigner_3j_044(left, right, total) * (2 * total + 1) ** 0.5
                    grown = torch.einsum("a...,abc->c...b", tensor, c)
                    coupled.append(((total, parity * (-1) ** right), (*degrees, right), grown))
        steps = sorted(coupled, key=lambda s: s[0])
    wanted = [s[1:] for s in steps if s[0] == (degree, (-1) ** degree)]
    norm = multiplicity((l_in + 1) ** 2, order)
    rows = {m: k for k, m in enumerate(monomials((l_in + 1) ** 2, order))}
    theirs = torch.stack([polynomials(t, degrees, rows) for degrees, t in wanted])
    ours = symmetric_basis(l_in, degree, order)
    return torch.einsum("bmq,pmq->bp", ours / norm, theirs / norm) / (2 * degree + 1)


def _wigner_3j_044(l1: int, l2: int, l3: int) -> Tensor:
    sign = -1 if tuple(sorted((l1, l2, l3))) in FLIPPED else 1
    return sign * wigner_3j(l1, l2, l3)
