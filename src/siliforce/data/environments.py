"""How far an atom's neighbourhood is from those of a training set.

The neighbourhood of an atom is described by how many neighbours of each element it has at each
distance, in smooth bins of equal width between 1 Å and the cutoff. Per element of the centre,
the training set leaves a mean, a covariance and the largest distance of its own atoms in the
measure of that covariance (Mahalanobis). A new atom's distance over that largest one is its
novelty: above 1, nothing like it was trained on. Angles are not looked at, so a novelty below 1 is
no proof; an ensemble's spread says more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from siliforce.graph import Graph

if TYPE_CHECKING:
    from siliforce.data.dataset import Dataset

BINS = 8
INNERMOST = 1.0
"""Centre of the first bin, Å; closer neighbours count as there."""
FLOOR = 0.1
"""Neighbours per bin by which environments may differ for nothing, where training had no spread."""
MAX_FRAMES = 300
"""Frames that are looked at, evenly spaced through the set."""


@dataclass(frozen=True)
class Environments:
    """Neighbourhoods of a training set.

    Attributes:
        cutoff: Å.
        elements: atomic numbers, in the order of the bins.
        mean: by element of the centre, (n_features,).
        whitening: by element, (n_features, n_features); distances are lengths after it.
        limit: by element, the largest distance in the training set.
    """

    cutoff: float
    elements: tuple[int, ...]
    mean: dict[int, np.ndarray]
    whitening: dict[int, np.ndarray]
    limit: dict[int, float]

    @classmethod
    def of_dataset(cls, dataset: Dataset, cutoff: float) -> Environments:
        """Describe a training set of at least one frame; cutoff in Å."""
        elements = tuple(sorted(int(z) for z in dataset.elements))
        count = min(len(dataset), MAX_FRAMES)
        features, centers = [], []
        for index in np.unique(np.linspace(0, len(dataset) - 1, count).round().astype(int)):
            numbers = dataset[int(index)].numbers
            edges = dataset.edge_lengths(int(index), cutoff)
            center, neighbor, lengths = (torch.as_tensor(e) for e in edges)
            rows = torch.as_tensor(np.searchsorted(elements, numbers))
            found = _features(rows, center, neighbor, lengths, cutoff, len(elements))
            features.append(found.numpy())
            centers.append(numbers)
        table, of_atom = np.concatenate(features), np.concatenate(centers)
        mean, whitening, limit = {}, {}, {}
        for z in np.unique(of_atom).tolist():
            own = table[of_atom == z]
            mean[z] = _short(own.mean(axis=0))
            spread = own - mean[z]
            covariance = spread.T @ spread / len(own) + FLOOR**2 * np.eye(own.shape[1])
            whitening[z] = _short(np.linalg.inv(np.linalg.cholesky(covariance)).T)
            largest = np.linalg.norm(spread @ whitening[z], axis=1).max()
            limit[z] = float(_short(np.array(max(largest, 1.0))))
        return cls(cutoff, elements, mean, whitening, limit)

    @classmethod
    def of_card(cls, card: Any) -> Environments | None:
        """What a model's card holds, or None."""
        content = getattr(card, "environments", None)
        return cls.from_json(content) if content else None

    def to_json(self) -> dict[str, Any]:
        """Plain types, elements as text."""
        return {
            "cutoff": self.cutoff,
            "elements": list(self.elements),
            "mean": {str(z): v.tolist() for z, v in self.mean.items()},
            "whitening": {str(z): v.tolist() for z, v in self.whitening.items()},
            "limit": {str(z): v for z, v in self.limit.items()},
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Environments:
        """The inverse of `to_json`."""

        def arrays(name: str) -> dict[int, np.ndarray]:
            return {int(z): np.array(v, dtype=float) for z, v in content[name].items()}

        return cls(
            float(content["cutoff"]),
            tuple(content["elements"]),
            arrays("mean"),
            arrays("whitening"),
            {int(z): float(v) for z, v in content["limit"].items()},
        )

    def novelty(self, graph: Graph) -> Tensor:
        """Distance of every atom over the limit, (n_atoms,); infinite for unknown elements.

        Args:
            graph: with the pairs within the cutoff or more.
        """
        known = torch.as_tensor(self.elements, device=graph.numbers.device)
        rows = torch.searchsorted(known, graph.numbers).clamp(max=len(known) - 1)
        features = _features(
            rows,
            graph.center,
            graph.neighbor,
            graph.edge_lengths.double(),
            self.cutoff,
            len(self.elements),
        )
        found = torch.full_like(features[:, 0], torch.inf)
        for z, mean in self.mean.items():
            own = graph.numbers == z
            spread = features[own] - torch.as_tensor(mean, device=features.device)
            whitening = torch.as_tensor(self.whitening[z], device=features.device)
            found[own] = torch.linalg.vector_norm(spread @ whitening, dim=1) / self.limit[z]
        return found

    def farthest(self, graph: Graph) -> np.ndarray:
        """Largest novelty of each system, (n_systems,)."""
        novelty = self.novelty(graph)
        zeros = novelty.new_zeros(graph.n_systems)
        return zeros.scatter_reduce(0, graph.system_index, novelty, "amax").cpu().numpy()


def _features(
    species: Tensor,
    center: Tensor,
    neighbor: Tensor,
    lengths: Tensor,
    cutoff: float,
    n_species: int,
) -> Tensor:
    """Neighbours of each atom by element and distance, (n_atoms, n_species * BINS).

    Bins are raised cosines that sum to 1, but for the outermost, which falls to 0 at the cutoff.
    """
    width = (cutoff - INNERMOST) / BINS
    place = (lengths.clamp(min=INNERMOST) - INNERMOST) / width
    found = lengths.new_zeros(len(species) * n_species * BINS)
    lower = place.floor().clamp(max=BINS).long()
    for bin_, offset in ((lower, place - lower), (lower + 1, place - lower - 1)):
        weight = torch.cos(0.5 * torch.pi * offset.clamp(-1, 1)).square()
        inside = bin_ < BINS
        row = (center * n_species + species[neighbor]) * BINS + bin_
        found.index_add_(0, row[inside], weight[inside])
    return found.reshape(len(species), -1)


def _short(values: np.ndarray) -> np.ndarray:
    """Five significant digits: the card is text."""
    return np.array([float(f"{v:.5g}") for v in np.ravel(values)]).reshape(np.shape(values))
