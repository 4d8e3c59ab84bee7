"""Per-species parameters: the one place where a model learns about a new element."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class SpeciesTable(nn.Module):
    """One parameter of shape `shape` per species, gathered by species index.

    Attributes:
        weight: (n_species, *shape).
    """

    def __init__(self, initial: Tensor, trainable: bool = True) -> None:
        super().__init__()
        self.weight: Tensor
        if trainable:
            self.weight = nn.Parameter(initial.clone())
        else:
            self.register_buffer("weight", initial.clone())

    def forward(self, species: Tensor) -> Tensor:
        """Rows of the given species, (*species.shape, *shape)."""
        return self.weight[species]

    def extend(self, sources: Sequence[int]) -> None:
        """Append one row per entry of `sources`, each a copy of that row."""
        self.select([*range(len(self.weight)), *sources])

    def select(self, rows: Sequence[int]) -> None:
        """Keep these rows, in this order; a row may be taken more than once."""
        grown = self.weight.detach()[list(rows)]
        if isinstance(self.weight, nn.Parameter):
            self.weight = nn.Parameter(grown, requires_grad=self.weight.requires_grad)
        else:
            self.register_buffer("weight", grown)
