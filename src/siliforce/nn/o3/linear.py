"""Maps between channels, and the network that turns distances into path weights.

Features are (n, (l_max + 1)², n_channels): components by degree, channels last.

Weights are drawn with unit variance and the fan-in factor is applied at each call, as in the
papers' code: with an optimiser of fixed step size the two parametrisations train differently.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from siliforce.nn.mlp import unit_gain
from siliforce.nn.o3.irreps import Irrep


def split_degrees(features: Tensor) -> tuple[Tensor, ...]:
    """(n, (l_max + 1)², n_channels) -> one (n, 2 l + 1, n_channels) per degree."""
    l_max = round(features.shape[1] ** 0.5) - 1
    return features.split([2 * degree + 1 for degree in range(l_max + 1)], dim=1)


class DegreeLinear(nn.Module):
    """One matrix between channels for every degree.

    Attributes:
        weights: per degree, (n_in, n_out).
    """

    def __init__(self, n_in: Sequence[int], n_out: int) -> None:
        """Build for `n_in[l]` input channels of degree l."""
        super().__init__()
        self.weights = nn.ParameterList(torch.randn(n, n_out) for n in n_in)

    def forward(self, parts: Sequence[Tensor]) -> Tensor:
        """Per degree (n, 2 l + 1, n_in[l]) -> (n, (l_max + 1)², n_out)."""
        mixed = [
            part @ (weight * weight.shape[0] ** -0.5)
            for part, weight in zip(parts, self.weights, strict=True)
        ]
        return torch.cat(mixed, dim=1)


class TypedLinear(nn.Module):
    """One matrix between channels for every irrep and element, bilinear in an embedding of it.

    Attributes:
        weights: per irrep, (n_in, n_embedding, n_out).
    """

    def __init__(self, n_irreps: int, n_in: int, n_embedding: int, n_out: int) -> None:
        super().__init__()
        shape = (n_in, n_embedding, n_out)
        self.weights = nn.ParameterList(torch.randn(shape) for _ in range(n_irreps))

    def forward(self, parts: Sequence[Tensor], table: Tensor, species: Tensor) -> list[Tensor]:
        """Per irrep (n, 2 l + 1, n_in) -> (n, 2 l + 1, n_out).

        Args:
            parts: of the atoms.
            table: embeddings, (n_species, n_embedding).
            species: row of each atom in the table, (n,).
        """
        return [
            select_product(
                part,
                torch.einsum("zv,uvw->zuw", table, weight) * weight[..., 0].numel() ** -0.5,
                species,
            )
            for part, weight in zip(parts, self.weights, strict=True)
        ]


def select_product(part: Tensor, matrices: Tensor, species: Tensor) -> Tensor:
    """Multiply each atom by the matrix of its species.

    Args:
        part: (n, m, n_in).
        matrices: (n_species, n_in, n_out).
        species: (n,).

    Returns:
        (n, m, n_out).
    """
    chosen = nn.functional.one_hot(species, matrices.shape[0]).to(part.dtype)
    every = part @ matrices.transpose(0, 1).flatten(1)
    return (every.unflatten(2, (matrices.shape[0], -1)) * chosen[:, None, :, None]).sum(2)


class Gate(nn.Module):
    """Scalars through an activation, the rest times scalars that went through one.

    Even scalars get silu, odd ones tanh, which is odd as they are; gates are even. Activations
    are scaled to unit second moment.
    """

    _owner: Tensor

    def __init__(self, irreps: Sequence[Irrep]) -> None:
        """Build for features whose scalars come first."""
        super().__init__()
        self.n_scalars = sum(irrep.degree == 0 for irrep in irreps)
        self.odd = [irrep.parity < 0 for irrep in irreps[: self.n_scalars]]
        gated = irreps[self.n_scalars :]
        self.n_gates = len(gated)
        owner = [k for k, irrep in enumerate(gated) for _ in range(irrep.dim)]
        self.register_buffer("_owner", torch.tensor(owner, dtype=torch.long), persistent=False)
        self.gains = unit_gain("silu"), unit_gain("tanh")

    def forward(self, features: Tensor, gates: Tensor) -> Tensor:
        """Apply.

        Args:
            features: (n, n_components, n_channels).
            gates: (n, n_gates, n_channels).
        """
        silu, tanh = self.gains
        scalars = [
            torch.tanh(x) * tanh if odd else functional.silu(x) * silu
            for x, odd in zip(features[:, : self.n_scalars].split(1, dim=1), self.odd, strict=True)
        ]
        factors = (functional.silu(gates) * silu).index_select(1, self._owner)
        return torch.cat([*scalars, features[:, self.n_scalars :] * factors], dim=1)


class UnitMLP(nn.Module):
    """Bias-free perceptron with silu, each layer's output of unit second moment at first.

    Zero in, zero out: what it says of a pair vanishes with the pair's radial basis.

    Attributes:
        weights: per layer, (n_in, n_out).
    """

    def __init__(self, sizes: Sequence[int], gain: float | None = None) -> None:
        """Build from the widths, input and output included.

        Args:
            sizes: of the layers.
            gain: factor after each silu, by default the one that keeps unit second moment.
        """
        super().__init__()
        self.weights = nn.ParameterList(torch.randn(a, b) for a, b in pairwise(sizes))
        self.gain = unit_gain("silu") if gain is None else gain

    def matrices(self) -> list[Tensor]:
        """What each layer multiplies by: weights times their normalisation."""
        gains = [1.0] + [self.gain] * (len(self.weights) - 1)
        return [
            weight * (gain * weight.shape[0] ** -0.5)
            for weight, gain in zip(self.weights, gains, strict=True)
        ]

    def hidden(self, x: Tensor) -> Tensor:
        """All but the last layer."""
        for matrix in self.matrices()[:-1]:
            x = functional.silu(x @ matrix)
        return x

    def last(self, x: Tensor) -> Tensor:
        """The last layer."""
        return x @ self.matrices()[-1]

    def forward(self, x: Tensor) -> Tensor:
        """(..., sizes[0]) -> (..., sizes[-1])."""
        return self.last(self.hidden(x))
