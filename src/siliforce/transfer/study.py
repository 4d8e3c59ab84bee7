"""`adapt --study`: learning curves of transfer and control over nested draws of the frames.

Draw k orders the frames at random; n frames are its first n, so that each set contains the smaller
ones, and transfer and control see the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from siliforce.data import Dataset, load_dataset
from siliforce.errors import ConfigError, DataError
from siliforce.indicators.base import Result
from siliforce.indicators.errors import evaluate
from siliforce.jobs import Job, Progress
from siliforce.potential import Potential
from siliforce.training.adapt import DEFAULT_POLICY, adapt, target_data
from siliforce.training.adapted import AdaptConfig, fingerprint
from siliforce.training.options import as_options
from siliforce.training.policy import get_policy
from siliforce.training.record import RUN, read_json
from siliforce.training.settings import TrainConfig
from siliforce.transfer import trainings
from siliforce.transfer.compare import (
    CONTROL_RATES,
    further_rate,
    own_test,
    refuse_learned,
    train_control,
)
from siliforce.transfer.curves import best_control, summary
from siliforce.transfer.judge import MEASURES
from siliforce.transfer.trainings import (
    Trainings,
    as_paths,
    content,
    digest,
    finished,
    same_adapt,
)

CUSTOM = "custom"
"""What a policy without a name is called: that of `train.policy`."""


class Plan(trainings.Plan):
    """What a study trains."""

    source_test: list[str] | None = None
    replay: list[str] | None = None
    policies: list[str] = Field(default_factory=lambda: [DEFAULT_POLICY])
    frames: list[int] = Field(default_factory=lambda: [5, 10, 20, 50, 100])
    rates: list[float] = Field(default_factory=lambda: list(CONTROL_RATES))


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
        policies: what is trained; several are compared. Without any, `train.policy`.
        frames: how many frames to learn from; more than there are is left out, and said.
        draws: of the frames.
        rates: learning rates the control tries first, over its preset's; for each number of
            frames others follow until the best lies between two.
        config, train: sections `adapt` and `train`, for every training.
        workers: processes at once.
        out: folder; asked for again, it goes on.
        quiet: print nothing.

    Raises:
        ConfigError: unknown policy, no numbers of frames.
        DataError: fewer frames than the smallest number asked for.
    """
    names, section, user = _policies(
        policies, as_options(AdaptConfig, config, "adapt"), as_options(TrainConfig, train, "train")
    )
    plan = _plan(
        source=str(source), data=as_paths(data), test=_named(test), source_test=_named(source_test),
        replay=_named(replay), policies=names, frames=sorted(set(frames)), draws=draws,
        rates=list(rates), adapt=section, train=user,
    )  # fmt: skip
    return Study.carry_out(plan, out, workers, quiet, on_progress)


def _policies(
    names: Sequence[str] | None, section: AdaptConfig, user: TrainConfig
) -> tuple[list[str], AdaptConfig, TrainConfig]:
    """Policies by name; `train.policy` gets one, for the control has the rest of `train` too.

    Raises:
        ConfigError: policies are named, and `train.policy` is another.
    """
    if user.policy is None:
        return list(names or [DEFAULT_POLICY]), section, user
    if names:
        raise ConfigError(
            "--policy and train.policy are both given: name policies of your own in adapt.policies"
        )
    own = {**section.policies, CUSTOM: user.policy}
    rest = user.model_dump(exclude_unset=True, exclude={"policy"})
    section = section.model_copy(update={"policies": own})
    return [CUSTOM], section, TrainConfig.model_validate(rest)


def _plan(**choices: Any) -> Plan:
    """Checked.

    Raises:
        ConfigError: unknown policy, no numbers of frames.
    """
    if not choices["frames"] or min(choices["frames"]) < 2:
        raise ConfigError("a study needs numbers of frames, each at least 2 (one is held out)")
    for name in choices["policies"]:
        get_policy(name, choices["adapt"].policies)
    return Plan(**choices)


def _named(given: Any) -> list[str] | None:
    return None if given is None else as_paths(given)


class Study(Trainings[Plan]):
    """The jobs of a plan, and what became of them."""

    file, plan_type, suffix = "study.json", Plan, ".json"

    def __init__(self, root: Path, plan: Plan) -> None:
        super().__init__(root, plan)
        self.potential = Potential.load(plan.source)
        self.source_hash = fingerprint(self.potential)
        named = plan.source_test
        self.source_test = own_test(plan.source) if named is None else load_dataset(named)
        if named is not None:
            assert self.source_test is not None
            refuse_learned(plan.source, self.source_test)
        self.replay, self.same_adapt = content(plan.replay), same_adapt(plan.adapt)
        if not self.counts:
            raise DataError(
                f"a study of {min(plan.frames)} frames and more needs as many; there are "
                f"{len(self.pool)} beside {len(self.test)} for the test: label more, or ask for "
                "fewer by --frames"
            )
        self.planned = [self._job(n, k, *kind) for n in self.counts for k in range(plan.draws)
                        for kind in self.kinds()]  # fmt: skip

    def kinds(self) -> list[tuple[str, str | float]]:
        """Every policy of transfer, every learning rate of the control."""
        transfer = [("transfer", policy) for policy in self.plan.policies]
        return [*transfer, *(("scratch", rate) for rate in self.plan.rates)]

    def jobs(self) -> list[Job]:
        """What was planned, and the control's further learning rates."""
        return [*self.planned, *(job for n in self.counts for job in self._further(n))]

    def _further(self, n: int) -> list[Job]:
        """Where all learning rates tried so far are done, the best must lie between two."""
        done, tried, found = self.folder.done_keys(), list(self.plan.rates), []
        over = done | self.folder.failed_keys()
        mine = [j for j in self.planned if j.payload["n"] == n and j.payload["kind"] == "scratch"]
        while over.issuperset(job.key for job in mine):
            best = best_control(self.rows(mine))[1].get(n)
            rate = None if best is None else further_rate(tried, best)
            if rate is None:
                break
            tried.append(rate)
            further = [self._job(n, k, "scratch", rate) for k in range(self.plan.draws)]
            found += further
            mine += further
        return found

    def draw(self, n: int, k: int) -> Dataset:
        """The first n frames of draw k."""
        return self.pool.subset(np.sort(self.order(k)[:n]))

    def _job(self, n: int, k: int, kind: str, which: str | float) -> Job:
        plan = self.plan
        settings = {
            "source": self.source_hash,
            "frames": self.draw(n, k).hash,
            "test": self.test.hash,
            "source_test": self.source_test.hash if self.source_test is not None else None,
            "replay": self.replay,
            "what": [kind, which, k],
            "adapt": self.same_adapt,
            "train": plan.train.model_dump(mode="json", exclude_unset=True),
        }
        if kind == "transfer":
            policy = get_policy(str(which), plan.adapt.policies)
            settings["policy"] = policy.model_dump(mode="json")
        payload = {"n": n, "draw": k, "kind": kind, "which": which}
        return Job(digest(settings), f"n={n}", payload)

    def perform(self, job: Job, scratch: Path, attempt: int) -> bytes:
        """One training and its errors, as JSON."""
        plan, what = self.plan, job.payload
        frames = self.draw(what["n"], what["draw"])
        user, run = self.seeded(what["draw"]), scratch / "run"
        if what["kind"] == "transfer":
            done = finished(lambda: adapt(
                self.potential, frames, policy=what["which"], replay=plan.replay,
                config=plan.adapt, train=user, out=run, quiet=True,
            ))  # fmt: skip
        else:
            split = target_data(frames, plan.adapt, seed=user.seed).split
            done = finished(lambda: train_control(
                self.potential, split, user, what["which"], run, quiet=True
            ))  # fmt: skip
        about, trained = read_json(run / RUN), done.potential()
        found = evaluate(trained, self.test)
        row = what | {
            "valid_loss": done.best["valid_loss"],
            "best_epoch": about["best_epoch"],
            "epochs": about["epochs"],
            "steps": about["steps"],
            "stop_reason": about["stop_reason"],
            "seconds": about["wall_s"],
            "n_parameters": done.n_parameters,
            **{name: found.value(name) for name in MEASURES},
        }
        if what["kind"] == "transfer" and self.source_test is not None:
            forgot = evaluate(trained, self.source_test)
            row["source_forces_rmse"] = forgot.value("forces_rmse")
        return json.dumps(row).encode()

    def summary(self) -> Result:
        """Curves, intervals, sentences."""
        return summary(self.rows(self.jobs()), self.facts())

    def rows(self, jobs: Sequence[Job]) -> list[dict[str, Any]]:
        """What is done of them."""
        done = self.folder.done_keys()
        paths = (self.folder.done_path(job.key) for job in jobs if job.key in done)
        return [json.loads(path.read_text()) for path in paths]

    def facts(self) -> dict[str, Any]:
        """For the result: what was studied, and what of the source it can be compared with."""
        facts = super().facts() | {
            "model": self.potential.model.name,
            "source_hash": self.source_hash,
            "source_frames": self.potential.card.n_frames,
            "policies": self.plan.policies,
            "rates": self.plan.rates,
            "zero_forces_rmse": self._zero_forces(),
        }
        if self.source_test is not None:
            before = evaluate(self.potential, self.source_test)
            facts["source_forces_rmse"] = before.value("forces_rmse")
        return facts

    def _zero_forces(self) -> float | None:
        """Error of predicting zero forces on the test, meV/Å."""
        forces = [frame.forces for frame in self.test if frame.forces is not None]
        return 1e3 * float(np.sqrt(np.mean(np.square(np.concatenate(forces))))) if forces else None
