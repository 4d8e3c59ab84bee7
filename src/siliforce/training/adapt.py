"""`adapt`: a trained potential goes on learning on frames of a dopant, an alloy, another crystal.

Scale, neighbour count, cutoff and all constants stay the source's. New elements enter the species
tables as copies of their neighbours in the periodic table; their reference energies are fitted to
the target. The policy says what is trained. Everything else is the trainer's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from siliforce.data import Dataset, Split, SplitConfig, load_dataset
from siliforce.errors import ConfigError, DataError
from siliforce.potential import Potential
from siliforce.species import Species
from siliforce.training.adapted import AdaptConfig, Adapted
from siliforce.training.console import Console
from siliforce.training.distributed import join_world
from siliforce.training.inputs import (
    IN_MEMORY,
    DataConfig,
    Source,
    TrainingData,
    load_training_data,
)
from siliforce.training.options import merged, parse
from siliforce.training.policy import Policy, get_policy
from siliforce.training.run import RunResult, default_folder, run_session
from siliforce.training.session import Restart, Session
from siliforce.training.settings import TrainConfig

STEPS = 2000
"""Steps of an adaptation if neither epochs nor a time limit is given."""
VALIDATIONS = 100
PATIENCE = 30
"""Validations in that time, and without improvement before it stops."""
DEFAULT_POLICY = "all"


def adapt(
    source: str | Path | Potential,
    data: Source | DataConfig | Mapping[str, Any],
    *,
    valid: Source | None = None,
    policy: str | None = None,
    replay: Source | None = None,
    config: AdaptConfig | Mapping[str, Any] | None = None,
    train: TrainConfig | Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    restart: Restart = "never",
    quiet: bool = False,
) -> RunResult:
    """Adapt a potential to new frames, and leave a run folder.

    Args:
        source: model file, run folder, or potential (which is not changed).
        data: target frames; one fold of them is held out, for stopping early and choosing the best.
        valid: frames to hold out instead.
        policy: what is trained, one of `siliforce.training.policy.POLICIES` or of
            `adapt.policies`; instead of `train.policy`.
        replay: frames of the source to mix in; the same as `adapt.replay`.
        config: the section `adapt`.
        train: the section `train`; the rest comes from the source's preset and `adapt_defaults`.
        out: run folder; by default `runs/<data>-<model>`.
        restart: as in `train`.
        quiet: print nothing.

    Raises:
        ConfigError: contradicting options, or options changed on restart.
        DataError: no element in common with the source, fewer frames than folds, unusable frames.
        TrainingError: no convergence or not enough memory.
    """
    section = (
        config if isinstance(config, AdaptConfig) else parse(AdaptConfig, config or {}, "adapt")
    )
    user = train if isinstance(train, TrainConfig) else parse(TrainConfig, train or {}, "train")
    world = join_world()
    console = Console(quiet or not world.is_main)
    potential = source if isinstance(source, Potential) else Potential.load(source)
    with world.main_first():
        inputs = target_data(data, section, valid, user.seed)
        check_shared(potential, inputs.train.elements, section)
        replayed = _frames(replay or section.replay)
    name = IN_MEMORY if isinstance(source, Potential) else str(source)
    start = Adapted(potential, name, section, replayed, user.seed)
    changes = {}
    if policy is not None:
        if user.policy is not None:
            raise ConfigError(f"policy '{policy}' and train.policy are both given: leave one out")
        changes["policy"] = get_policy(policy, section.policies)
    user = adapt_defaults(user, len(inputs.train), potential, **changes)
    folder = default_folder(inputs.config["source"], potential.model.name, restart)
    folder = Path(world.share(str(Path(out) if out else folder)))
    inputs = start.mixed(inputs)
    return run_session(Session(inputs, start, user, world, console, restart), folder)


def adapt_defaults(
    user: TrainConfig, n_frames: int, potential: Potential | None = None, **policy: Policy
) -> TrainConfig:
    """What the user left out: a budget of steps, few frames a step, early stopping.

    The control from scratch gets the same budget.
    """
    given = user.model_fields_set
    batch = user.batch_size or min(4, max(1, n_frames // 8))
    defaults: dict[str, Any] = {"batch_size": batch}
    if potential is not None:
        defaults |= {"policy": DEFAULT_POLICY}
        defaults |= {"dtype": str(potential.dtype).removeprefix("torch.")}
    if user.max_time is None:
        epochs = user.epochs or math.ceil(STEPS / math.ceil(n_frames / batch))
        every = user.validate_every if "validate_every" in given else 1 + epochs // VALIDATIONS
        defaults |= {"epochs": epochs, "validate_every": every, "early_stopping": PATIENCE}
    values = merged(defaults, user.model_dump(exclude_unset=True)) | policy
    return parse(TrainConfig, values, "train")


def target_data(
    data: Source | DataConfig | Mapping[str, Any],
    section: AdaptConfig,
    valid: Source | None = None,
    seed: int = 0,
) -> TrainingData:
    """Target frames with one fold held out, at least one frame, and a test part if asked for.

    Raises:
        DataError: fewer frames than folds.
    """
    if isinstance(data, Mapping):
        data = parse(DataConfig, data, "data")
    if valid is not None or isinstance(data, Split):
        return load_training_data(data, valid)
    if isinstance(data, DataConfig) and (data.valid or "split" in data.model_fields_set):
        return load_training_data(data)
    frames = _frames(data.source if isinstance(data, DataConfig) else data)
    assert frames is not None
    n = len(frames)
    n_test = max(round(section.test * n), 1) if section.test else 0
    folds = max(section.folds or min(5, n - n_test), 2)
    if n - n_test < folds:
        kept = f", {n_test} of them for the test," if n_test else ""
        raise DataError(
            f"{n} target frame{'s' if n != 1 else ''}{kept} cannot be divided into {folds} folds, "
            "one of which is held out: label more, lower adapt.folds, or name held-out frames by "
            "--valid"
        )
    held = (n - n_test) / folds / n
    split = SplitConfig(valid=held, test=section.test, seed=seed)
    return load_training_data(frames if isinstance(data, Dataset) else data, split=split)


def _frames(data: Any) -> Dataset | None:
    return data if data is None or isinstance(data, Dataset) else load_dataset(data)


def check_shared(potential: Potential, elements: Sequence[int], section: AdaptConfig) -> None:
    """Refuse a target that has no element of the source, unless sources are named.

    Raises:
        DataError: nothing in common.
        ConfigError: `adapt.sources` names an element that is not new, or a source not known.
    """
    known, target = potential.species, Species(tuple(elements))
    new = [s for s in target.symbols if s not in known.symbols]
    for element, source in section.sources.items():
        if element not in new or source not in known.symbols:
            raise ConfigError(
                f"adapt.sources.{element}={source}: new elements are {', '.join(new) or 'none'}, "
                f"known ones {', '.join(known.symbols)}"
            )
    if len(new) == len(target) and set(new) - section.sources.keys():
        first = new[0]
        raise DataError(
            f"the target ({', '.join(target.symbols)}) shares no element with the source "
            f"({', '.join(known.symbols)}). If that is meant, name what each new element starts "
            f"from: --set adapt.sources.{first}={known.symbols[0]}"
        )
