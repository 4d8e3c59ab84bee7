"""One training from its inputs to its run folder."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from siliforce.data import DataStats, compute_stats
from siliforce.errors import ConfigError, TrainingError
from siliforce.hardware import choose_device, hardware_stamp, peak_memory_gib
from siliforce.potential import BEST, Potential
from siliforce.training import checkpoint, record
from siliforce.training.console import Console
from siliforce.training.distributed import World
from siliforce.training.estimate import estimate
from siliforce.training.inputs import TrainingData
from siliforce.training.metrics import error_summary
from siliforce.training.normalise import given_energies
from siliforce.training.options import merged
from siliforce.training.settings import HOW_ONLY, TrainConfig, default_batch_size, resolve
from siliforce.training.start import Start
from siliforce.training.state import INTERRUPTED, State
from siliforce.training.trainer import Trainer

Restart = Literal["never", "auto"]
CPU_EDGES = 8_000
"""Edges in one portion on a CPU: larger ones fall out of the caches (SchNet: 1.7 x slower)."""


@dataclass(frozen=True)
class Plan:
    """Everything decided before the first step.

    Attributes:
        choice: model section, resolved.
        config: training section, resolved.
        data: data section.
        identity: what must be equal to continue a run.
    """

    choice: dict[str, Any]
    config: TrainConfig
    data: dict[str, Any]
    identity: dict[str, Any]


class Session:
    """Shared by the members of an ensemble: data, statistics, device."""

    def __init__(
        self,
        inputs: TrainingData,
        start: Start,
        user: TrainConfig,
        world: World,
        console: Console,
        restart: Restart,
    ) -> None:
        self.inputs, self.start, self.user = inputs, start, user
        self.world, self.console, self.restart = world, console, restart
        self.device = choose_device(user.device, world.local_rank)
        self._stats: dict[float, DataStats] = {}

    def run(self, run_dir: Path, seed: int, max_time: float | None) -> tuple[State, int]:
        """Train one potential, or go on with it.

        Returns:
            Where it ended, and how many parameters were trained.

        Raises:
            ConfigError: the folder is taken, or its run had another configuration.
        """
        resume = self._may_resume(run_dir)
        n_frames, stored = len(self.inputs.train), run_dir if resume else None
        preset = self.start.preset(stored, self.device, n_frames, self.console)
        config = self._config(preset, seed, max_time)
        if config.deterministic:
            torch.use_deterministic_algorithms(True, warn_only=True)
        stats = self.stats(self.start.cutoff(preset), config)
        potential = self.start.potential(
            self.inputs, stats, preset, config, self.console, fit=not resume
        ).to(self.device)
        plan = self._plan(preset, config, potential)
        trainer = self._trainer(potential, plan, run_dir)
        if resume:
            self._resume(trainer, plan, run_dir)
        if not trainer.state.stop_reason:
            self._begin(trainer, plan, run_dir)
            if self.start.first_candidate and trainer.state.step == 0:
                self._keep_start(trainer, run_dir)
            self._fit(trainer, plan, run_dir)
        return trainer.state, trainer.optimiser.n_variables

    # -- decisions ----------------------------------------------------------------------------

    def _may_resume(self, run_dir: Path) -> bool:
        taken = self.world.share(checkpoint.exists(run_dir))
        if taken and self.restart == "never":
            raise ConfigError(
                f"{run_dir} holds a training already; go on with it by --restart auto, "
                "or name another folder by --out"
            )
        return taken

    def _config(self, preset: str, seed: int, max_time: float | None) -> TrainConfig:
        config = resolve(self.user, self.start.model_class, preset)
        changes: dict[str, Any] = {"seed": seed, "seeds": 1}
        if max_time is not None:
            changes["max_time"] = max_time
        if config.batch_size is None:
            changes["batch_size"] = default_batch_size(len(self.inputs.train))
        return config.model_copy(update=changes)

    def stats(self, cutoff: float, config: TrainConfig) -> DataStats:
        """Statistics of the training set."""
        if cutoff not in self._stats:
            given = given_energies(config.normalise)
            with self.world.main_first():
                self._stats[cutoff] = compute_stats(self.inputs.train, cutoff, given)
                self.inputs.valid.edge_counts(cutoff)
        return self._stats[cutoff]

    def _plan(self, preset: str, config: TrainConfig, potential: Potential) -> Plan:
        choice = {
            "name": potential.model.name,
            "preset": preset,
            "pin_isolated": potential.pin_isolated,
            "repulsion": potential.repulsion is not None,
            **potential.model.config.model_dump(mode="json"),
        }
        train = config.model_dump(mode="json")
        identity = {
            "data": {"train": self.inputs.train.hash, "valid": self.inputs.valid.hash},
            "model": choice,
            "train": {k: v for k, v in train.items() if k not in HOW_ONLY},
            **self.start.identity,
        }
        plan = Plan(choice, config, self.inputs.config, identity)
        sections = {"data": plan.data, "model": choice, "train": train}
        potential.card.config = sections | self.start.sections
        return plan

    # -- training -----------------------------------------------------------------------------

    def _trainer(self, potential: Potential, plan: Plan, run_dir: Path) -> Trainer:
        config, train = plan.config, self.inputs.train
        costs = np.sort(train.edge_counts(potential.cutoff) + train.n_atoms)
        assert config.batch_size is not None
        whole_step = int(costs[-config.batch_size :].sum())
        return Trainer(
            potential,
            train,
            self.inputs.valid,
            config,
            run_dir,
            batch_size=config.batch_size,
            max_edges=config.max_edges or self._default_budget(whole_step),
            world=self.world,
            console=self.console,
            identity=plan.identity,
        )

    def _default_budget(self, whole_step: int) -> int:
        """A GPU takes a step at once, a CPU in portions; memory may lower it (`estimate`)."""
        return min(whole_step, CPU_EDGES) if self.device.type == "cpu" else whole_step

    def _resume(self, trainer: Trainer, plan: Plan, run_dir: Path) -> None:
        snapshot, complaints = checkpoint.load(run_dir)
        for complaint in complaints:
            self.console.say(f"{complaint}; going on from the checkpoint before")
        # An option that came after the run was begun has its default in it.
        defaults = {
            "model": type(trainer.potential.model.config)().model_dump(mode="json"),
            "train": TrainConfig().model_dump(mode="json", exclude=set(HOW_ONLY)),
        }
        begun = merged(defaults, snapshot.header["identity"])
        changed = record.differences(begun, plan.identity)
        if changed:
            raise ConfigError(
                f"{run_dir} was trained with another configuration: {'; '.join(changed)}. "
                "Restart with the old one, or start a new run by --out"
            )
        trainer.restore(snapshot)
        self._rescue_best(trainer, run_dir)
        if plan.config.max_edges is not None:
            trainer.set_max_edges(plan.config.max_edges)
        state = trainer.state
        if state.stop_reason:
            self.console.say(f"{run_dir} is finished already ({state.stop_reason})")
        else:
            self.console.say(f"going on at epoch {state.epoch + 1}, step {state.step}")

    def _rescue_best(self, trainer: Trainer, run_dir: Path) -> None:
        """Where the best potential's file was lost, the averaged weights of now take its place."""
        best, state = run_dir / BEST, trainer.state
        if not np.isfinite(state.best_loss) or self.world.share(best.exists()):
            return
        with trainer.optimiser.averaged_weights():
            state.best_loss, _ = trainer.evaluate()
            if self.world.is_main:
                trainer.potential.save(best)
        state.best_epoch = trainer.budget.epochs_done(state)
        self.console.say(
            f"{best} was lost: written again with the weights of epoch {state.best_epoch:g}, "
            "which need not be the best"
        )

    def _begin(self, trainer: Trainer, plan: Plan, run_dir: Path) -> None:
        """Say what will happen, and write it down."""
        train, valid = self.inputs.train, self.inputs.valid
        n = trainer.optimiser.n_variables
        self.console.say(
            f"{trainer.potential.model.title} ({plan.choice['preset']}, {n} parameters) on "
            f"{self.device}: {len(train)} frames to train, {len(valid)} to validate, "
            f"{plan.config.batch_size} a step"
        )
        if plan.config.compile:
            trainer.compile()
        cost = estimate(trainer, plan.config.max_edges is None and trainer.state.step == 0)
        words = cost.sentence(trainer.budget.max_epochs, trainer.sampler.batch_size)
        self.console.say(f"estimated: {words}")
        if not self.world.is_main:
            return
        run_dir.mkdir(parents=True, exist_ok=True)
        checkpoint.clean(run_dir)
        train_dump = plan.config.model_dump(mode="json")
        sections = {"data": plan.data, "model": plan.choice, "train": train_dump}
        record.write_config(run_dir / record.CONFIG, sections | self.start.sections)
        if self.inputs.split is not None:
            self.inputs.split.save(run_dir / record.SPLIT)
        self._write_run(trainer, plan, run_dir, "running")

    def _keep_start(self, trainer: Trainer, run_dir: Path) -> None:
        """A potential that is good before it is trained is the first candidate for the best."""
        state = trainer.state
        state.best_loss, sums = trainer.evaluate()
        row = {
            "epoch": 0,
            "step": 0,
            "time_s": 0.0,
            "lr": 0.0,
            "valid_loss": state.best_loss,
            **error_summary(sums, "valid"),
        }
        trainer.log.write(row)
        state.metrics_bytes = trainer.log.size
        if self.world.is_main:
            trainer.potential.card.errors = dict(row)
            trainer.potential.save(run_dir / BEST)

    def _fit(self, trainer: Trainer, plan: Plan, run_dir: Path) -> None:
        started = time.monotonic()
        try:
            state = trainer.fit()
        except TrainingError as error:
            self._write_run(trainer, plan, run_dir, f"failed: {error}")
            raise
        self._write_run(trainer, plan, run_dir, state.stop_reason)
        if self.world.is_main and not state.step and state.stop_reason != INTERRUPTED:
            raise TrainingError(
                f"{state.stop_reason} before the first step; give train.max_time (--max-time) more"
            )
        took = time.monotonic() - started
        self.console.say(
            f"{state.stop_reason} after {state.step} steps ({took:.0f} s); "
            + (
                f"continue with --restart auto --out {run_dir}"
                if state.stop_reason == INTERRUPTED
                else f"best: epoch {state.best_epoch:g}, in {run_dir / BEST}"
            )
        )

    def _write_run(self, trainer: Trainer, plan: Plan, run_dir: Path, status: str) -> None:
        if not self.world.is_main:
            return
        state, config, split = trainer.state, plan.config, self.inputs.split
        content = {
            "status": status,
            "model": plan.choice["name"],
            "preset": plan.choice["preset"],
            "n_parameters": trainer.optimiser.n_variables,
            "data_hash": plan.identity["data"]["train"],
            "valid_hash": plan.identity["data"]["valid"],
            "split_hash": split.hash if split is not None else None,
            "n_train": len(self.inputs.train),
            "n_valid": len(self.inputs.valid),
            "seed": config.seed,
            "seeds": [config.seed],
            "dtype": config.dtype,
            "n_processes": self.world.size,
            "hardware": hardware_stamp(self.device),
            "versions": record.versions(),
            "written": record.now(),
            "epochs": state.epoch,
            "steps": state.step,
            "wall_s": round(state.elapsed, 2),
            "peak_memory_gib": peak_memory_gib(self.device),
            "stop_reason": status,
            "best_epoch": state.best_epoch,
            "best_loss": state.best_loss if np.isfinite(state.best_loss) else None,
            "divergences": state.divergences,
            "max_edges": state.max_edges,
        }
        record.write_json(run_dir / record.RUN, content)
