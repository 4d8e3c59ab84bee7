"""`adapt --study --active`: frames chosen by uncertainty against frames drawn at random.

Both begin with the same frames, train an ensemble at every budget and are judged on the same test.
One training of one member is one job of a folder (`siliforce.jobs`); its result are the member's
forces on all frames, so that everything else, the choice of the next frames included, is a function
of finished jobs that any worker can work out. The labels of the pool are used for nothing before
their frame is chosen, but to say afterwards whether the predictions were right.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from siliforce.active.calibration import calibrate, quality
from siliforce.active.choose import pick
from siliforce.active.last_layer import N_MEMBERS, drawn_members
from siliforce.active.rounds import summary
from siliforce.active.rule import outlook
from siliforce.active.spread import Answers, ask, frame_rms
from siliforce.data import Dataset
from siliforce.data.fingerprint import fingerprints
from siliforce.errors import ConfigError, DataError
from siliforce.indicators.base import Result
from siliforce.jobs import Job, Progress
from siliforce.potential import Potential
from siliforce.simulation.calculator import members_of
from siliforce.training.adapt import DEFAULT_POLICY, adapt
from siliforce.training.adapted import AdaptConfig, fingerprint
from siliforce.training.options import as_options
from siliforce.training.policy import get_policy
from siliforce.training.settings import TrainConfig
from siliforce.transfer import trainings
from siliforce.transfer.compare import train_control
from siliforce.transfer.trainings import Trainings, as_paths, digest, finished, same_adapt

SCRATCH = "scratch"
"""In place of a policy: members are trained from nothing, not adapted."""
SELECTIONS = ("active", "random")
HELD = 0.2
"""Part of the labelled frames of each round that is held out: for the best epoch, to calibrate."""
FEWEST = 4
"""Frames of the first round: two to train on, two to hold out."""


class Plan(trainings.Plan):
    """What a study trains."""

    policy: str = DEFAULT_POLICY
    members: int = Field(3, ge=1)
    method: Literal["ensemble", "last-layer"] = "ensemble"
    below: float | None = Field(None, description="eV/Å; when to stop")


def study(
    source: str | Path,
    data: str | Path | Sequence[str | Path],
    *,
    test: str | Path | Sequence[str | Path] | None = None,
    policy: str = DEFAULT_POLICY,
    frames: Sequence[int] = (5, 10, 20, 50),
    draws: int = 3,
    members: int = 3,
    method: str = "ensemble",
    below: float | None = None,
    config: Any = None,
    train: Any = None,
    workers: int = 1,
    out: str | Path,
    quiet: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> Result:
    """Compare active selection with random selection at equal budgets.

    Args:
        source: model file, run folder, or folder of an ensemble, whose members then start from one
            each.
        data: labelled frames of the target: the pool.
        test: frames for the test; without them 30 % of `data` are kept for it.
        policy: what is trained; `scratch` begins from random weights.
        frames: labelled frames of each round, held-out ones included.
        draws: of the first frames, and of the random ones.
        members: of the ensemble.
        method: `ensemble`, or `last-layer` with one training a round.
        below: stated force error, eV/Å, for the stopping rule; free to change afterwards.
        config, train: sections `adapt` and `train`, for every training.
        workers: processes at once.
        out: folder; asked for again, it goes on.
        quiet: print nothing.

    Raises:
        ConfigError: unknown policy or method, impossible numbers.
        DataError: fewer frames than a second round needs.
    """
    plan = _plan(
        source=str(source), data=as_paths(data), test=None if test is None else as_paths(test),
        policy=policy, frames=sorted(set(frames)), draws=draws, method=method, below=below,
        members=1 if method == "last-layer" else members,
        adapt=as_options(AdaptConfig, config, "adapt"),
        train=as_options(TrainConfig, train, "train"),
    )  # fmt: skip
    return ActiveStudy.carry_out(plan, out, workers, quiet, on_progress)


def _plan(**choices: Any) -> Plan:
    """Checked."""
    if choices["method"] not in ("ensemble", "last-layer"):
        raise ConfigError(f"method '{choices['method']}': allowed are ensemble, last-layer")
    if choices["method"] == "ensemble" and choices["members"] < 2:
        raise ConfigError("an ensemble needs 2 members at least, or choose last-layer")
    if len(choices["frames"]) < 2 or choices["frames"][0] < FEWEST:
        raise ConfigError(
            f"active selection needs two numbers of frames or more, from {FEWEST} on (two are held "
            "out): --frames 5,10,20"
        )
    if choices["policy"] != SCRATCH:
        get_policy(choices["policy"], choices["adapt"].policies)
    if choices["train"].policy is not None:
        raise ConfigError("an active study has no train.policy: name it, as --policy does")
    return Plan(**choices)


class ActiveStudy(Trainings[Plan]):
    """The jobs of a plan, and what became of them.

    A round is named by (selection, draw, number): the ensemble trained on `plan.frames[number]`
    frames. Round 0 is the same for both selections.
    """

    file, plan_type, suffix = "active.json", Plan, ".npz"

    def __init__(self, root: Path, plan: Plan) -> None:
        super().__init__(root, plan)
        self.sources = [Potential.load(s) for s in members_of(plan.source)]  # type: ignore[arg-type]
        if len(self.counts) < 2:
            raise DataError(
                f"active selection at {plan.frames[0]} and {plan.frames[1]} frames needs as many; "
                f"there are {len(self.pool)} beside {len(self.test)} for the test: give more, or "
                "ask for fewer by --frames"
            )
        self._labelled: dict[tuple[str, int, int], np.ndarray] = {}
        self._same = {
            "source": [fingerprint(s) for s in self.sources],
            "pool": self.pool.hash,
            "test": self.test.hash,
            "method": plan.method,
            "policy": plan.policy
            if plan.policy == SCRATCH
            else get_policy(plan.policy, plan.adapt.policies).model_dump(mode="json"),
            "adapt": same_adapt(plan.adapt),
            "train": plan.train.model_dump(mode="json", exclude_unset=True),
        }
        rounds = [(s, k, r) for k in range(plan.draws) for r in range(len(self.counts))
                  for s in SELECTIONS if r or s == "active"]  # fmt: skip
        self.planned = [job for which in rounds for job in self._members(*which)]

    @cached_property
    def _features(self) -> np.ndarray:
        return fingerprints(self.pool).values

    # -- jobs ---------------------------------------------------------------------------------

    def _key(self, selection: str, draw: int, number: int, member: int) -> str:
        """What a training depends on: active choices on all earlier budgets and members."""
        budgets = self.counts[: number + 1]
        path: Any = ["active", budgets, self.plan.members]
        if number == 0 or selection == "random":
            path = budgets[-1]
        settings = self._same | {"path": path, "draw": draw, "member": member}
        return digest(settings)

    def _members(self, selection: str, draw: int, number: int) -> list[Job]:
        """The trainings of a round."""
        chosen = selection == "active" and number > 0
        members = range(self.plan.members)
        needs = tuple(self._key("active", draw, number - 1, m) for m in members) if chosen else ()
        return [
            Job(
                self._key(selection, draw, number, m),
                f"n={self.counts[number]}",
                (selection, draw, number, m),
                needs,
            )
            for m in members
        ]

    def perform(self, job: Job, scratch: Path, attempt: int) -> bytes:
        """Train one member; its forces on the pool and the test."""
        selection, draw, number, member = job.payload
        train, held = (self.pool.subset(rows) for rows in self.divided(selection, draw, number))
        potential = self._train(train, held, draw, member, scratch / "run")
        members = [potential]
        if self.plan.method == "last-layer":
            members = drawn_members(potential, train, N_MEMBERS, seed=draw)
        forces = {"rows": self.labelled(selection, draw, number)}
        for name, data in (("pool", self.pool), ("test", self.test)):
            twice = members if len(members) > 1 else members * 2
            forces[name] = ask(twice, data).forces[: len(members)].astype(np.float32)
        content = io.BytesIO()
        np.savez_compressed(content, allow_pickle=False, **forces)
        return content.getvalue()

    def _train(self, train: Dataset, held: Dataset, draw: int, member: int, run: Path) -> Potential:
        plan = self.plan
        user = self.seeded(draw * plan.members + member)
        source = self.sources[member % len(self.sources)]
        if plan.policy == SCRATCH:
            done = finished(lambda: train_control(source, train, user, 1.0, run, held, quiet=True))
        else:
            done = finished(lambda: adapt(
                source, train, valid=held, policy=plan.policy, config=plan.adapt, train=user,
                out=run, quiet=True,
            ))  # fmt: skip
        return done.potential()

    # -- what follows from finished jobs ------------------------------------------------------

    def labelled(self, selection: str, draw: int, number: int) -> np.ndarray:
        """Rows of the pool that are labelled in a round, in the order they were chosen."""
        n = self.counts[number]
        if number == 0 or selection == "random":
            return self.order(draw)[:n]
        key = (selection, draw, number)
        done = self.folder.done_path(self._key(*key, 0))
        if key not in self._labelled and done.exists():  # as it was chosen then
            self._labelled[key] = np.load(done)["rows"]
        elif key not in self._labelled:
            before = self.labelled(selection, draw, number - 1)
            rest = np.setdiff1d(np.arange(len(self.pool)), before)
            calibration, _ = self._calibrated(selection, draw, number - 1)
            answers = self.answers(selection, draw, number - 1)["pool"].of(rest)
            errors = frame_rms(calibration.map(answers.spread), answers.n_atoms)
            features = self._features
            taken = pick(errors, features[rest], features[before], n - len(before))
            chosen = rest[taken]
            if len(before) + len(chosen) < n:  # the rest are copies; the budget is spent anyway
                left = np.setdiff1d(rest, chosen)
                chosen = np.concatenate([chosen, left[: n - len(before) - len(chosen)]])
            self._labelled[key] = np.concatenate([before, chosen])
        return self._labelled[key]

    def divided(self, selection: str, draw: int, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the pool that all members of a round are trained on, and rows held out."""
        rows = self.labelled(selection, draw, number)
        n_held = max(2, round(HELD * len(rows)))
        mixed = np.random.default_rng([draw, number]).permutation(rows)
        return np.sort(mixed[n_held:]), np.sort(mixed[:n_held])

    def answers(self, selection: str, draw: int, number: int) -> dict[str, Answers]:
        """Forces of the whole ensemble of a finished round on the pool and the test."""
        files = [
            np.load(self.folder.done_path(self._key(selection, draw, number, m)))
            for m in range(self.plan.members)
        ]
        found = {}
        for name, (reference, n_atoms) in self._references.items():
            forces = np.concatenate([file[name].astype(float) for file in files])
            found[name] = Answers(forces, reference, n_atoms)
        return found

    @cached_property
    def _references(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Labelled forces and sizes of the frames of pool and test."""
        found = {}
        for name, data in (("pool", self.pool), ("test", self.test)):
            forces = [np.full((f.n_atoms, 3), np.nan) if f.forces is None else f.forces
                      for f in data]  # fmt: skip
            found[name] = np.concatenate(forces), np.asarray(data.n_atoms)
        return found

    def _calibrated(self, selection: str, draw: int, number: int) -> tuple[Any, Answers]:
        _, rows = self.divided(selection, draw, number)
        held = self.answers(selection, draw, number)["pool"].of(rows)
        return calibrate(held), held

    def row(self, selection: str, draw: int, number: int) -> dict[str, Any]:
        """A finished round: what was predicted of the rest of the pool, and what is true."""
        calibration, held = self._calibrated(selection, draw, number)
        answers, largest = self.answers(selection, draw, number), float(held.spread.max())
        labelled = self.labelled(selection, draw, number)
        rest = np.setdiff1d(np.arange(len(self.pool)), labelled)
        row: dict[str, Any] = {
            "selection": selection, "draw": draw, "n": self.counts[number],
            "calibration": calibration.to_json(), "rows": labelled.tolist(),
        }  # fmt: skip
        for name, part in (("pool", answers["pool"].of(rest)), ("test", answers["test"])):
            if len(part.n_atoms) == 0:
                continue
            found = outlook(calibration, part.spread, len(part.n_atoms), largest)
            row[name] = quality(calibration.map(part.spread), part.error, part.n_atoms) | {
                "upper": found.upper, "beyond": found.beyond, "n_frames": len(part.n_atoms),
            }  # fmt: skip
        return row

    def rows(self) -> list[dict[str, Any]]:
        """Every round whose members are all done; errors in eV/Å."""
        done = self.folder.done_keys()
        found = []
        for draw in range(self.plan.draws):
            for selection in SELECTIONS:
                for number in range(len(self.counts)):
                    members = range(self.plan.members)
                    if all(self._key(selection, draw, number, m) in done for m in members):
                        found.append(self.row(selection, draw, number))
        return found

    def summary(self) -> Result:
        """Curves, intervals, sentences."""
        return summary(self.rows(), self.facts())

    def facts(self) -> dict[str, Any]:
        """For the result."""
        plan = self.plan
        return super().facts() | {
            "model": self.sources[0].model.name,
            "n_sources": len(self.sources),
            "policy": plan.policy,
            "method": plan.method,
            "members": plan.members,
            "below": plan.below,
            "n_pool": len(self.pool),
        }
