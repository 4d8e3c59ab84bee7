"""All that can be chosen about a training."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from pydantic import Field, field_validator

from siliforce.models import Model
from siliforce.training.loss import LossConfig
from siliforce.training.normalise import NormaliseConfig
from siliforce.training.options import Options, Seconds, merged, parse
from siliforce.training.policy import Policy, get_policy
from siliforce.training.schedule import ScheduleConfig

DEFAULT_EPOCHS = 200
"""Budget if neither epochs nor a time limit is given."""

HOW_ONLY = frozenset(
    {"device", "checkpoint_every", "clock", "max_edges", "tensorboard", "compile", "seeds"}
)
"""Options that change how a training runs, not what it learns; free to change on restart."""


class TrainConfig(Options):
    """The training section of a configuration.

    What is left out comes from the architecture's preset, and what that leaves out from here.
    """

    epochs: int | None = Field(None, ge=1)
    max_time: Seconds | None = Field(None, gt=0, description="s, or 30m, 2h ...; per training")
    clock: Literal["wall", "processor"] = Field(
        "wall", description="processor: time of this process alone, on machines others use as well"
    )
    batch_size: int | None = Field(None, ge=1, description="frames a step; None: by size of data")
    max_edges: int | None = Field(None, ge=1, description="edges in memory at once; None: measured")
    optimizer: Literal["adam", "adamw"] = "adam"
    lr: float = Field(2e-3, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    amsgrad: bool = False
    weight_decay: float = Field(0.0, ge=0)
    decay: Literal["weights", "all"] = Field(
        "weights", description="weights: neither biases nor per-species tables nor scalars"
    )
    schedule: ScheduleConfig = ScheduleConfig()
    loss: LossConfig = LossConfig()
    normalise: NormaliseConfig = NormaliseConfig()
    ema: float | None = Field(0.99, gt=0, lt=1, description="decay of the averaged weights")
    clip: float | None = Field(10.0, gt=0, description="largest norm of the gradient")
    early_stopping: int | None = Field(None, ge=1, description="validations without improvement")
    validate_every: int = Field(1, ge=1, description="epochs")
    checkpoint_every: Seconds = Field(60.0, ge=0, description="s")
    divergence: float = Field(20.0, gt=1, description="validation loss over its best: diverged")
    max_divergences: int = Field(3, ge=0)
    seed: int = Field(0, ge=0)
    seeds: int = Field(1, ge=1, description="members of an ensemble, with seeds seed, seed+1 ...")
    device: str = "auto"
    dtype: Literal["float32", "float64"] = "float32"
    deterministic: bool = False
    compile: bool = False
    tensorboard: bool = False
    joint: bool = Field(
        False,
        description="frames of different elements are sources, each with a first layer and an "
        "output bias of its own; all other layers are shared",
    )
    policy: Policy | None = Field(
        None, description="what is trained, by name or in full; None: everything. For transfer"
    )

    @field_validator("policy", mode="before")
    @classmethod
    def _named(cls, value: object) -> object:
        return get_policy(value) if isinstance(value, str) else value

    @field_validator("loss", "schedule", "normalise", mode="before")
    @classmethod
    def _shorthand(cls, value: object) -> object:
        return {"kind": value} if isinstance(value, str) else value

    @property
    def torch_dtype(self) -> torch.dtype:
        return getattr(torch, self.dtype)


PAPER: dict[str, Any] = {
    "epochs": 200,
    "schedule": {"kind": "linear", "warmup": 0.0},
    "loss": {"kind": "mse", "energy": 1.0, "forces": 1.0},
    "ema": None,
    "clip": None,
    "decay": "all",
}
"""What the 2023 benchmark's trainings have in common; each `paper` preset adds its own."""


def resolve(user: TrainConfig, model: type[Model], preset: str) -> TrainConfig:
    """Fill what the user left out: from the model's preset, then from the defaults.

    The learning rate of a policy is relative to the preset's.
    """
    base = PAPER if preset == "paper" else {}
    base = merged(base, model.training_presets.get(preset, {}))
    config = parse(TrainConfig, merged(base, user.model_dump(exclude_unset=True)), "train")
    if config.policy is not None and "lr" not in user.model_fields_set:
        config = config.model_copy(update={"lr": config.lr * config.policy.lr})
    return config


def default_batch_size(n_frames: int) -> int:
    """About fifty steps an epoch, between 1 and 16 frames a step."""
    return int(min(max(2 ** round(math.log2(max(n_frames, 1) / 50)), 1), 16))
