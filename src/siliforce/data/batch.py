"""What training and evaluation iterate over: graphs with their labels."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from siliforce.graph import Graph


@dataclass(frozen=True)
class Targets:
    """Labels of a batch; what a frame lacks is NaN.

    Attributes:
        energy: (n_systems,), eV, float64.
        forces: (n_atoms, 3), eV/Å, float64.
        stress: (n_systems, 3, 3), eV/Å³, tension positive, float64.
        n_atoms: (n_systems,), int64.
        weight: of each frame in the loss, (n_systems,), float64.
        frame_index: row in the dataset, (n_systems,), int64.
    """

    energy: Tensor
    forces: Tensor
    stress: Tensor
    n_atoms: Tensor
    weight: Tensor
    frame_index: Tensor

    def to(self, device: torch.device | str) -> Targets:
        """A copy on another device."""
        return Targets(
            **{f.name: getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)}
        )


@dataclass(frozen=True)
class Batch:
    """A graph and its labels."""

    graph: Graph
    targets: Targets

    def to(self, device: torch.device | str) -> Batch:
        """A copy on another device."""
        return Batch(self.graph.to(device), self.targets.to(device))
