"""`adapt --study`: learning curves of transfer and control over nested draws of the frames.

Every training is one job of a folder (`siliforce.jobs`): a kill costs the training in flight, more
workers may help at any time, and a study asked for again with more frames, draws or policies
trains only what is missing. Draw k orders the frames at random; n frames are its first n, so that
each set contains the smaller ones, and transfer and control see the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from siliforce.data import Dataset, SplitConfig, load_dataset, split_dataset
from siliforce.errors import ConfigError, DataError, TrainingError
from siliforce.files import write_atomic
from siliforce.indicators.base import Result
from siliforce.indicators.errors import evaluate
from siliforce.jobs import Job, JobFailed, JobFolder, Progress, work
from siliforce.potential import Potential
from siliforce.training.adapt import DEFAULT_POLICY, adapt, target_data
from siliforce.training.adapted import AdaptConfig, fingerprint
from siliforce.training.options import Options, as_options
from siliforce.training.policy import get_policy
from siliforce.training.record import RUN, read_json
from siliforce.training.settings import TrainConfig
from siliforce.transfer.compare import CONTROL_RATES, own_test, train_control
from siliforce.transfer.curves import summary
from siliforce.transfer.judge import MEASURES
from siliforce.workers import run_workers

PLAN = "study.json"
TEST = 0.3
"""Part of the target's frames kept for the test where no test frames are named."""


class Plan(Options):
    """What a study trains; lies in its folder, for workers of other processes."""

    source: str
    data: list[str]
    test: list[str] | None = None
    source_test: list[str] | None = None
    replay: list[str] | None = None
    policies: list[str] = Field(default_factory=lambda: [DEFAULT_POLICY])
    frames: list[int] = Field(default_factory=lambda: [5, 10, 20, 50, 100])
    draws: int = Field(3, ge=1)
    rates: list[float] = Field(default_factory=lambda: list(CONTROL_RATES))
    adapt: AdaptConfig = AdaptConfig()
    train: TrainConfig = TrainConfig()


def study(
    source: str | Path,
    data: str | Path | Sequence[str | Path],
    *,
    test: Any = None,
    source_test: Any = None,
    replay: Any = None,
    policies: Sequence[str] | None = None,
    frames: Sequence[int] = (5, 10, 20, 50, 100),
    draws: int = 3,
    rates: Sequence[float] = CONTROL_RATES,
    config: Any = None,
    train: Any = None,
    workers: int = 1,
    out: str | Path,
    quiet: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> Result:
    """Draw learning curves and say how many frames transfer saves.

    Args:
        source: model file or run folder.
        data: target frames that draws are made of.
        test: target frames for the test; without them 30 % of `data` are kept for it.
        source_test: frames of the source, for what is forgotten, as in `compare`.
        replay: frames of the source to mix in.
        policies: what is trained; several are compared.
        frames: how many frames to learn from; more than there are is left out, and said.
        draws: of the frames.
        rates: learning rates the control tries, over its preset's.
        config, train: sections `adapt` and `train`, for every training.
        workers: processes at once.
        out: folder; asked for again, it goes on.
        quiet: print nothing.

    Raises:
        ConfigError: unknown policy, no numbers of frames.
        DataError: fewer frames than the smallest number asked for.
    """
    plan = _plan(
        source=str(source), data=_paths(data) or [], test=_paths(test),
        source_test=_paths(source_test), replay=_paths(replay),
        policies=list(policies or [DEFAULT_POLICY]), frames=sorted(set(frames)), draws=draws,
        rates=list(rates), adapt=as_options(AdaptConfig, config, "adapt"),
        train=as_options(TrainConfig, train, "train"),
    )  # fmt: skip
    folder = Path(out)
    write_atomic(folder / PLAN, plan.model_dump_json(indent=1, exclude_unset=True))
    mine = Study(folder, plan)
    say = on_progress or (lambda progress: None if quiet else print(progress.line(), flush=True))
    run_workers(partial(_work, str(folder)), workers, mine.progress, say)
    result = summary(mine.rows(), mine.facts())
    result.save(folder / "results")
    return result


def _plan(**choices: Any) -> Plan:
    """Checked.

    Raises:
        ConfigError: unknown policy, no numbers of frames.
    """
    if not choices["frames"] or min(choices["frames"]) < 2:
        raise ConfigError("a study needs numbers of frames, each at least 2 (one is held out)")
    for name in choices["policies"]:
        get_policy(name)
    return Plan(**choices)


def _work(folder: str, on_progress: Callable[[Progress], None] = lambda progress: None) -> None:
    """One worker."""
    path = Path(folder)
    own = Study(path, Plan.model_validate_json((path / PLAN).read_text()))
    work(own.folder, own.jobs, own.perform, attempts=1, on_progress=on_progress)


def _paths(given: Any) -> list[str] | None:
    if given is None:
        return None
    many = [given] if isinstance(given, str | Path) else list(given)
    return [str(p) for p in many]


class Study:
    """The jobs of a plan, and what became of them."""

    def __init__(self, root: Path, plan: Plan) -> None:
        self.plan = plan
        self.folder = JobFolder(root, ".json")
        self.potential = Potential.load(plan.source)
        self.source_hash = fingerprint(self.potential)
        frames = load_dataset(plan.data)
        if plan.test is not None:
            self.pool, self.test = frames, load_dataset(plan.test)
        else:
            parts = split_dataset(frames, SplitConfig(valid=0.0, test=TEST, seed=plan.train.seed))
            self.pool, self.test = parts.train, parts.test
        named = plan.source_test
        self.source_test = own_test(plan.source) if named is None else load_dataset(named)
        self.counts = [n for n in plan.frames if n <= len(self.pool)]
        if not self.counts:
            raise DataError(
                f"a study of {min(plan.frames)} frames and more needs as many; there are "
                f"{len(self.pool)} beside {len(self.test)} for the test: label more, or ask for "
                "fewer by --frames"
            )
        self._jobs = [self._job(n, k, *kind) for n in self.counts for k in range(plan.draws)
                      for kind in self.kinds()]  # fmt: skip

    def kinds(self) -> list[tuple[str, str | float]]:
        """Every policy of transfer, every learning rate of the control."""
        transfer = [("transfer", policy) for policy in self.plan.policies]
        return [*transfer, *(("scratch", rate) for rate in self.plan.rates)]

    def draw(self, n: int, k: int) -> Dataset:
        """The first n frames of draw k."""
        order = np.random.default_rng([self.plan.train.seed, k]).permutation(len(self.pool))
        return self.pool.subset(np.sort(order[:n]))

    def _job(self, n: int, k: int, kind: str, which: str | float) -> Job:
        plan = self.plan
        settings = {
            "source": self.source_hash,
            "frames": self.draw(n, k).hash,
            "test": self.test.hash,
            "source_test": self.source_test.hash if self.source_test is not None else None,
            "replay": plan.replay,
            "what": [kind, which, k],
            "adapt": plan.adapt.model_dump(mode="json"),
            "train": plan.train.model_dump(mode="json", exclude_unset=True),
        }
        if kind == "transfer":
            settings["policy"] = get_policy(str(which)).model_dump(mode="json")
        digest = hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=8)
        payload = {"n": n, "draw": k, "kind": kind, "which": which}
        return Job(digest.hexdigest(), f"n={n}", payload)

    def jobs(self) -> list[Job]:
        """All trainings."""
        return self._jobs

    def progress(self) -> Progress:
        """Where the study stands."""
        return self.folder.progress(self._jobs)

    def perform(self, job: Job, scratch: Path, attempt: int) -> bytes:
        """One training and its errors, as JSON."""
        plan, what = self.plan, job.payload
        frames = self.draw(what["n"], what["draw"])
        user = plan.train.model_copy(update={"seed": what["draw"]})
        user = TrainConfig.model_validate(
            {**plan.train.model_dump(exclude_unset=True), "seed": what["draw"]}
        )
        run = scratch / "run"
        try:
            if what["kind"] == "transfer":
                done = adapt(
                    self.potential, frames, policy=what["which"], replay=plan.replay,
                    config=plan.adapt, train=user, out=run, quiet=True,
                )  # fmt: skip
            else:
                split = target_data(frames, plan.adapt, seed=user.seed).split
                done = train_control(self.potential, split, user, what["which"], run, quiet=True)
        except TrainingError as error:
            raise JobFailed(str(error)) from error
        if done.interrupted:
            raise KeyboardInterrupt
        about, trained = read_json(run / RUN), done.potential()
        found = evaluate(trained, self.test)
        row = what | {
            "valid_loss": done.best["valid_loss"],
            "best_epoch": about["best_epoch"],
            "epochs": about["epochs"],
            "steps": about["steps"],
            "seconds": about["wall_s"],
            "n_parameters": done.n_parameters,
            **{name: found.value(name) for name in MEASURES},
        }
        if what["kind"] == "transfer" and self.source_test is not None:
            forgot = evaluate(trained, self.source_test)
            row["source_forces_rmse"] = forgot.value("forces_rmse")
        return json.dumps(row).encode()

    def rows(self) -> list[dict[str, Any]]:
        """What is done."""
        done = self.folder.done_keys()
        paths = (self.folder.done_path(job.key) for job in self._jobs if job.key in done)
        return [json.loads(path.read_text()) for path in paths]

    def facts(self) -> dict[str, Any]:
        """For the result: what was studied, and what of the source it can be compared with."""
        plan = self.plan
        facts: dict[str, Any] = {
            "model": self.potential.model.name,
            "dataset": self.pool.hash,
            "source": plan.source,
            "source_hash": self.source_hash,
            "source_frames": self.potential.card.n_frames,
            "frames": self.counts,
            "left_out": [n for n in plan.frames if n not in self.counts],
            "draws": plan.draws,
            "policies": plan.policies,
            "rates": plan.rates,
            "n_test": len(self.test),
            "failed": len(self.folder.failed_keys() & {job.key for job in self._jobs}),
        }
        if self.source_test is not None:
            before = evaluate(self.potential, self.source_test)
            facts["source_forces_rmse"] = before.value("forces_rmse")
        return facts
