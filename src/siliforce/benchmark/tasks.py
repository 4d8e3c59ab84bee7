"""What each kind of job does: potentials and calculators in, results out."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ase.calculators.calculator import Calculator
from pydantic import BaseModel, ConfigDict

from siliforce.benchmark.batches import halving
from siliforce.benchmark.config import Campaign
from siliforce.benchmark.dynamics import (
    Simulated,
    dynamics_results,
    run_starts,
    structure_results,
)
from siliforce.benchmark.graph import Task, speed_structure, training_set
from siliforce.benchmark.held_against import cluster_results
from siliforce.benchmark.materials import Material, load_material
from siliforce.errors import SiliforceError
from siliforce.generate.sampling import EngineCalculator
from siliforce.hardware import choose_device
from siliforce.indicators.base import Result
from siliforce.indicators.eos import equation_of_state, equations_of_state
from siliforce.indicators.errors import evaluate_sets
from siliforce.indicators.predictions import EDGE_BUDGET
from siliforce.indicators.speed import speed, speed_of_set
from siliforce.jobs import DiskFullError, Job, JobFailed, JobFolder
from siliforce.potential import Potential
from siliforce.training import train
from siliforce.training.inputs import TrainingData
from siliforce.training.memory import PeakMemory, is_out_of_memory, release

SUFFIX = ".json"


class Interrupted(SiliforceError):
    """The user or the system asked to stop; everything finished is kept."""


class Finished(BaseModel):
    """Content of a finished job's file.

    Attributes:
        kind: of the job.
        results: what was measured.
        notes: what a reader should know (a batch that was halved).
        run: run folder of a training, relative to the campaign's folder.
        facts: further numbers: parameters, steps, time.
    """

    model_config = ConfigDict(extra="forbid")

    kind: str
    results: list[Result] = []
    notes: list[str] = []
    run: str = ""
    facts: dict[str, Any] = {}


@dataclass
class Workshop:
    """What a worker needs for the jobs of one campaign; kept while it works.

    Attributes:
        root: the campaign's folder.
        campaign: its file.
    """

    root: Path
    campaign: Campaign
    _materials: dict[str, Material] = field(default_factory=dict)

    @cached_property
    def folder(self) -> JobFolder:
        """The campaign's jobs."""
        return JobFolder(self.root, SUFFIX)

    def material(self, name: str) -> Material:
        """Frames and reference, read once."""
        if name not in self._materials:
            config = self.campaign.materials[name]
            self._materials[name] = load_material(name, config, self.root / "data")
        return self._materials[name]

    def run_folder(self, task: Task, key: str) -> Path:
        """Where a training keeps its files."""
        choice = task.variant.choice
        return self.root / "runs" / f"{'' if choice is None else choice.name}-{key}"

    def source(self, task: Task) -> Potential | Calculator:
        """The potential that a finished job trained, or the calculator that needs no training."""
        if task.variant.engine is not None:
            return EngineCalculator(task.variant.engine)
        device = choose_device(self.campaign.device)
        return Potential.load(self.run_folder(task, task.source), device)

    def perform(self, job: Job, scratch: Path, attempt: int) -> bytes:
        """Do a job; see `siliforce.jobs.work`.

        Raises:
            JobFailed: it cannot be done; says why.
            Interrupted: asked to stop.
        """
        del scratch, attempt
        task: Task = job.payload
        try:
            finished = KINDS[task.kind](self, task, job.key)
        except (Interrupted, JobFailed, DiskFullError, OSError):
            raise
        except SiliforceError as error:
            raise JobFailed(str(error)) from error
        except Exception as error:  # one job must not end the night of all others
            reason = f"unexpected {type(error).__name__}, a defect of siliforce: {error}"
            if is_out_of_memory(error):
                reason = f"out of memory, with the smallest batch too: {error}"
            raise JobFailed(reason, traceback.format_exc()) from error
        for result in finished.results:
            result.model = task.variant.label
        finished.results = [result.checked() for result in finished.results]
        return finished.model_dump_json(indent=1).encode()


def _train(shop: Workshop, task: Task, key: str) -> Finished:
    variant = task.variant
    assert variant.choice is not None
    material, out = shop.material(variant.material), shop.run_folder(task, key)
    config = material.config
    record = {
        "source": config.source,
        "split": config.split.model_dump(mode="json"),
        "level_of_theory": config.level_of_theory,
        "licence": config.licence,
    }
    data = TrainingData(training_set(material, variant), material.sets["valid"], None, record)
    found = train(
        data,
        variant.choice.model_dump(),
        config=variant.train,
        out=out,
        restart="auto",
        quiet=True,
    )
    if found.interrupted:
        raise Interrupted("stopped; the same command goes on from here")
    run = json.loads((out / "run.json").read_text())
    facts = {k: run.get(k) for k in ("n_parameters", "n_train", "epochs", "steps", "wall_s")}
    return Finished(
        kind="train",
        run=str(out.relative_to(shop.root)),
        notes=[] if found.best else ["no validation was finished"],
        facts=facts | {"stop_reason": found.stop_reason, "hardware": run.get("hardware", {})},
    )


def _errors(shop: Workshop, task: Task, key: str) -> Finished:
    material = shop.material(task.variant.material)
    notes: list[str] = []
    source = shop.source(task)
    sets = material.held_out
    if task.variant.engine is not None:
        sets = {name: part for name, part in sets.items() if name != "train"}
    else:
        sets = sets | {"train": training_set(material, task.variant)}

    def attempt(budget: int) -> list[Result]:
        return evaluate_sets(source, sets, edge_budget=budget)

    results = halving(attempt, EDGE_BUDGET, "edges", source, notes)
    for result in results:
        result.arrays = {}
    return Finished(kind="errors", results=results, notes=notes)


def _eos(shop: Workshop, task: Task, key: str) -> Finished:
    source, material = shop.source(task), shop.material(task.variant.material)
    known = [volume for volume in material.eos if len(volume.points)]
    noise = material.reference.bulk_modulus_noise if material.reference else None
    results = equations_of_state(source, known, noise) if known else []
    for volume in material.eos:
        if not len(volume.points):
            result = equation_of_state(source, volume.atoms, name=volume.name)
            result.split = volume.split
            results.append(result)
    return Finished(kind="eos", results=results)


def _speed(shop: Workshop, task: Task, key: str) -> Finished:
    result = _timed(shop, task)
    # Other workers may be busy: what else ran stays with the result.
    result.provenance["load_average"] = os.getloadavg()[0]
    return Finished(kind="speed", results=[result])


def _timed(shop: Workshop, task: Task) -> Result:
    atoms = speed_structure(shop.material(task.variant.material))
    source = shop.source(task)
    if isinstance(source, Potential):
        release(source.device)
        memory = PeakMemory(source.device)
        result = speed(source, atoms)
        own = result.metric("peak_memory")
        assert own is not None
        # The process has done other jobs: what counts is what this one adds.
        own.value = memory.peak() / 2**30
        own.note = "beyond what the process had before"
        return result
    moved = atoms.copy()
    moved.rattle(0.01)  # a calculator answers the same frame from memory: two in turn are asked
    result = speed_of_set(source, [atoms, moved], passes=3)
    # An engine works in a process of its own, whose memory this one does not see.
    result.metrics = [m for m in result.metrics if m.name != "peak_memory"]
    return result


def _md(shop: Workshop, task: Task, key: str) -> Finished:
    notes: list[str] = []
    source = shop.source(task)
    simulated = _simulated(shop, task, source, key, notes)
    return Finished(kind="md", results=dynamics_results(source, simulated), notes=notes)


def _structure(shop: Workshop, task: Task, key: str) -> Finished:
    notes: list[str] = []
    source = shop.source(task)
    simulated = _simulated(shop, task, source, task.needs, notes)  # they are done: they are read
    campaign, notes = shop.campaign, []
    results = structure_results(source, simulated, campaign.md, campaign.indicators, notes)
    return Finished(kind="structure", results=results, notes=notes)


def _simulated(
    shop: Workshop, task: Task, source: Potential | Calculator, key: str, notes: list[str]
) -> list[Simulated]:
    starts, seed = shop.material(task.variant.material).starts, task.variant.seed
    return run_starts(source, starts, shop.campaign.md, seed, shop.root / "frames" / key, notes)


def _pec(shop: Workshop, task: Task, key: str) -> Finished:
    curves = shop.material(task.variant.material).pec
    return Finished(kind="pec", results=cluster_results(shop.source(task), curves))


KINDS: dict[str, Callable[[Workshop, Task, str], Finished]] = {
    "train": _train,
    "errors": _errors,
    "eos": _eos,
    "pec": _pec,
    "speed": _speed,
    "md": _md,
    "structure": _structure,
}


def load_finished(folder: JobFolder, key: str) -> Finished:
    """Content of a finished job's file."""
    return Finished.model_validate_json(folder.done_path(key).read_bytes())
