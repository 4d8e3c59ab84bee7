"""From a choice of model and the statistics of the data to a potential ready to train."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from siliforce.errors import ConfigError, DataError
from siliforce.models import Model, ModelConfig, get_model
from siliforce.nn.repulsion import ZBL
from siliforce.potential import Card, Potential
from siliforce.species import Species
from siliforce.training.normalise import Normalisation
from siliforce.training.options import did_you_mean, parse

if TYPE_CHECKING:
    from siliforce.training.settings import TrainConfig


class ModelChoice(BaseModel):
    """The model section of a configuration.

    Further keys change single hyper-parameters of the preset, e.g. `cutoff: 5.0`.

    Attributes:
        name: one of `siliforce models`.
        preset: `auto`, or one of the model's presets.
        width: factor on the channels of the preset, as in the benchmark's Pareto study.
        pin_isolated: isolated atoms have exactly their reference energy; by default in every
            preset but `paper`.
        repulsion: add ZBL repulsion at short distance.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str = "mace"
    preset: str = "auto"
    width: float = Field(1.0, gt=0)
    pin_isolated: bool | None = None
    repulsion: bool = False

    @property
    def model_class(self) -> type[Model]:
        """Raises `ConfigError` if there is no such model."""
        return get_model(self.name)

    def checked(self) -> ModelChoice:
        """Itself.

        Raises:
            ConfigError: unknown model, preset or hyper-parameter; the message suggests one.
        """
        cls = self.model_class
        if self.preset != "auto" and self.preset not in cls.presets:
            known = list(cls.presets)
            raise ConfigError(
                f"{cls.title} has no preset '{self.preset}'; {did_you_mean(self.preset, known)}"
                f"available: auto, {', '.join(known)}"
            )
        known = [*ModelChoice.model_fields, *cls.Config.model_fields]
        for key in self.model_extra or {}:
            if key not in cls.Config.model_fields:
                raise ConfigError(
                    f"unknown key 'model.{key}'; {did_you_mean(key, known)}"
                    f"{cls.title} allows: {', '.join(known)}"
                )
        return self

    def architecture(self, preset: str) -> ModelConfig:
        """The preset's hyper-parameters with the width and the changes of this choice."""
        cls = self.checked().model_class
        config = cls.presets[preset]
        if self.width != 1:
            try:
                config = cls.scaled(config, self.width)
            except ValidationError as error:
                raise ConfigError(
                    f"model.width {self.width:g} does not fit {cls.title} '{preset}': "
                    f"{error.errors()[0]['msg']}; try another factor, 0.25, 0.5 or 2 for one"
                ) from None
        return parse(cls.Config, {**config.model_dump(), **self.overrides}, "model")

    def pins(self, preset: str) -> bool:
        """Whether isolated atoms get exactly their reference energies."""
        return preset != "paper" if self.pin_isolated is None else self.pin_isolated

    @property
    def overrides(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


def choose_preset(model: type[Model], device: torch.device, n_frames: int) -> tuple[str, str]:
    """A preset for this hardware and amount of data, and the reason in words."""
    known = list(model.presets)
    if device.type != "cpu" and n_frames >= 500 and "paper" in known:
        return "paper", f"{n_frames} frames and a GPU"
    name = "small" if "small" in known else known[0]
    reason = "no GPU" if device.type == "cpu" else f"only {n_frames} frames"
    return name, reason


def build_potential(
    choice: ModelChoice,
    preset: str,
    species: Species,
    normalisation: Normalisation,
    config: TrainConfig,
    card: Card | None = None,
) -> Potential:
    """A potential with random weights, a pure function of its arguments and `config.seed`."""
    architecture = choice.architecture(preset)
    torch.manual_seed(config.seed)
    # A cap below every atom's count, the only use there is for one, is then the mean.
    mean_neighbors = min(normalisation.mean_neighbors, architecture.max_neighbors or math.inf)
    model = choice.model_class(architecture, len(species), mean_neighbors)
    potential = Potential(
        model,
        species,
        normalisation.atomic_energies,
        shift=normalisation.shift,
        scale=normalisation.scale,
        pin_isolated=choice.pins(preset),
        repulsion=ZBL(species) if choice.repulsion else None,
        preset=preset if choice.width == 1 else f"{preset} x {choice.width:g}",
        card=card,
    )
    return potential.set_dtype(config.torch_dtype)


def check_labels(potential: Potential, config: TrainConfig, labels: dict[str, bool]) -> None:
    """Refuse a loss that nothing can feed.

    Args:
        labels: whether any training frame has `energy`, `forces`, `stress`.

    Raises:
        ConfigError: stress of a direct model.
        DataError: a weighted label that no frame has.
    """
    uses = dict(zip(("energy", "forces", "stress"), config.loss.uses, strict=True))
    if not any(uses.values()):
        raise ConfigError("all weights of train.loss are zero: there is nothing to learn")
    if uses["stress"] and not potential.has_stress:
        raise ConfigError(
            f"train.loss.stress is set, but {potential.model.title} predicts forces directly and "
            "has no stress; set it to 0, or choose a gradient model"
        )
    for name, used in uses.items():
        if used and not labels[name]:
            raise DataError(
                f"train.loss.{name} is set, but no training frame has {name} labels; "
                f"set train.loss.{name}=0 or label them"
            )


def check_elements(train: tuple[int, ...], valid: tuple[int, ...]) -> None:
    """Refuse a validation set with elements that cannot be learned.

    Raises:
        DataError: naming them.
    """
    unseen = Species(tuple(train)).unknown(np.array(valid))
    if unseen:
        raise DataError(
            f"the validation set has {', '.join(unseen)}, which no training frame contains; "
            "validate on frames of the same elements, or add some to the training set"
        )
