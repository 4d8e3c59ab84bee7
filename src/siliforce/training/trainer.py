"""The one trainer for all architectures."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from siliforce.errors import TrainingError
from siliforce.potential import BEST, Potential
from siliforce.training import checkpoint
from siliforce.training.checkpoint import Snapshot
from siliforce.training.compiled import Predict, compiled
from siliforce.training.console import Console
from siliforce.training.distributed import World
from siliforce.training.loader import Loader, StepData
from siliforce.training.loss import Loss, residuals
from siliforce.training.memory import is_out_of_memory, release
from siliforce.training.metrics import N_SUMS, error_summary, error_sums
from siliforce.training.optimiser import Optimiser
from siliforce.training.runlog import MetricsLog
from siliforce.training.sampler import EdgeBudgetSampler
from siliforce.training.schedule import learning_rate_factor
from siliforce.training.settings import TrainConfig
from siliforce.training.signals import StopRequest
from siliforce.training.state import INTERRUPTED, TIME_IS_OVER, Budget, Diverged, State
from siliforce.training.validation import Validator

if TYPE_CHECKING:
    from siliforce.data import Dataset

LOOK_EVERY = 1.0
"""Seconds between two looks at the running loss: each waits for the device."""

SHRINK = 0.7
"""Factor on the edge budget when memory runs out."""


def processor_clock() -> float:
    """Processor seconds of this process, divided among its threads: the wall clock when alone."""
    return time.process_time() / torch.get_num_threads()


class Trainer:
    """Fits a potential to a dataset.

    A step: frames of the step cut into portions within the edge budget, loss sums divided by the
    label counts of the whole step, gradients added over portions and processes, one update.

    Attributes:
        potential: on its device; holds the running weights, not the averaged ones.
        state: where the training stands.
    """

    def __init__(
        self,
        potential: Potential,
        train: Dataset,
        valid: Dataset,
        config: TrainConfig,
        run_dir: str | Path,
        *,
        batch_size: int,
        max_edges: int,
        world: World | None = None,
        console: Console | None = None,
        identity: dict[str, Any] | None = None,
    ) -> None:
        """Prepare; nothing is written before `fit`.

        Args:
            potential: to be trained, on its device, in its dtype.
            train, valid: data; labels may be missing in part.
            config: all options resolved.
            run_dir: where checkpoints, metrics and the best potential go.
            batch_size: frames in a step.
            max_edges: edges in memory at once.
            world: the processes of this training.
            console: where messages go.
            identity: stored in checkpoints; must be equal on restart.
        """
        self.potential, self.config = potential, config
        self.run_dir = Path(run_dir)
        self.world = world or World()
        self.console = console or Console(quiet=True)
        self.identity = identity or {}
        self.loss = Loss(config.loss, float(potential.scale))
        self.device = potential.device
        self.loader = Loader(train, potential, config.loss.pool)
        cutoff = potential.cutoff
        self.sampler = EdgeBudgetSampler(
            train.edge_counts(cutoff), train.n_atoms, batch_size, max_edges, config.seed,
            self.world.rank, self.world.size,
        )  # fmt: skip
        self.validator = Validator(
            Loader(valid, potential, config.loss.pool),
            valid.edge_counts(cutoff) + valid.n_atoms,
            self.loss,
            self.world,
        )
        self.budget = Budget(config, len(self.sampler))
        self.world.copy_from_main(potential.state_dict().values())
        self.optimiser = Optimiser(potential, config)
        self.log = MetricsLog(self.run_dir, config.tensorboard, active=self.world.is_main)
        self.state = State(max_edges=max_edges)
        self.sums = self._zero_sums()
        self.uses_forces, self.uses_stress = config.loss.uses[1:]
        self.predict: Predict = self._predict
        self.good: Snapshot | None = None
        self.last_save = self.last_look = 0.0
        self.clock = time.monotonic if config.clock == "wall" else processor_clock
        self.started = 0.0

    # -- the loop -----------------------------------------------------------------------------

    def fit(self) -> State:
        """Train until the budget is used, the loss no longer falls, or a signal asks to stop.

        Raises:
            TrainingError: the loss keeps diverging, or memory does not hold a single frame.
        """
        self.log.truncate(self.state.metrics_bytes)
        self.started = self.clock() - self.state.elapsed
        self.good = self.snapshot().clone()
        if self.state.step == 0:
            self.save()
        self.console.start()
        try:
            with StopRequest() as stop:
                while not self.state.stop_reason:
                    try:
                        self._epoch(stop)
                    except Diverged as reason:
                        self._recover(str(reason))
        finally:
            self.console.stop()
            self.log.close()
        return self.state

    def _epoch(self, stop: StopRequest) -> None:
        state = self.state
        with closing(self.loader.epoch(self.sampler, state.epoch, state.step_in_epoch)) as steps:
            for data in steps:
                counts, interrupted = self._agree(data, stop)
                if interrupted or self.budget.time_is_over(state):
                    return self._leave(INTERRUPTED if interrupted else TIME_IS_OVER)
                self._step(data, counts)
                state.step += 1
                state.step_in_epoch += 1
                self._look()
        state.epoch += 1
        state.step_in_epoch = 0
        over = state.epoch >= self.budget.max_epochs
        if over or state.epoch % self.config.validate_every == 0:
            self._validate()
        if over and not state.stop_reason:
            state.stop_reason = "all epochs done"
        if state.stop_reason:
            self.save()
        return None

    def _leave(self, reason: str) -> None:
        """Stop in the middle of an epoch: for good when time is over, else to be continued."""
        if reason == TIME_IS_OVER:
            if self.state.n_train_steps:
                self._validate()
            self.state.stop_reason = reason
            self.save()
        else:
            self.save()
            self.state.stop_reason = reason

    def _agree(self, data: StepData, stop: StopRequest) -> tuple[list[float], bool]:
        """Label counts over all processes; rank 0's clock; whether any was asked to stop."""
        elapsed = self.clock() - self.started if self.world.is_main else 0.0
        values = [*data.counts.tolist(), elapsed, float(stop.requested)]
        *counts, self.state.elapsed, stopped = self.world.total(values)
        return counts, stopped > 0

    @property
    def fraction(self) -> float:
        """Part of the budget that is used."""
        return self.budget.fraction(self.state)

    # -- one step -----------------------------------------------------------------------------

    def _step(self, data: StepData, counts: list[float]) -> None:
        fraction = self.fraction
        weights = self.config.loss.weights(fraction)
        factors = torch.tensor(
            [w / c if c else 0.0 for w, c in zip(weights, counts, strict=True)],
            dtype=torch.float64,
        ).to(self.device, non_blocking=True)
        while True:
            if data.max_edges != self.sampler.max_edges:
                data = self.loader.step(self.sampler, self.state.epoch, self.state.step_in_epoch)
            sums = self.gradient(data, factors)
            tried = max((b.graph.n_edges + b.graph.n_atoms for b in data.batches), default=0)
            failed = sums is None
            n_failed, edges = self.world.total([failed, tried * failed])
            if not n_failed:
                break
            self.shrink(int(edges / n_failed))
        self.world.add(self.optimiser.gradient)
        norm = self.optimiser.step(self.learning_rate(fraction), self.state.step)
        assert sums is not None
        # One vector holds errors, loss and gradient norm: read once in a while, never per step.
        self.sums[:-1] += sums
        if self.world.is_main:
            self.sums[-1] += norm
        self.state.n_train_steps += 1

    def gradient(self, data: StepData, factors: Tensor) -> Tensor | None:
        """Add up the gradient of this process's portions.

        Returns:
            Error sums and loss, (N_SUMS + 1,), or None when memory ran out.
        """
        self.optimiser.zero()
        result = torch.zeros(N_SUMS + 1, dtype=torch.float64, device=self.device)
        try:
            for batch in data.batches:
                batch = batch.to(self.device)
                prediction = self.predict(batch.graph, create_graph=True)
                residual = residuals(prediction, batch)
                loss = (self.loss.sums(residual, batch) * factors).sum()
                # Weights alone: the gradient with respect to edge vectors costs and is not used.
                loss.backward(inputs=self.optimiser.parameters)
                result[:N_SUMS] += error_sums(residual, batch)
                result[N_SUMS] += loss.detach()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return None
        return result

    def _predict(self, graph: Any, create_graph: bool) -> Any:
        return self.potential(
            graph, forces=self.uses_forces, stress=self.uses_stress, create_graph=create_graph
        )

    def compile(self) -> None:
        """Evaluate through torch.compile from now on, if that works here."""
        self.console.say("compiling: takes minutes once, then each step is faster")
        batch = self.loader.batch(np.arange(min(2, len(self.sampler.cost)))).to(self.device)
        self.predict = compiled(self._predict, self.potential, batch, self.console.say)

    def learning_rate(self, fraction: float) -> float:
        """At a fraction of the budget, with all reductions so far."""
        factor = learning_rate_factor(self.config.schedule, fraction)
        return self.config.lr * factor * self.state.lr_factor

    def shrink(self, tried: int) -> int:
        """Lower the edge budget after memory ran out.

        Args:
            tried: edges and atoms of the portion that was too large.
        """
        release(self.device)
        largest = int(self.sampler.cost.max())
        if self.sampler.max_edges <= largest:
            raise TrainingError(
                f"memory does not hold the largest frame ({largest} edges and atoms) alone: "
                "choose a smaller cutoff or preset, float32, or a device with more memory"
            )
        budget = max(int(SHRINK * min(self.sampler.max_edges, tried)), largest)
        self.console.say(
            f"out of memory with {tried} edges: going on with portions of {budget} edges; "
            "batches and results stay the same"
        )
        self.set_max_edges(budget)
        return budget

    def set_max_edges(self, budget: int) -> None:
        """Change the edge budget; steps already prepared are cut again."""
        self.sampler.max_edges = self.state.max_edges = budget

    # -- looking, saving, recovering ----------------------------------------------------------

    def _look(self) -> None:
        """Now and then: show progress, notice a loss that is not finite, save."""
        now = self.state.elapsed
        save = now - self.last_save >= self.config.checkpoint_every
        if not save and now - self.last_look < LOOK_EVERY:
            return
        self.last_look = now
        loss = self._check_finite()
        self.console.progress(
            self.state.epoch + 1, self.state.step, loss, self.fraction, self.state.elapsed
        )
        if save:
            self.save()

    def _check_finite(self) -> float:
        loss, norm = self._pooled_sums()[N_SUMS:].tolist()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise Diverged("the loss or its gradient is not finite")
        return loss / max(self.state.n_train_steps, 1)

    def _recover(self, reason: str) -> None:
        """Back to the last good state with half the learning rate."""
        divergences, lr_factor = self.state.divergences + 1, self.state.lr_factor / 2
        at = f"step {self.state.step}"
        if divergences > self.config.max_divergences:
            raise TrainingError(
                f"training diverged {divergences} times (last at {at}: {reason}); the best "
                "potential so far is kept. Lower train.lr, check the labels (data doctor), or "
                "raise train.schedule.warmup"
            )
        assert self.good is not None
        max_edges, elapsed = self.state.max_edges, self.state.elapsed
        self.restore(self.good)
        self.state.divergences, self.state.lr_factor = divergences, lr_factor
        self.state.max_edges = self.sampler.max_edges = max_edges
        self.state.elapsed = elapsed
        self.log.truncate(self.state.metrics_bytes)
        self.console.say(
            f"diverged at {at}: {reason}. Back to step {self.state.step} with the learning rate "
            f"x {lr_factor:g} ({divergences} of at most {self.config.max_divergences} times)"
        )
        self.save()

    def save(self) -> None:
        """Write a checkpoint; a full disk is said and does not end the training."""
        self.last_save = self.state.elapsed
        self._pooled_sums()
        if not self.world.is_main:
            return
        with self._tolerated("write a checkpoint; the one before stays"):
            checkpoint.save(self.run_dir, self.snapshot())

    @contextmanager
    def _tolerated(self, what: str) -> Iterator[None]:
        """A full disk is said; it ends the training only at its end, where nothing comes after."""
        try:
            yield
        except OSError as error:
            if self.state.stop_reason:
                raise TrainingError(f"cannot {what} at the end: {error}") from error
            self.console.say(f"cannot {what} ({error}); training goes on and tries again")

    def snapshot(self) -> Snapshot:
        """Everything that `restore` needs, as references to the live tensors."""
        tensors = {f"potential.{k}": v for k, v in self.potential.state_dict().items()}
        tensors |= {f"optimiser.{k}": v for k, v in self.optimiser.tensors().items()}
        tensors["sums"] = self.sums
        tensors["rng.cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["rng.cuda"] = torch.cuda.get_rng_state(self.device)
        self.state.metrics_bytes = self.log.size
        return Snapshot(tensors, {"state": asdict(self.state), "identity": self.identity})

    def restore(self, snapshot: Snapshot) -> None:
        """Continue exactly where the snapshot was taken."""
        parts: dict[str, dict[str, Tensor]] = {}
        for name, tensor in snapshot.tensors.items():
            head, _, tail = name.partition(".")
            parts.setdefault(head, {})[tail] = tensor
        self.potential.load_state_dict(parts["potential"])
        self.optimiser.load(parts["optimiser"])
        self.sums = self._zero_sums()
        if self.world.is_main:
            self.sums += parts["sums"][""].to(self.device)
        torch.set_rng_state(parts["rng"]["cpu"])
        if "cuda" in parts["rng"] and self.device.type == "cuda":
            torch.cuda.set_rng_state(parts["rng"]["cuda"], self.device)
        self.state = State(**snapshot.header["state"])
        self.sampler.max_edges = self.state.max_edges
        self.started = self.clock() - self.state.elapsed
        self.last_save = self.last_look = self.state.elapsed

    def _pooled_sums(self) -> Tensor:
        """The running sums over all processes; rank 0 takes over what the others had."""
        total = self.world.add(self.sums.clone())
        self.sums = total.clone() if self.world.is_main else self._zero_sums()
        return total

    def _zero_sums(self) -> Tensor:
        return torch.zeros(N_SUMS + 2, dtype=torch.float64, device=self.device)

    # -- validation ---------------------------------------------------------------------------

    def _validate(self) -> None:
        """Score the averaged weights, write a line of metrics, keep the best."""
        state, started = self.state, self.clock()
        train_loss = self._check_finite()
        train_sums = self._pooled_sums()
        with self.optimiser.averaged_weights():
            valid_loss, valid_sums = self.evaluate()
            if not valid_loss < self.config.divergence * max(state.best_loss, 1e-12):
                raise Diverged(f"validation loss {valid_loss:.3g}, best was {state.best_loss:.3g}")
            state.valid_s = self.world.share(self.clock() - started)
            state.elapsed = self.world.share(self.clock() - self.started)
            row = {
                "epoch": self.budget.epochs_done(state),
                "step": state.step,
                "time_s": round(state.elapsed, 2),
                "lr": self.learning_rate(self.fraction),
                "train_loss": train_loss,
                "valid_loss": valid_loss,
                **error_summary(train_sums, "train"),
                **error_summary(valid_sums, "valid"),
                "grad_norm": train_sums[-1].item() / state.n_train_steps,
            }
            best = valid_loss < state.best_loss and self._keep_best(row)
        self._react(best, row)
        self.sums.zero_()
        state.n_train_steps = 0
        with self._tolerated("write metrics.jsonl"):
            self.log.write(row)
        self.good = self.snapshot().clone()
        self.console.row(row, self.fraction, best)

    def evaluate(self) -> tuple[float, Tensor]:
        """Loss and error sums on the validation set."""
        budget = self.sampler.max_edges
        return self.validator.evaluate(self.predict, self.device, budget, self.shrink)

    def _keep_best(self, row: dict[str, float]) -> bool:
        """Write the potential; the next validation tries again if that fails."""
        written = False
        if self.world.is_main:
            self.potential.card.errors = {k: v for k, v in row.items() if k != "time_s"}
            with self._tolerated(f"write {BEST}"):
                self.potential.save(self.run_dir / BEST)
                written = True
        return self.world.share(written)

    def _react(self, best: bool, row: dict[str, float]) -> None:
        """Remember the best; plateau schedule and early stopping."""
        state, schedule = self.state, self.config.schedule
        if best:
            state.best_loss, state.best_epoch = row["valid_loss"], row["epoch"]
        state.stale = 0 if best else state.stale + 1
        state.plateau = 0 if best else state.plateau + 1
        if schedule.kind == "plateau" and state.plateau >= schedule.patience:
            state.lr_factor = max(state.lr_factor * schedule.factor, schedule.final)
            state.plateau = 0
        patience = self.config.early_stopping
        if patience is not None and state.stale >= patience:
            state.stop_reason = f"no improvement in {patience} validations"
