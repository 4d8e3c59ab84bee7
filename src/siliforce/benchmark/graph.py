"""The jobs of a campaign: train -> errors, scans, speed, dynamics -> structure of the frames.

A job's key is a hash of everything that changes its result: the data, the architecture, the
resolved training options, the settings of the measurement and the format version of its code.
Names are not part of it, so a result is found again whatever the campaign calls it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from ase import Atoms

from siliforce.benchmark.config import FROM_DYNAMICS, Campaign, Entrant
from siliforce.benchmark.materials import Material
from siliforce.data import Dataset, learning_curve
from siliforce.generate.engines import Engine, make_engine
from siliforce.jobs import Job
from siliforce.training.build import ModelChoice, choose_preset
from siliforce.training.options import merged, parse
from siliforce.training.settings import HOW_ONLY, TrainConfig, resolve

FORMATS = {"train": 1, "errors": 1, "eos": 1, "pec": 1, "speed": 2, "md": 1, "structure": 1}
"""Raised when the code of a kind of job changes what it finds."""
KEY_LENGTH = 20
BASELINE = "baseline"


@dataclass(frozen=True)
class Variant:
    """One potential of a campaign.

    Attributes:
        label: of the model or calculator.
        study: `baseline`, or what is varied: `width`, `fraction`, `loss`, `normalisation`.
        value: of what is varied, as it is shown.
        choice, train, fraction: how it is trained; None and 1 where it is not.
        engine: of a calculator that is not trained here.
    """

    label: str
    material: str
    seed: int
    study: str = BASELINE
    value: str = ""
    choice: ModelChoice | None = None
    train: TrainConfig | None = None
    fraction: float = 1.0
    engine: Engine | None = None

    @property
    def name(self) -> str:
        """For people."""
        varied = f", {self.study} {self.value}" if self.study != BASELINE else ""
        seed = "" if self.engine is not None else f", seed {self.seed}"
        return f"{self.label} on {self.material}{varied}{seed}"


@dataclass(frozen=True)
class Task:
    """Payload of a job.

    Attributes:
        kind: what to do.
        source: key of the job that trained the potential.
        needs: key of the job whose frames are looked at.
    """

    kind: str
    variant: Variant
    source: str = ""
    needs: str = ""


def variants(campaign: Campaign, device: torch.device, n_frames: int) -> list[Variant]:
    """Every potential on one material, baselines of all models first; without equal ones twice.

    Args:
        device, n_frames: what the preset `auto` depends on.
    """
    found: list[Variant] = []
    for seed in campaign.seeds:
        for entrant in campaign.models:
            found.append(_baseline(campaign, entrant, seed, device, n_frames))
    studied = campaign.studies.models or [entrant.label for entrant in campaign.models]
    seeds = campaign.studies.seeds if campaign.studies.seeds is not None else campaign.seeds
    for seed in seeds:
        for entrant in campaign.models:
            if entrant.label in studied:
                base = _baseline(campaign, entrant, seed, device, n_frames)
                found += _studied(campaign, base)
    calculators = [
        Variant(label, "", campaign.seeds[0], engine=make_engine(settings))
        for label, settings in campaign.zero_shot.items()
    ]
    return found + calculators


def _baseline(
    campaign: Campaign, entrant: Entrant, seed: int, device: torch.device, n_frames: int
) -> Variant:
    choice = entrant.model.checked()
    if choice.preset == "auto":
        preset, _ = choose_preset(choice.model_class, device, n_frames)
        choice = choice.model_copy(update={"preset": preset})
    given = merged(campaign.train.model_dump(exclude_unset=True), entrant.train)
    user = parse(TrainConfig, given | {"seed": seed, "seeds": 1}, "train")
    return Variant(entrant.label, "", seed, choice=choice, train=_resolved(user, choice))


def _resolved(user: TrainConfig, choice: ModelChoice) -> TrainConfig:
    return resolve(user, choice.model_class, choice.preset)


def _studied(campaign: Campaign, base: Variant) -> Iterator[Variant]:
    studies = campaign.studies
    assert base.choice is not None
    assert base.train is not None
    for width in studies.widths:
        choice = base.choice.model_copy(update={"width": base.choice.width * width})
        yield replace(base, study="width", value=f"{width:g}", choice=choice)
    for fraction in studies.fractions:
        yield replace(base, study="fraction", value=f"{fraction:g}", fraction=fraction)
    for kind in studies.losses or ([base.train.loss.kind] if studies.force_weights else []):
        for weight in studies.force_weights or [base.train.loss.forces]:
            loss = {"loss": {"kind": kind, "forces": weight}}
            yield replace(
                base, study="loss", value=f"{kind} {weight:g}", train=_changed(base.train, loss)
            )
    for name in studies.normalisations:
        train = _changed(base.train, {"normalise": {"kind": name}})
        yield replace(base, study="normalisation", value=name, train=train)


def _changed(config: TrainConfig, changes: Mapping[str, Any]) -> TrainConfig:
    return parse(TrainConfig, merged(config.model_dump(), changes), "train")


def training_set(material: Material, variant: Variant) -> Dataset:
    """The frames a variant is trained on; fractions of one seed are nested."""
    whole = material.sets["train"]
    if variant.fraction == 1:
        return whole
    return learning_curve(whole, variant.seed, [variant.fraction])[variant.fraction]


def jobs_of(campaign: Campaign, material: Material, device: torch.device) -> list[Job]:
    """All jobs of one material, each after those it needs, without equal ones twice."""
    found: dict[str, Job] = {}
    for variant in variants(campaign, device, len(material.sets["train"])):
        variant = replace(variant, material=material.name)
        for job in _chain(campaign, material, variant):
            found.setdefault(job.key, job)
    return list(found.values())


def result_keys(campaign: Campaign, material: Material, variant: Variant) -> dict[str, str]:
    """Key of the job of each kind for one variant."""
    return {job.payload.kind: job.key for job in _chain(campaign, material, variant)}


def _chain(campaign: Campaign, material: Material, variant: Variant) -> Iterator[Job]:
    """The jobs of one variant."""
    source, after = _source(material, variant)
    if after:
        yield Job(source, "train", Task("train", variant))
    kinds: dict[str, Any] = {}
    wanted = set(campaign.indicators)
    if "errors" in wanted:
        kinds["errors"] = {name: part.hash for name, part in material.held_out.items()}
    if "speed" in wanted:
        kinds["speed"] = digest(speed_structure(material))
    if variant.study == BASELINE:
        if "eos" in wanted and material.eos:
            kinds["eos"] = [[v.name, v.ood, digest(v.atoms, v.points)] for v in material.eos]
        if "pec" in wanted and material.pec:
            kinds["pec"] = [
                [c.name, digest(*c.images), digest(c.x, c.energy)] for c in material.pec
            ]
        if wanted & FROM_DYNAMICS and material.starts:
            kinds["md"] = dynamics_inputs(campaign, material, variant)
    for kind, inputs in kinds.items():
        key = job_key(kind, {"source": source, "inputs": inputs})
        yield Job(key, kind, Task(kind, variant, source), after)
        if kind == "md":
            inner = {"md": key, "curves": _curves(material), "wanted": sorted(wanted)}
            structure = job_key("structure", inner)
            yield Job(structure, "structure", Task("structure", variant, source, key), (key,))


def _source(material: Material, variant: Variant) -> tuple[str, tuple[str, ...]]:
    """Key of what is measured, and the job that makes it."""
    if variant.engine is not None:
        return job_key("engine", variant.engine.identity()), ()
    assert variant.choice is not None
    assert variant.train is not None
    choice, train = variant.choice, variant.train.model_dump(mode="json")
    content = {
        "train": training_set(material, variant).hash,
        "valid": material.sets["valid"].hash,
        "model": choice.name,
        "preset": choice.preset,
        "pin_isolated": choice.pins(choice.preset),
        "repulsion": choice.repulsion,
        "architecture": choice.architecture(choice.preset).model_dump(mode="json"),
        "options": {k: v for k, v in train.items() if k not in HOW_ONLY},
    }
    key = job_key("train", content)
    return key, (key,)


def dynamics_inputs(campaign: Campaign, material: Material, variant: Variant) -> dict[str, Any]:
    """What decides the frames of a variant's runs."""
    found = {
        "md": campaign.md.model_dump(mode="json"),
        "seed": variant.seed,
        "starts": [[s.split, s.temperature, digest(s.atoms)] for s in material.starts],
    }
    # Trajectories of calculators did not always say whose they are: such are not read again.
    return found if variant.engine is None else found | {"signed": True}


def _curves(material: Material) -> list[str]:
    """Hashes of the reference's distribution functions."""
    found = []
    for start in material.starts:
        arrays = []
        for curves in (start.rdf, start.adf):
            if curves is not None:
                arrays += [curves.x, *(curves.values[name] for name in sorted(curves.values))]
        found.append(digest(*arrays))
    return found


def speed_structure(material: Material) -> Atoms:
    """What inference is timed on: the largest of the starts and test frames."""
    part = material.sets.get("test") or material.sets["train"]
    frame = part[int(np.argmax(part.n_atoms))].to_atoms()
    return max([start.atoms for start in material.starts] + [frame], key=len)


def job_key(kind: str, content: Any) -> str:
    """Hash of a job's inputs."""
    text = json.dumps([kind, FORMATS.get(kind, 1), content], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]


def digest(*things: Atoms | np.ndarray) -> str:
    """Hash of structures and arrays."""
    found = hashlib.sha256()
    for array in _arrays(things):
        found.update(f"{array.shape}{array.dtype.str}".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:KEY_LENGTH]


def _arrays(things: Iterable[Atoms | np.ndarray]) -> Iterator[np.ndarray]:
    for thing in things:
        if isinstance(thing, Atoms):
            yield from (thing.numbers, thing.positions, thing.cell.array, thing.pbc)
        else:
            yield np.asarray(thing)
