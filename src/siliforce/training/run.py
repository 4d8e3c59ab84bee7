"""`train`: from data to a run folder."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import yaml

from siliforce import __version__
from siliforce.data import Dataset, DataStats, compute_stats
from siliforce.errors import ConfigError, TrainingError
from siliforce.files import write_atomic
from siliforce.potential import Card, Potential
from siliforce.species import Species
from siliforce.training import checkpoint
from siliforce.training.build import (
    ModelChoice,
    build_potential,
    check_elements,
    check_labels,
    choose_device,
    choose_preset,
)
from siliforce.training.console import Console
from siliforce.training.distributed import World, join_world
from siliforce.training.estimate import estimate
from siliforce.training.inputs import DataConfig, Source, TrainingData, load_training_data
from siliforce.training.normalise import normalisation
from siliforce.training.options import merged, parse
from siliforce.training.settings import HOW_ONLY, TrainConfig
from siliforce.training.trainer import Trainer

Restart = Literal["never", "auto"]


@dataclass(frozen=True)
class RunResult:
    """What a training left behind.

    Attributes:
        run_dir: the run folder (of an ensemble: the folder of its members).
        stop_reason: why it ended; `interrupted` if it is to be continued.
        best: the metrics row of the best validation.
        n_parameters: trained ones.
        members: of an ensemble.
    """

    run_dir: Path
    stop_reason: str
    best: dict[str, float]
    n_parameters: int
    members: tuple[RunResult, ...] = ()

    @property
    def interrupted(self) -> bool:
        return self.stop_reason == INTERRUPTED

    @property
    def best_path(self) -> Path:
        """The best potential's file; the first member's of an ensemble."""
        return (self.members[0] if self.members else self).run_dir / "best.safetensors"

    def potential(self) -> Potential:
        """The best potential."""
        return Potential.load(self.best_path)


def train(
    data: Source | DataConfig,
    model: str | ModelChoice | Mapping[str, Any] = "mace",
    *,
    valid: Source | None = None,
    preset: str | None = None,
    config: TrainConfig | Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    restart: Restart = "never",
    quiet: bool = False,
) -> RunResult:
    """Train a potential, or an ensemble of them, and leave a run folder.

    Called by every process of a distributed training alike.

    Args:
        data: files, stores, a dataset, a split, or the data section of a configuration.
        model: name, or the model section.
        valid: frames to validate on; else `data` is split.
        preset: of the model; else by size of data and hardware.
        config: the training section; what is left out comes from the preset.
        out: run folder; by default `runs/<data>-<model>`.
        restart: `auto` goes on where the run folder's checkpoint ends, if there is one.
        quiet: print nothing.

    Raises:
        ConfigError: contradicting options, or options changed on restart.
        DataError: unusable data.
        TrainingError: no convergence or not enough memory.
    """
    choice = _model_choice(model, preset)
    user = config if isinstance(config, TrainConfig) else parse(TrainConfig, config or {}, "train")
    world = join_world()
    console = Console(quiet or not world.is_main)
    started = time.monotonic()
    inputs = _load(data, valid, world)
    run_dir = Path(out) if out else _default_folder(inputs, choice, restart)
    run_dir = Path(world.share(str(run_dir)))
    session = Session(inputs, choice, user, world, console, restart)
    if user.seeds == 1:
        return session.run(run_dir, user.seed, user.max_time)
    members: list[RunResult] = []
    for k in range(user.seeds):
        console.say(f"member {k + 1} of {user.seeds}")
        share = user.max_time / user.seeds if user.max_time else None
        members.append(session.run(run_dir / f"seed-{user.seed + k}", user.seed + k, share))
        if members[-1].interrupted:
            break
    _write_ensemble(run_dir, members, world)
    console.say(f"ensemble of {len(members)} in {run_dir} after {time.monotonic() - started:.0f} s")
    reasons = {m.stop_reason for m in members}
    reason = INTERRUPTED if INTERRUPTED in reasons else "; ".join(sorted(reasons))
    return RunResult(run_dir, reason, members[0].best, members[0].n_parameters, tuple(members))
