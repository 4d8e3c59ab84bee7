"""One training from its inputs to its run folder."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from siliforce.data import Dataset, DataStats, compute_stats
from siliforce.data.environments import Environments
from siliforce.errors import ConfigError, TrainingError
from siliforce.graph import Graph
from siliforce.hardware import hardware_stamp
from siliforce.potential import BEST, Card, Potential
from siliforce.species import Species
from siliforce.training import checkpoint, record
from siliforce.training.build import (
    ModelChoice,
    build_potential,
    check_elements,
    check_labels,
    choose_device,
    choose_preset,
)
from siliforce.training.console import Console
from siliforce.training.distributed import World
from siliforce.training.estimate import estimate
from siliforce.training.inputs import NOT_STATED, TrainingData
from siliforce.training.normalise import given_energies, normalisation
from siliforce.training.sampler import within_budget
from siliforce.training.settings import HOW_ONLY, TrainConfig, default_batch_size, resolve
from siliforce.training.state import INTERRUPTED, State
from siliforce.training.trainer import Trainer

Restart = Literal["never", "auto"]
CONSTANTS_FRAMES = 1000
"""Frames that data-dependent constants (whitening, scale factors) are fitted to, at most."""

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
        choice: ModelChoice,
        user: TrainConfig,
        world: World,
        console: Console,
        restart: Restart,
    ) -> None:
        self.inputs, self.choice, self.user = inputs, choice.checked(), user
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
        preset = self._preset(run_dir if resume else None)
        config = self._config(preset, seed, max_time)
        if config.deterministic:
            torch.use_deterministic_algorithms(True, warn_only=True)
        potential = self._potential(preset, config, fit=not resume)
        plan = self._plan(preset, config, potential)
        trainer = self._trainer(potential, plan, run_dir)
        if resume:
            self._resume(trainer, plan, run_dir)
        if not trainer.state.stop_reason:
            self._begin(trainer, plan, run_dir)
            self._fit(trainer, plan, run_dir)
        return trainer.state, trainer.optimiser.gradient.numel()

    # -- decisions ----------------------------------------------------------------------------

    def _may_resume(self, run_dir: Path) -> bool:
        taken = self.world.share(checkpoint.exists(run_dir))
        if taken and self.restart == "never":
            raise ConfigError(
                f"{run_dir} holds a training already; go on with it by --restart auto, "
                "or name another folder by --out"
            )
        return taken

    def _preset(self, stored: Path | None) -> str:
        if self.choice.preset != "auto":
            return self.choice.preset
        if stored is not None:
            known = record.read_json(stored / record.RUN).get("preset")
            if known:
                return known
        n_frames = len(self.inputs.train)
        preset, reason = choose_preset(self.choice.model_class, self.device, n_frames)
        self.console.say(f"preset {preset} ({reason})")
        return preset

    def _config(self, preset: str, seed: int, max_time: float | None) -> TrainConfig:
        config = resolve(self.user, self.choice.model_class, preset)
        changes: dict[str, Any] = {"seed": seed, "seeds": 1}
        if max_time is not None:
            changes["max_time"] = max_time
        if config.batch_size is None:
            changes["batch_size"] = default_batch_size(len(self.inputs.train))
        return config.model_copy(update=changes)

    def _potential(self, preset: str, config: TrainConfig, fit: bool) -> Potential:
        train, valid = self.inputs.train, self.inputs.valid
        check_elements(train.elements, valid.elements)
        species = Species(tuple(train.elements))
        stats = self.stats(self.choice.architecture(preset).cutoff, config)
        constants = normalisation(config.normalise, stats, species, self.choice.pins(preset))
        self.console.say(constants.note)
        card = self._card(stats, self.choice.architecture(preset).cutoff)
        potential = build_potential(self.choice, preset, species, constants, config, card)
        check_labels(potential, config, _labels(train))
        if fit:
            potential.model.fit_constants(ConstantsGraphs(train, potential, config.seed))
        return potential.to(self.device)

    def stats(self, cutoff: float, config: TrainConfig) -> DataStats:
        """Statistics of the training set."""
        if cutoff not in self._stats:
            given = given_energies(config.normalise)
            with self.world.main_first():
                self._stats[cutoff] = compute_stats(self.inputs.train, cutoff, given)
                self.inputs.valid.edge_counts(cutoff)
        return self._stats[cutoff]

    def _card(self, stats: DataStats, cutoff: float) -> Card:
        data, facts = self.inputs.config, self.inputs.train.facts
        stated = {k: facts.get(k) or NOT_STATED for k in ("level_of_theory", "licence")}
        stated |= {k: data[k] for k in stated if data[k] != NOT_STATED}
        return Card(
            created=record.now(),
            siliforce_version=record.versions()["siliforce"],
            data_hash=self.inputs.train.hash,
            data_source=" ".join(
                [data["source"]] if isinstance(data["source"], str) else data["source"]
            ),
            **stated,
            n_frames=len(self.inputs.train),
            elements=list(Species(tuple(self.inputs.train.elements)).symbols),
            atoms_per_volume=stats.atoms_per_volume,
            temperature=stats.temperature,
            min_distance=stats.min_distance,
            environments=Environments.of_dataset(self.inputs.train, cutoff).to_json(),
        )

    def _plan(self, preset: str, config: TrainConfig, potential: Potential) -> Plan:
        choice = {
            "name": self.choice.name,
            "preset": preset,
            "pin_isolated": potential.pin_isolated,
            "repulsion": self.choice.repulsion,
            **potential.model.config.model_dump(mode="json"),
        }
        train = config.model_dump(mode="json")
        identity = {
            "data": {"train": self.inputs.train.hash, "valid": self.inputs.valid.hash},
            "model": choice,
            "train": {k: v for k, v in train.items() if k not in HOW_ONLY},
        }
        plan = Plan(choice, config, self.inputs.config, identity)
        potential.card.config = {"data": plan.data, "model": choice, "train": train}
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
        changed = record.differences(snapshot.header["identity"], plan.identity)
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
        n = trainer.optimiser.gradient.numel()
        self.console.say(
            f"{trainer.potential.model.title} ({plan.choice['preset']}, {n} parameters) on "
            f"{self.device}: {len(train)} frames to train, {len(valid)} to validate, "
            f"{plan.config.batch_size} a step"
        )
        if plan.config.compile:
            trainer.compile()
        cost = estimate(trainer, plan.config.max_edges is None and trainer.state.step == 0)
        self.console.say("estimated: " + cost.sentence(trainer.budget.max_epochs))
        if not self.world.is_main:
            return
        run_dir.mkdir(parents=True, exist_ok=True)
        checkpoint.clean(run_dir)
        train_dump = plan.config.model_dump(mode="json")
        sections = {"data": plan.data, "model": plan.choice, "train": train_dump}
        record.write_config(run_dir / record.CONFIG, sections)
        if self.inputs.split is not None:
            self.inputs.split.save(run_dir / record.SPLIT)
        self._write_run(trainer, plan, run_dir, "running")

    def _fit(self, trainer: Trainer, plan: Plan, run_dir: Path) -> None:
        started = time.monotonic()
        try:
            state = trainer.fit()
        except TrainingError as error:
            self._write_run(trainer, plan, run_dir, f"failed: {error}")
            raise
        self._write_run(trainer, plan, run_dir, state.stop_reason)
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
            "n_parameters": trainer.optimiser.gradient.numel(),
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
            "stop_reason": status,
            "best_epoch": state.best_epoch,
            "best_loss": state.best_loss if np.isfinite(state.best_loss) else None,
            "divergences": state.divergences,
            "max_edges": state.max_edges,
        }
        record.write_json(run_dir / record.RUN, content)


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


def _labels(data: Dataset) -> dict[str, bool]:
    """Which labels any frame has."""
    stress = data.records["stress"]
    return {
        "energy": bool(np.isfinite(data.energies).any()),
        "forces": any(frame.forces is not None for frame in data),
        "stress": bool(np.isfinite(stress).all(axis=(1, 2)).any()),
    }
