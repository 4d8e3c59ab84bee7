"""Low-rank updates: a matrix W of the source becomes W + B A, with few numbers in B and A.

The model keeps plain weights at any moment: after each gradient G with respect to W, the chain
rule gives those of the factors, `dB = G A^T` and `dA = B^T G`, and after each step W is written
anew. So every architecture can be adapted in this way, and files stay ordinary.

Hu et al., LoRA, ICLR 2022, arXiv:2106.09685.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class LowRank:
    """Factors of the updates of some parameters; products are over the last two dimensions.

    Attributes:
        variables: what an optimiser changes, the factors of large matrices and all else itself.
        owners: the parameter that each variable belongs to.
        bases: W of every factored parameter, by its place in `parameters`.
    """

    def __init__(self, parameters: Sequence[Tensor], rank: int, seed: int) -> None:
        """Start from no update: A random, B zero.

        Args:
            parameters: matrices of at most `rank` rows or columns, and vectors, stay whole.
        """
        self.parameters = list(parameters)
        self.variables: list[Tensor] = []
        self.owners: list[Tensor] = []
        self.bases: dict[int, Tensor] = {}
        self._factors: dict[int, tuple[Tensor, Tensor]] = {}
        generator = torch.Generator().manual_seed(seed)
        for place, weight in enumerate(self.parameters):
            if weight.dim() < 2 or min(weight.shape[-2:]) <= rank:
                self._add(weight, weight)
                continue
            *batch, rows, columns = weight.shape
            # Entries of this size make the first steps of W as large as those of the factors.
            start = torch.randn(*batch, rank, columns, generator=generator) * rank**-0.5
            b, a = weight.new_zeros(*batch, rows, rank), start.to(weight)
            self.bases[place] = weight.detach().clone()
            self._factors[place] = b, a
            for factor in (b, a):
                factor.grad = torch.zeros_like(factor)
                self._add(factor, weight)

    def _add(self, variable: Tensor, owner: Tensor) -> None:
        self.variables.append(variable)
        self.owners.append(owner)

    def pull(self) -> None:
        """Gradients of the factors from those of the parameters."""
        for place, (b, a) in self._factors.items():
            gradient = self.parameters[place].grad
            assert gradient is not None
            assert a.grad is not None
            assert b.grad is not None
            torch.matmul(gradient, a.mT, out=b.grad)
            torch.matmul(b.mT, gradient, out=a.grad)

    def push(self) -> None:
        """Write the parameters that the factors stand for."""
        for place, (b, a) in self._factors.items():
            self.parameters[place].copy_(self.bases[place] + b @ a)
