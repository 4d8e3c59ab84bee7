"""Several sources at once: each has a first layer of its own, all other layers learn from all.

Frames with the same set of elements are a source. Within a training a potential has a row of its
species tables for every element of every source; what is kept is an ordinary potential, with the
mean of the sources' own rows, which a transfer starts from, and one potential for each source.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from ase.data import chemical_symbols
from torch import Tensor

from siliforce.data import Dataset, DataStats
from siliforce.errors import ConfigError, DataError
from siliforce.graph import Graph
from siliforce.models.bpnn_transfer import TransferBPNN
from siliforce.potential import Potential
from siliforce.training.build import ModelChoice
from siliforce.training.console import Console
from siliforce.training.inputs import TrainingData
from siliforce.training.settings import TrainConfig
from siliforce.training.start import Scratch

Elements = tuple[int, ...]
SOURCES = "sources"
"""Folder of a run with the potential of each source, named by its elements."""


class JointPotential(Potential):
    """A potential whose species have a row for each source.

    Attributes:
        sources: atomic numbers of each source.
        rows: row of the species tables, -1 where a source lacks the element,
            (n_sources, n_elements).
    """

    rows: Tensor
    _keys: Tensor

    def __init__(self, potential: Potential, sources: Sequence[Elements]) -> None:
        """Split the rows of a potential; its tensors are used, not copied.

        Args:
            potential: knows all elements of all sources.
            sources: atomic numbers, different for each.
        """
        super().__init__(
            potential.model,
            potential.species,
            potential.atomic_energies.weight.numpy(),
            potential.shift.weight.numpy(),
            float(potential.scale),
            potential.pin_isolated,
            potential.repulsion,
            potential.preset,
            potential.card,
        )
        self.sources = tuple(sources)
        numbers = self.species.numbers
        pairs = [(k, numbers.index(z)) for k, source in enumerate(self.sources) for z in source]
        elements = [element for _, element in pairs]
        rows = torch.full((len(self.sources), len(numbers)), -1)
        for row, (k, element) in enumerate(pairs):
            rows[k, element] = row
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("_keys", self._key(rows >= 0), persistent=False)
        self._network().split(elements)
        for table in (self.atomic_energies, self.shift):
            table.select(elements)

    def _network(self) -> TransferBPNN:
        assert isinstance(self.model, TransferBPNN)
        return self.model

    @staticmethod
    def _key(present: Tensor) -> Tensor:
        """A number for each set of elements, (n,) of (n, n_elements)."""
        return (present * 2 ** torch.arange(present.shape[1], device=present.device)).sum(1)

    def with_species(self, graph: Graph) -> Graph:
        """Rows of each system's source, told by its elements.

        Raises:
            DataError: a system with other elements than any source.
        """
        element = super().with_species(graph).species
        present = torch.zeros(graph.n_systems, len(self.species), dtype=torch.bool)
        present = present.to(element.device)
        present[graph.system_index, element] = True
        fits = self._key(present)[:, None] == self._keys
        if not torch.compiler.is_compiling() and not bool(fits.any(1).all()):
            raise DataError("a frame has other elements than any of the sources trained jointly")
        source = fits.to(torch.uint8).argmax(1)
        return graph.replace(species=self.rows[source[graph.system_index], element])

    def single(self, source: int | None = None) -> Potential:
        """An ordinary potential for one source, or with the mean of all.

        Elements that the source lacks have the mean of the others.
        """
        model = deepcopy(self._network())
        members = []
        for e in range(len(self.species)):
            rows = [int(r) for r in self.rows[:, e] if r >= 0]
            if source is not None and self.rows[source, e] >= 0:
                rows = [int(self.rows[source, e])]
            members.append(rows)
        first = [rows[0] for rows in members]
        model.merge(members)
        return Potential(
            model,
            self.species,
            self.atomic_energies.weight[first].cpu().numpy(),
            self.shift.weight[first].cpu().numpy(),
            float(self.scale),
            self.pin_isolated,
            self.repulsion,
            self.preset,
            self.card,
        )

    def save(self, path: str | Path) -> Path:
        """Write the mean of the sources, and each source beside it; every file is atomic."""
        path = Path(path)
        for k, source in enumerate(self.sources):
            name = "".join(chemical_symbols[z] for z in source)
            self.single(k).save(path.parent / SOURCES / f"{name}.safetensors")
        return self.single().save(path)


class Joint(Scratch):
    """Random weights for several sources."""

    def __init__(self, choice: ModelChoice) -> None:
        super().__init__(choice)
        if not issubclass(self.model_class, TransferBPNN):
            raise ConfigError(
                f"train.joint is set, but {self.model_class.title} has no layer that each source "
                "could have for itself; --model bpnn_transfer has"
            )

    def potential(
        self,
        inputs: TrainingData,
        stats: DataStats,
        preset: str,
        config: TrainConfig,
        console: Console,
        fit: bool,
    ) -> Potential:
        """As from scratch, with rows for every source."""
        sources = sources_of(inputs.train)
        if len(sources) < 2:
            raise DataError("train.joint needs frames of two or more different sets of elements")
        unknown = set(sources_of(inputs.valid)) - set(sources)
        if unknown:
            raise DataError(
                f"validation frames of sources without training frames: {names(unknown)}"
            )
        console.say(f"sources trained jointly: {names(sources)}")
        potential = super().potential(inputs, stats, preset, config, console, fit)
        return JointPotential(potential, sources)


def sources_of(data: Dataset) -> list[Elements]:
    """The different sets of elements of a dataset's frames."""
    elements, counts = data.counts
    found = {tuple(z for z, n in zip(elements, row, strict=True) if n) for row in counts}
    return sorted(found, key=lambda source: (len(source), source))


def names(sources: Any) -> str:
    """`Si, SiGe`."""
    return ", ".join("".join(chemical_symbols[z] for z in source) for source in sources)
