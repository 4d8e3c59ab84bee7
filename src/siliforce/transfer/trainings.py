"""What studies of many trainings share: a plan in a folder, its jobs, a summary of what is done.

Every training is one job of the folder (`siliforce.jobs`): a kill costs the training in flight,
more workers may help at any time, and a study asked for again with more of something trains only
what is missing.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from pydantic import Field

from siliforce.data import SplitConfig, load_dataset, split_dataset
from siliforce.errors import TrainingError
from siliforce.files import write_atomic
from siliforce.indicators.base import Result
from siliforce.jobs import Job, JobFailed, JobFolder, Progress, work
from siliforce.training.adapted import AdaptConfig
from siliforce.training.options import Options
from siliforce.training.run import RunResult
from siliforce.training.settings import TrainConfig
from siliforce.transfer.compare import refuse_copies
from siliforce.workers import run_workers

TEST = 0.3
"""Part of the target's frames kept for the test where no test frames are named."""


class Plan(Options):
    """What a study trains; lies in its folder, for workers of other processes."""

    source: str
    data: list[str]
    test: list[str] | None = None
    frames: list[int]
    draws: int = Field(3, ge=1)
    adapt: AdaptConfig = AdaptConfig()
    train: TrainConfig = TrainConfig()


AnyPlan = TypeVar("AnyPlan", bound=Plan)


class Trainings(ABC, Generic[AnyPlan]):
    """The jobs of a plan, and what became of them.

    Attributes:
        plan: what is asked for.
        folder: of the jobs.
        pool: target frames that draws are made of.
        test: those nothing is trained on.
        counts: numbers of frames of the plan that the pool has.
        planned: all jobs; subclasses fill it in.
    """

    file: ClassVar[str]
    """Name of the plan in the folder."""
    plan_type: ClassVar[type[Plan]]
    suffix: ClassVar[str]
    """Of the files with the jobs' results."""

    def __init__(self, root: Path, plan: AnyPlan) -> None:
        self.plan = plan
        self.folder = JobFolder(root, self.suffix)
        frames = load_dataset(plan.data)
        if plan.test is not None:
            self.pool, self.test = frames, load_dataset(plan.test)
            refuse_copies(self.pool, self.test, "--test")
        else:
            parts = split_dataset(frames, SplitConfig(valid=0.0, test=TEST, seed=plan.train.seed))
            self.pool, self.test = parts.train, parts.test
        self.counts = [n for n in plan.frames if n <= len(self.pool)]
        self.planned: list[Job] = []

    @classmethod
    def carry_out(
        cls,
        plan: AnyPlan,
        out: str | Path,
        workers: int,
        quiet: bool,
        on_progress: Callable[[Progress], None] | None,
    ) -> Result:
        """Do what is missing, and sum up."""
        folder = Path(out)
        write_atomic(folder / cls.file, plan.model_dump_json(indent=1, exclude_unset=True))
        mine = cls(folder, plan)
        say = on_progress or (
            lambda progress: None if quiet else print(progress.line(), flush=True)
        )
        run_workers(partial(_work, cls, str(folder)), workers, mine.progress, say)
        result = mine.summary()
        result.save(folder / "results")
        return result

    def jobs(self) -> list[Job]:
        """All trainings."""
        return self.planned

    def progress(self) -> Progress:
        """Where the study stands."""
        return self.folder.progress(self.jobs())

    @abstractmethod
    def perform(self, job: Job, scratch: Path, attempt: int) -> bytes:
        """One training, and what is kept of it."""

    @abstractmethod
    def summary(self) -> Result:
        """Of whatever is done so far."""

    def order(self, draw: int) -> np.ndarray:
        """Rows of the pool at random: n frames of a draw are its first n."""
        return np.random.default_rng([self.plan.train.seed, draw]).permutation(len(self.pool))

    def seeded(self, seed: int) -> TrainConfig:
        """The plan's section `train` with a seed of its own."""
        asked = self.plan.train.model_dump(exclude_unset=True)
        return TrainConfig.model_validate(asked | {"seed": seed})

    def facts(self) -> dict[str, Any]:
        """For the result: what was studied."""
        plan = self.plan
        return {
            "dataset": self.pool.hash,
            "source": plan.source,
            "frames": self.counts,
            "left_out": [n for n in plan.frames if n not in self.counts],
            "draws": plan.draws,
            "n_pool": len(self.pool),
            "n_test": len(self.test),
            "failed": len(self.folder.failed_keys() & {job.key for job in self.jobs()}),
        }


def _work(
    kind: type[Trainings],
    folder: str,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> None:
    """One worker."""
    path = Path(folder)
    own = kind(path, kind.plan_type.model_validate_json((path / kind.file).read_text()))
    work(own.folder, own.jobs, own.perform, attempts=1, on_progress=on_progress)


def finished(training: Callable[[], RunResult]) -> RunResult:
    """Train; what cannot be trained is a failed job, and an interrupted one is none at all."""
    try:
        done = training()
    except TrainingError as error:
        raise JobFailed(str(error)) from error
    if done.interrupted:
        raise KeyboardInterrupt
    return done


def same_adapt(section: AdaptConfig) -> dict[str, Any]:
    """What of the section `adapt` a training depends on: frames by content, not by name."""
    same = section.model_dump(mode="json", exclude={"policies"})
    return same | {"replay": content(section.replay)}


def content(frames: Any) -> str | None:
    """Hash of the frames of files."""
    return None if frames is None else load_dataset(frames).hash


def as_paths(given: str | Path | Sequence[str | Path]) -> list[str]:
    """One file or several."""
    many = [given] if isinstance(given, str | Path) else list(given)
    return [str(p) for p in many]


def digest(settings: dict[str, Any]) -> str:
    """16 hexadecimal digits that name a training by what it depends on."""
    text = json.dumps(settings, sort_keys=True).encode()
    return hashlib.blake2b(text, digest_size=8).hexdigest()
