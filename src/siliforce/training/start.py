"""What a training starts from: random weights here, a trained potential in `training.adapt`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch

from siliforce.data import Dataset, DataStats
from siliforce.data.environments import Environments
from siliforce.graph import Graph
from siliforce.models import Model
from siliforce.potential import Card, Potential
from siliforce.species import Species
from siliforce.training import record
from siliforce.training.build import (
    ModelChoice,
    build_potential,
    check_elements,
    check_labels,
    choose_preset,
)
from siliforce.training.console import Console
from siliforce.training.inputs import NOT_STATED, TrainingData
from siliforce.training.normalise import normalisation
from siliforce.training.sampler import within_budget
from siliforce.training.settings import TrainConfig

CONSTANTS_FRAMES = 1000
"""Frames that data-dependent constants (whitening, scale factors) are fitted to, at most."""


class Start(Protocol):
    """Where the weights come from.

    Attributes:
        model_class: the architecture.
        sections: further sections of the configuration, to record.
        identity: what else must be the same on a restart.
        first_candidate: whether the potential is worth keeping before it is trained.
    """

    @property
    def model_class(self) -> type[Model]: ...

    @property
    def sections(self) -> dict[str, Any]: ...

    @property
    def identity(self) -> dict[str, Any]: ...

    first_candidate: bool

    def cutoff(self, preset: str) -> float:
        """Of the potential, Å."""

    def preset(
        self, stored: Path | None, device: torch.device, n_frames: int, console: Console
    ) -> str:
        """Name of the preset, which training options depend on.

        Args:
            stored: run folder that is gone on with.
        """

    def potential(
        self,
        inputs: TrainingData,
        stats: DataStats,
        preset: str,
        config: TrainConfig,
        console: Console,
        fit: bool,
    ) -> Potential:
        """The potential to be trained.

        Args:
            stats: of the training set.
            fit: set what depends on data; a restart reads that from its checkpoint.
        """


class Scratch:
    """Random weights."""

    sections: ClassVar[dict[str, Any]] = {}
    identity: ClassVar[dict[str, Any]] = {}
    first_candidate = False

    def __init__(self, choice: ModelChoice) -> None:
        self.choice = choice.checked()

    @property
    def model_class(self) -> type[Model]:
        return self.choice.model_class

    def cutoff(self, preset: str) -> float:
        """Of the chosen architecture, Å."""
        return self.choice.architecture(preset).cutoff

    def preset(
        self, stored: Path | None, device: torch.device, n_frames: int, console: Console
    ) -> str:
        """The one that was asked for, or that was begun with, or that suits data and device."""
        if self.choice.preset != "auto":
            return self.choice.preset
        if stored is not None:
            known = record.read_json(stored / record.RUN).get("preset")
            if known:
                return known
        preset, reason = choose_preset(self.choice.model_class, device, n_frames)
        console.say(f"preset {preset} ({reason})")
        return preset

    def potential(
        self,
        inputs: TrainingData,
        stats: DataStats,
        preset: str,
        config: TrainConfig,
        console: Console,
        fit: bool,
    ) -> Potential:
        """Weights by the seed, reference energies and scale by the training set."""
        train = inputs.train
        check_elements(train.elements, inputs.valid.elements)
        species = Species(tuple(train.elements))
        constants = normalisation(config.normalise, stats, species, self.choice.pins(preset))
        console.say(constants.note)
        card = make_card(inputs, stats, self.cutoff(preset))
        potential = build_potential(self.choice, preset, species, constants, config, card)
        check_labels(potential, config, labels_in(train))
        if fit:
            potential.model.fit_constants(ConstantsGraphs(train, potential, config.seed))
        return potential


def make_card(inputs: TrainingData, stats: DataStats, cutoff: float) -> Card:
    """Where a potential's training data come from, and what range they cover."""
    data, facts = inputs.config, inputs.train.facts
    stated = {k: facts.get(k) or NOT_STATED for k in ("level_of_theory", "licence")}
    stated |= {k: data[k] for k in stated if data[k] != NOT_STATED}
    return Card(
        created=record.now(),
        siliforce_version=record.versions()["siliforce"],
        data_hash=inputs.train.hash,
        data_source=" ".join(
            [data["source"]] if isinstance(data["source"], str) else data["source"]
        ),
        **stated,
        n_frames=len(inputs.train),
        elements=list(Species(tuple(inputs.train.elements)).symbols),
        atoms_per_volume=stats.atoms_per_volume,
        temperature=stats.temperature,
        min_distance=stats.min_distance,
        environments=[Environments.of_dataset(inputs.train, cutoff).to_json()],
    )


class ConstantsGraphs:
    """Graphs of part of a training set, species filled in; may be iterated more than once."""

    def __init__(self, data: Dataset, potential: Potential, seed: int) -> None:
        rng = np.random.default_rng(seed)
        n = min(len(data), CONSTANTS_FRAMES)
        self.frames = np.sort(rng.choice(len(data), size=n, replace=False))
        self.data, self.potential = data, potential
        self.lookup = torch.from_numpy(potential.species.lookup())

    def __iter__(self) -> Iterator[Graph]:
        potential = self.potential
        needs, dtype = potential.model.needs, potential.dtype
        costs = self.data.edge_counts(potential.cutoff) + self.data.n_atoms
        for portion in within_budget(self.frames, costs, max(int(costs.max()), 50_000)):
            graph = self.data.batch(portion, potential.cutoff, needs, dtype).graph
            yield graph.replace(species=self.lookup[graph.numbers])


def labels_in(data: Dataset) -> dict[str, bool]:
    """Which labels any frame has."""
    stress = data.records["stress"]
    return {
        "energy": bool(np.isfinite(data.energies).any()),
        "forces": any(frame.forces is not None for frame in data),
        "stress": bool(np.isfinite(stress).all(axis=(1, 2)).any()),
    }
