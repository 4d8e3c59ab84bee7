"""`train`: from data to a run folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from siliforce.potential import BEST, Potential
from siliforce.training import checkpoint, record
from siliforce.training.build import ModelChoice
from siliforce.training.console import Console
from siliforce.training.distributed import join_world
from siliforce.training.inputs import IN_MEMORY, DataConfig, Source, load_training_data
from siliforce.training.joint import Joint
from siliforce.training.options import parse
from siliforce.training.runlog import read_metrics
from siliforce.training.session import Restart, Session
from siliforce.training.settings import TrainConfig
from siliforce.training.start import Scratch
from siliforce.training.state import INTERRUPTED

ENSEMBLE = "ensemble.json"


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
        return (self.members[0] if self.members else self).run_dir / BEST

    def potential(self) -> Potential:
        """The best potential."""
        return Potential.load(self.best_path)


def train(
    data: Source | DataConfig | Mapping[str, Any],
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
    choice = _choice(model, preset)
    user = config if isinstance(config, TrainConfig) else parse(TrainConfig, config or {}, "train")
    world = join_world()
    console = Console(quiet or not world.is_main)
    with world.main_first():
        inputs = load_training_data(data, valid)
    folder = Path(out) if out else default_folder(inputs.config["source"], choice.name, restart)
    folder = Path(world.share(str(folder)))
    start = Joint(choice) if user.joint else Scratch(choice)
    return run_session(Session(inputs, start, user, world, console, restart), folder)


def run_session(session: Session, folder: Path) -> RunResult:
    """Train the potential of a session, or its ensemble."""
    user = session.user
    if user.seeds == 1:
        return _member(session, folder, user.seed, user.max_time)
    return _ensemble(session, folder)


def _member(session: Session, folder: Path, seed: int, max_time: float | None) -> RunResult:
    state, n_parameters = session.run(folder, seed, max_time)
    rows = read_metrics(folder)
    best = min(rows, key=lambda row: row["valid_loss"], default={})
    return RunResult(folder, state.stop_reason, best, n_parameters)


def _ensemble(session: Session, folder: Path) -> RunResult:
    """Members one after the other; each gets an equal share of a time limit."""
    user, members = session.user, []
    for k in range(user.seeds):
        session.console.say(f"member {k + 1} of {user.seeds}")
        share = user.max_time / user.seeds if user.max_time else None
        path = folder / f"seed-{user.seed + k}"
        members.append(_member(session, path, user.seed + k, share))
        if members[-1].interrupted:
            break
    if session.world.is_main:
        manifest = {
            "members": [f"{m.run_dir.name}/{BEST}" for m in members],
            "n_members": user.seeds,
            "complete": len(members) == user.seeds and not members[-1].interrupted,
            "data_hash": session.inputs.train.hash,
            "written": record.now(),
            "best": [m.best for m in members],
        }
        record.write_json(folder / ENSEMBLE, manifest)
    reason = INTERRUPTED if members[-1].interrupted else members[-1].stop_reason
    return RunResult(folder, reason, members[0].best, members[0].n_parameters, tuple(members))


def _choice(model: str | ModelChoice | Mapping[str, Any], preset: str | None) -> ModelChoice:
    values = {"name": model} if isinstance(model, str) else dict(model)
    if preset is not None:
        values["preset"] = preset
    return parse(ModelChoice, values, "model").checked()


def default_folder(source: str | list[str], model: str, restart: Restart) -> Path:
    """`runs/<data>-<model>`, numbered if that is taken and is not to be continued."""
    first = source if isinstance(source, str) else source[0]
    stem = "data" if first == IN_MEMORY else Path(first).name.split(".")[0]
    base = Path("runs") / f"{stem}-{model}"
    folder, k = base, 2
    while restart == "never" and checkpoint.exists(folder):
        folder, k = base.with_name(f"{base.name}-{k}"), k + 1
    return folder
