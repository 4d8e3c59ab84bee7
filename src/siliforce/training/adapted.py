"""A trained potential as what a training starts from, and the options of an adaptation."""

from __future__ import annotations

import hashlib
import re
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import atomic_numbers, chemical_symbols
from pydantic import Field

from siliforce.data import Dataset, DataStats
from siliforce.errors import ConfigError
from siliforce.models import Model
from siliforce.potential import Card, Potential
from siliforce.species import Species
from siliforce.training.build import check_elements, check_labels
from siliforce.training.console import Console
from siliforce.training.energy_zero import find_energy_zero
from siliforce.training.inputs import IN_MEMORY, NOT_STATED, TrainingData
from siliforce.training.options import Options
from siliforce.training.policy import Policy
from siliforce.training.settings import TrainConfig
from siliforce.training.start import ConstantsGraphs, labels_in, make_card

_OF_ELEMENT = re.compile(r"([A-Z][a-z]?)(?:[._-].*)?")
_SPIN = re.compile(r"nspin[12]")


class AdaptConfig(Options):
    """The section `adapt` of a configuration; what is trained, and how, stands in `train`."""

    source: str | None = Field(None, description="model file or run folder")
    sources: dict[str, str] = Field(
        default_factory=dict, description="new element -> known one that it starts as a copy of"
    )
    atomic_energies: dict[str, float] = Field(
        default_factory=dict, description="E0 of new elements, eV; the others are fitted"
    )
    replay: str | list[str] | None = Field(
        None, description="frames of the source to go on training on beside the target's"
    )
    replay_ratio: float = Field(1.0, gt=0, description="source frames per target frame")
    folds: int | None = Field(
        None, ge=2, description="one part in so many is held out; None: 5, or as many as frames"
    )
    test: float = Field(
        0.0, ge=0, lt=1, description="part of the target's frames kept for a test, at least one"
    )
    policies: dict[str, Policy] = Field(
        default_factory=dict, description="policies of your own by name, for --policy and studies"
    )


class Adapted:
    """A trained potential as the start of a training (`siliforce.training.start.Start`)."""

    first_candidate = True

    def __init__(
        self,
        source: Potential,
        name: str,
        section: AdaptConfig,
        replay: Dataset | None = None,
        seed: int = 0,
    ) -> None:
        self.source, self.section, self.replay, self.seed = source, section, replay, seed
        self.n_target: int | None = None
        about = section.model_dump(mode="json", exclude={"policies"}) | {"source": name}
        if replay is not None:
            about["replay"] = section.replay or IN_MEMORY
        self._sections = {"adapt": about}
        # Wherever the files lie, and whatever they are called.
        self.hash = fingerprint(source)
        same = {k: v for k, v in about.items() if k not in ("source", "replay")}
        hashes = {"source": self.hash, "replay": None if replay is None else replay.hash}
        self._identity = {"adapt": same | hashes}

    @property
    def model_class(self) -> type[Model]:
        return type(self.source.model)

    @property
    def sections(self) -> dict[str, Any]:
        return self._sections

    @property
    def identity(self) -> dict[str, Any]:
        return self._identity

    def cutoff(self, preset: str) -> float:
        """The source's, Å."""
        return self.source.cutoff

    def preset(
        self, stored: Path | None, device: torch.device, n_frames: int, console: Console
    ) -> str:
        """The source's, without its width; `auto` where it has none of this architecture."""
        preset = self.source.preset.partition(" x ")[0]
        return preset if preset in self.model_class.presets else "auto"

    def mixed(self, inputs: TrainingData) -> TrainingData:
        """Target frames to train on, and so many source frames to each."""
        self.n_target = len(inputs.train)
        if self.replay is None:
            return inputs
        wanted = max(round(self.section.replay_ratio * self.n_target), 1)
        rng = np.random.default_rng(self.seed)
        rows = rng.permutation(len(self.replay))[:wanted]
        chosen = self.replay.subset(np.sort(rows))
        return replace(inputs, train=Dataset.concatenate([inputs.train, chosen]))

    def potential(
        self,
        inputs: TrainingData,
        stats: DataStats,
        preset: str,
        config: TrainConfig,
        console: Console,
        fit: bool,
    ) -> Potential:
        """A copy of the source that knows the target's elements and energies."""
        train, known = inputs.train, self.source.species
        difference = stated_difference(self.source.card, train)
        if difference:
            console.say(f"WARNING: {difference}")
        potential = deepcopy(self.source).train()
        new = tuple(z for z in train.elements if z not in known.numbers)
        named = self.section.sources.items()
        potential.extend(new, {atomic_numbers[z]: atomic_numbers[source] for z, source in named})
        check_elements(potential.species.numbers, inputs.valid.elements)
        potential.set_dtype(config.torch_dtype)
        check_labels(potential, config, labels_in(train))
        if fit and new:
            potential.model.fit_new_constants(ConstantsGraphs(train, potential, config.seed))
        if fit:
            self._fit_energies(potential, train, new, console)
        potential.card = self._card(inputs, stats)
        return potential

    def _fit_energies(
        self, potential: Potential, train: Dataset, new: tuple[int, ...], console: Console
    ) -> None:
        given = self.section.atomic_energies
        species = Species.from_symbols(given)
        wrong = [s for s, z in zip(species.symbols, species.numbers, strict=True) if z not in new]
        if wrong:
            raise ConfigError(
                f"adapt.atomic_energies names {', '.join(wrong)}, but only new elements get "
                "reference energies; those of the source stay"
            )
        energies = dict(zip(species.numbers, given.values(), strict=True))
        target = train.subset(np.arange(self.n_target or len(train)))
        zero = find_energy_zero(potential, target, new, energies)
        if zero.offset and len(target) < len(train):
            raise ConfigError(
                f"the target's energies differ from the source's by {zero.offset:+.4f} eV/atom: "
                "frames of both cannot be trained on together. Leave replay out, or label the "
                "source's frames with the target's settings"
            )
        for text in [*zero.notes, *(f"WARNING: {w}" for w in zero.warnings)]:
            console.say(text)
        zero.apply(potential)

    def _card(self, inputs: TrainingData, stats: DataStats) -> Card:
        """The target's, with elements and ranges of both, and where it comes from."""
        source, target = self.source.card, make_card(inputs, stats, self.source.cutoff)
        origin = {
            "source_hash": self.hash,
            "data_hash": source.data_hash,
            "data_source": source.data_source,
            "level_of_theory": source.level_of_theory,
            "n_frames": source.n_frames,
        }
        together = {
            "elements": sorted({*source.elements, *target.elements}),
            "atoms_per_volume": _joined(source.atoms_per_volume, target.atoms_per_volume),
            "temperature": _joined(source.temperature, target.temperature),
            "min_distance": {**source.min_distance, **target.min_distance}
            | {
                pair: min(source.min_distance[pair], target.min_distance[pair])
                for pair in source.min_distance.keys() & target.min_distance.keys()
            },
            "environments": source.environments + target.environments,
            "adapted_from": origin,
        }
        return Card.model_validate({**target.model_dump(), **together})


def _joined(
    one: tuple[float, float] | None, other: tuple[float, float] | None
) -> tuple[float, float] | None:
    if one is None or other is None:
        return one or other
    return min(one[0], other[0]), max(one[1], other[1])


def fingerprint(potential: Potential) -> str:
    """16 hexadecimal digits that name the weights and the elements."""
    digest = hashlib.blake2b(digest_size=8)
    digest.update(repr([potential.model.name, potential.species.symbols]).encode())
    for name, tensor in sorted(potential.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def stated_difference(source: Card, target: Dataset) -> str:
    """A sentence where source and target state different levels of theory; else empty.

    Files and setups of elements that only one of them has are no difference, nor is spin, which
    follows from the number of electrons.
    """
    own, other = source.level_of_theory, target.facts.get("level_of_theory") or NOT_STATED
    shared = {chemical_symbols[z] for z in {*source.elements} & {*target.elements}}
    if NOT_STATED in (own, other) or _level(own, shared) == _level(other, shared):
        return ""
    return f"stated levels of theory differ: source '{own}', target '{other}'"


def _level(text: str, shared: set[str]) -> list[list[str]]:
    """Words of a level of theory; of `Si.upf+Ge.upf`, what concerns the shared elements."""
    words = []
    for word in text.split():
        parts = word.split("+")
        found = [_OF_ELEMENT.fullmatch(part) for part in parts]
        kinds = [match[1] for match in found if match and match[1] in atomic_numbers]
        if len(kinds) == len(parts):
            both = zip(parts, kinds, strict=True)
            parts = sorted(part for part, kind in both if kind in shared)
        if not _SPIN.fullmatch(word):
            words.append(parts)
    return words
