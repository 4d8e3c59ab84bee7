"""What a campaign will cost, from times measured on this machine, and what it cost."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from ase import Atoms

from siliforce.benchmark.config import Simulation
from siliforce.benchmark.graph import Task, Variant, speed_structure, training_set
from siliforce.benchmark.materials import Material
from siliforce.benchmark.tasks import Workshop
from siliforce.files import write_atomic
from siliforce.generate.sampling import EngineCalculator
from siliforce.hardware import choose_device, describe_hardware, hardware_stamp
from siliforce.indicators.eos import SCALES
from siliforce.jobs import Job, JobFolder
from siliforce.potential import Potential
from siliforce.species import Species
from siliforce.training.build import build_potential
from siliforce.training.normalise import Normalisation
from siliforce.training.options import show_seconds
from siliforce.training.session import CPU_EDGES
from siliforce.training.settings import DEFAULT_EPOCHS, default_batch_size

FILE = "plan.json"
PHASES = {
    "train": "training",
    "errors": "errors",
    "eos": "scans",
    "pec": "scans",
    "speed": "scans",
    "md": "dynamics",
    "structure": "dynamics",
}
SPEED_CALLS = 15
REPEATS = 3


@dataclass(frozen=True)
class Rate:
    """Time per atom, measured here: of energy and forces, and of a training step; µs."""

    inference: float
    training: float


@dataclass
class Plan:
    """Expected and true cost of a campaign.

    Attributes:
        hardware: what was measured on, in words.
        workers: at once.
        expected: by key of the job, s.
        true: by key of the finished jobs, s.
        names: by key: label of the model, phase.
        rates: by label of the model, its baseline's.
    """

    hardware: str
    expected: dict[str, float] = field(default_factory=dict)
    true: dict[str, float] = field(default_factory=dict)
    names: dict[str, tuple[str, str]] = field(default_factory=dict)
    rates: dict[str, Rate] = field(default_factory=dict)

    def measured(self, folder: JobFolder) -> Plan:
        """With the true cost of what is finished."""
        spent: dict[str, float] = defaultdict(float)
        for entry in folder.log():
            if entry["key"] in self.names:
                spent[entry["key"]] += entry["seconds"]
        return replace(self, true=dict(spent))

    def total(self, keys: Iterable[str] | None = None, true: bool = False) -> float:
        """Seconds of these jobs, of all if none are named."""
        seconds = self.true if true else self.expected
        return sum(seconds.get(key, 0.0) for key in (self.names if keys is None else keys))

    def remaining(self, over: set[str]) -> float:
        """Seconds that jobs not `over` will take on one worker.

        What a phase cost so far, beside what was expected of it, is taken to hold for its rest.
        """
        seconds = 0.0
        for phase in dict.fromkeys(PHASES.values()):
            keys = self.keys("", phase)
            finished = [key for key in keys if key in over and key in self.true]
            expected = self.total(finished)
            factor = self.total(finished, true=True) / expected if expected else 1.0
            seconds += factor * self.total(key for key in keys if key not in over)
        return seconds

    def keys(self, label: str, phase: str) -> list[str]:
        """Jobs of one model and phase; empty for all of them."""
        return [
            key
            for key, name in self.names.items()
            if name[0] == (label or name[0]) and name[1] == (phase or name[1])
        ]

    def text(self) -> str:
        """Table for a terminal: expected, and true where it is known."""
        phases = list(dict.fromkeys(PHASES.values()))
        labels = list(dict.fromkeys(label for label, _ in self.names.values()))
        done = sum(key in self.true for key in self.names)
        head = f"{'model':16} {'µs/atom/step':>12}  " + " ".join(f"{p:>19}" for p in phases)
        lines = [f"cost on {self.hardware}, expected / true, of all {len(self.names)} jobs", head]
        for label in labels:
            rate = f"{self.rates[label].inference:.1f}" if label in self.rates else ""
            cells = " ".join(f"{self._cell(label, phase):>19}" for phase in phases)
            lines.append(f"{label:16.16} {rate:>12}  {cells}")
        lines.append(
            f"{'all':16} {'':>12}  " + " ".join(f"{self._cell('', p):>19}" for p in phases)
        )
        open_keys = [key for key in self.names if key not in self.true]
        lines.append(
            f"expected {show_seconds(self.total())} in all on one worker; finished {done} of "
            f"{len(self.names)} jobs in {show_seconds(self.total(true=True))}; "
            f"left {show_seconds(self.total(open_keys))}"
        )
        return "\n".join(lines)

    def _cell(self, label: str, phase: str) -> str:
        keys = self.keys(label, phase)
        if not keys:
            return "-"
        true = [key for key in keys if key in self.true]
        shown = show_seconds(self.total(true, true=True)) if true else "-"
        return f"{show_seconds(self.total(keys))} / {shown}"


def make_plan(shop: Workshop, jobs: list[Job]) -> Plan:
    """Measure what has never been measured, and add it up; kept in `plan.json`.

    What was expected before a job was done stays, so that it can be held against the true cost.
    """
    hardware, expected, rates = _kept(shop)
    device = choose_device(shop.campaign.device)
    plan = Plan(hardware or describe_hardware(hardware_stamp(device)))
    for job in jobs:
        task: Task = job.payload
        plan.names[job.key] = (task.variant.label, PHASES[task.kind])
        name = _rate_name(task.variant)
        if name not in rates:
            rates[name] = measure(shop.material(task.variant.material), task.variant, device)
        plan.rates.setdefault(task.variant.label, rates[name])
        if job.key not in expected:
            cost = COSTS[task.kind](shop.material(task.variant.material), task.variant, shop)
            rate = rates[name]
            expected[job.key] = 1e-6 * (cost[0] * rate.inference + cost[1] * rate.training)
            limit = task.variant.train.max_time if task.variant.train else None
            if task.kind == "train" and limit is not None:
                expected[job.key] = _limited(task.variant, expected[job.key], limit)
    content = {
        "hardware": plan.hardware,
        "rates": {name: [r.inference, r.training] for name, r in rates.items()},
        "expected": expected,
    }
    write_atomic(shop.root / FILE, json.dumps(content, indent=1))
    plan.expected = expected
    return plan.measured(shop.folder)


def read_plan(shop: Workshop, jobs: list[Job]) -> Plan | None:
    """What was kept of a plan, beside the true cost; nothing is measured and nothing written."""
    hardware, expected, rates = _kept(shop)
    if not hardware:
        return None
    plan = Plan(hardware, expected)
    for job in jobs:
        task: Task = job.payload
        plan.names[job.key] = (task.variant.label, PHASES[task.kind])
        if (name := _rate_name(task.variant)) in rates:
            plan.rates.setdefault(task.variant.label, rates[name])
    return plan.measured(shop.folder)


def _kept(shop: Workshop) -> tuple[str, dict[str, float], dict[str, Rate]]:
    """Hardware, expected cost by job and rates in `plan.json`; empty where there is none."""
    path = shop.root / FILE
    known = json.loads(path.read_text()) if path.is_file() else {}
    rates = {name: Rate(*values) for name, values in known.get("rates", {}).items()}
    return known.get("hardware", ""), known.get("expected", {}), rates


def _limited(variant: Variant, seconds: float, limit: float) -> float:
    """A limit of time alone is used up; beside epochs, whatever is used up first counts."""
    assert variant.train is not None
    return limit if variant.train.epochs is None else min(seconds, limit)


def _rate_name(variant: Variant) -> str:
    """What the time per atom depends on."""
    if variant.engine is not None:
        return f"{variant.material} {variant.label}"
    assert variant.choice is not None
    architecture = variant.choice.architecture(variant.choice.preset)
    dtype = variant.train.dtype if variant.train else ""
    return f"{variant.material} {variant.choice.name} {dtype} {architecture.model_dump_json()}"


def measure(material: Material, variant: Variant, device: torch.device) -> Rate:
    """Time of energy and forces, and of a training step, per atom."""
    if variant.engine is not None:
        calculator = EngineCalculator(variant.engine)
        return Rate(_calculator_time(calculator, speed_structure(material)), 0.0)
    potential, frames = _untrained(material, variant).to(device), material.sets["train"]
    edges = np.cumsum(frames.edge_counts(potential.cutoff))
    wanted = (variant.train and variant.train.batch_size) or default_batch_size(len(frames))
    portion = np.arange(max(min(int(np.searchsorted(edges, CPU_EDGES)), wanted), 1))
    batch = frames.batch(portion, potential.cutoff, potential.model.needs, potential.dtype)
    graph = batch.graph.to(device)

    def infer() -> None:
        with torch.no_grad():  # as in dynamics
            potential(graph, forces=True)
        _wait(device)

    def learn() -> None:
        found = potential(graph, forces=True, create_graph=True)
        (found.energy.sum() + found.forces.square().sum()).backward()
        _wait(device)

    return Rate(*(1e6 * _median(call) / graph.n_atoms for call in (infer, learn)))


def _untrained(material: Material, variant: Variant) -> Potential:
    """The variant's potential with random weights."""
    assert variant.choice is not None
    assert variant.train is not None
    species = Species(tuple(material.sets["train"].elements))
    constants = Normalisation(np.zeros(len(species)), 0.0, 1.0, 50.0, "")
    return build_potential(variant.choice, variant.choice.preset, species, constants, variant.train)


def _calculator_time(calculator: EngineCalculator, atoms: Atoms) -> float:
    """µs per atom; every call moves an atom, or ASE would answer from memory."""
    moved = atoms.copy()
    moved.calc = calculator

    def call() -> None:
        moved.positions[0, 0] += 1e-4
        moved.get_forces()

    return 1e6 * _median(call) / len(atoms)


def _median(call: Callable[[], Any]) -> float:
    """Seconds of one call, after one that does not count."""
    call()
    taken = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return float(np.median(taken))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# -- atoms times steps of each kind of job: inference, training ---------------------------------

Work = tuple[float, float]


def _train(material: Material, variant: Variant, shop: Workshop) -> Work:
    assert variant.train is not None
    epochs = variant.train.epochs or DEFAULT_EPOCHS
    validations = epochs / variant.train.validate_every
    learned = float(training_set(material, variant).n_atoms.sum())
    return validations * float(material.sets["valid"].n_atoms.sum()), epochs * learned


def _errors(material: Material, variant: Variant, shop: Workshop) -> Work:
    return float(sum(part.n_atoms.sum() for part in material.held_out.values())), 0.0


def _eos(material: Material, variant: Variant, shop: Workshop) -> Work:
    return float(len(SCALES) * sum(len(volume.atoms) for volume in material.eos)), 0.0


def _pec(material: Material, variant: Variant, shop: Workshop) -> Work:
    return float(sum(len(image) for curve in material.pec for image in curve.images)), 0.0


def _speed(material: Material, variant: Variant, shop: Workshop) -> Work:
    return float(SPEED_CALLS * len(speed_structure(material))), 0.0


def _md(material: Material, variant: Variant, shop: Workshop) -> Work:
    md = shop.campaign.md
    atoms = sum(len(start.atoms) for start in material.starts)
    return float(atoms * md.supercell**3 * md.replicas * steps(md)), 0.0


def steps(md: Simulation) -> int:
    """Steps of one run."""
    return round((md.equilibration + md.production) * 1e3 / md.timestep)


def _structure(material: Material, variant: Variant, shop: Workshop) -> Work:
    return 0.0, 0.0


COSTS: dict[str, Callable[[Material, Variant, Workshop], Work]] = {
    "train": _train,
    "errors": _errors,
    "eos": _eos,
    "pec": _pec,
    "speed": _speed,
    "md": _md,
    "structure": _structure,
}
