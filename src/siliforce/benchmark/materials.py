"""Frames, reference data and start structures of a material, checked before anything runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from siliforce.benchmark.config import FROM_DYNAMICS, Campaign, MaterialConfig
from siliforce.data import Dataset, Store, load_dataset, split_dataset
from siliforce.data.catalog import entries, get
from siliforce.data.read import read_structure
from siliforce.data.reference import EnergyCurve, EnergyVolume, Reference, Start
from siliforce.errors import ConfigError
from siliforce.graph import neighbor_list
from siliforce.training.options import did_you_mean

PARTS = ("train", "valid", "test")
CLOSEST = 0.5
"""Å; a start with atoms closer than this is a mistake, not a structure."""


@dataclass(frozen=True)
class Material:
    """Everything of a material that jobs need.

    Attributes:
        sets: `train`, `valid`, `test`, `ood:NAME`; empty ones left out.
        starts: for molecular dynamics.
        eos: structures to scale; without points where there is no reference.
        pec: potential energy curves.
        split: how the frames were divided, in words.
    """

    name: str
    config: MaterialConfig
    sets: dict[str, Dataset]
    starts: list[Start]
    eos: list[EnergyVolume]
    pec: list[EnergyCurve]
    reference: Reference | None
    split: str

    @property
    def held_out(self) -> dict[str, Dataset]:
        """Sets that errors are measured on; the training set shows overfitting."""
        return {name: part for name, part in self.sets.items() if name != "valid"}


def load_material(name: str, config: MaterialConfig, folder: Path) -> Material:
    """Read, and fetch what has a name of `siliforce data get`.

    Args:
        folder: where fetched sets are kept.

    Raises:
        ConfigError, DataError: nothing of that name, or unusable.
    """
    sets, split = _sets(config, folder)
    for key, source in config.ood.items():
        sets[f"ood:{key}"] = load_dataset(bring(source, folder))
    sets = {key: part for key, part in sets.items() if len(part)}
    reference = None
    if config.reference is not None:
        reference = Reference.load(_reference_folder(config.reference, folder))
    starts = list(reference.starts) if reference else []
    if config.starts is not None and reference is not None:
        starts = [reference.start(wanted) for wanted in config.starts]
    eos = list(reference.eos) if reference else []
    for key, own in config.structures.items():
        atoms = read_structure(Path(own.file)).repeat(own.repeat)
        starts += [Start(f"{key}-{t:g}K", atoms, t, own.ood) for t in own.temperatures]
        if own.eos:
            eos.append(EnergyVolume(key, atoms, np.zeros((0, 3)), own.ood))
    pec = list(reference.pec) if reference else []
    return Material(name, config, sets, starts, eos, pec, reference, split)


def bring(source: str | list[str], folder: Path) -> list[Path]:
    """Paths of data, fetched first where they are names.

    Raises:
        ConfigError: neither a path nor a name; the message suggests one.
    """
    names, found = [source] if isinstance(source, str) else source, []
    for name in names:
        known = entries()
        if Path(name).exists():
            found.append(Path(name))
        elif name in known:
            target = folder / (f"{name}.extxyz" if known[name].embedded else name)
            found.append(get(name, target).path)
        else:
            hint = did_you_mean(name, list(known))
            raise ConfigError(
                f"'{name}' is neither a file nor a set; {hint}`siliforce data get` knows "
                f"{', '.join(known)}"
            )
    return found


def _sets(config: MaterialConfig, folder: Path) -> tuple[dict[str, Dataset], str]:
    """Training, validation, test and OOD frames, as given or as divided here."""
    paths = bring(config.source, folder)
    if len(paths) == 1 and Store.is_store(paths[0] / "train"):
        parts = {name: load_dataset(paths[0] / name) for name in PARTS}
        outside = {p.name: load_dataset(p) for p in sorted(paths[0].glob("ood*"))}
        parts |= {f"ood:{n.removeprefix('ood').strip('-') or 'ood'}": d for n, d in outside.items()}
        return parts, "as published, or as divided before"
    split = split_dataset(load_dataset(list(paths)), config.split)
    parts = {"train": split.train, "valid": split.valid, "test": split.test}
    return parts | {f"ood:{n}": d for n, d in split.ood.items()}, split.method


def _reference_folder(name: str, folder: Path) -> Path:
    """`samd23-reference/HfO` is fetched where it is not a folder."""
    path, (first, _, rest) = Path(name), name.partition("/")
    if path.exists() or first not in entries():
        return path
    return get(first, folder / first).path / rest


def check_material(material: Material, campaign: Campaign) -> None:
    """Refuse what would fail or mean nothing hours later.

    Raises:
        ConfigError: elements that training does not show, atoms on top of each other, or
            indicators without anything to be held against.
    """
    known = set(material.sets["train"].elements)
    for what, numbers in _structures(material):
        unknown = sorted(set(numbers) - known)
        if unknown and campaign.models:
            symbols = ", ".join(chemical_symbols[z] for z in unknown)
            raise ConfigError(
                f"{material.name}, {what}: contains {symbols}, which no training frame shows; "
                "leave it out or train on frames that have it"
            )
    for start in material.starts:
        check_contacts(f"{material.name}, start {start.name}", start.atoms)
    _check_indicators(material, campaign)


def check_contacts(what: str, atoms: Atoms) -> None:
    """Refuse atoms closer than 0.5 Å.

    Raises:
        ConfigError: naming the two.
    """
    pairs = neighbor_list(atoms.positions, atoms.cell.array, atoms.pbc, CLOSEST)
    if pairs.n_edges:
        i, j = int(pairs.center[0]), int(pairs.neighbor[0])
        raise ConfigError(
            f"{what}: atoms {i} and {j} ({atoms.symbols[i]}, {atoms.symbols[j]}) are closer than "
            f"{CLOSEST} Å; correct the structure or leave it out by `starts`"
        )


def _structures(material: Material) -> Iterator[tuple[str, np.ndarray]]:
    for name, part in material.sets.items():
        yield f"set {name}", np.array(part.elements)
    for start in material.starts:
        yield f"start {start.name}", start.atoms.numbers
    for volume in material.eos:
        yield f"equation of state {volume.name}", volume.atoms.numbers
    for curve in material.pec:
        yield f"energy curve {curve.name}", curve.images[0].numbers


def _check_indicators(material: Material, campaign: Campaign) -> None:
    wanted = set(campaign.indicators)
    named = wanted if "indicators" in campaign.model_fields_set else set()
    for name in ("rdf", "adf"):
        lacking = [s.name for s in material.starts if getattr(s, name) is None]
        if lacking and (name in named or (name in wanted and material.reference is not None)):
            raise ConfigError(
                f"{material.name}: no reference {name.upper()} of start {', '.join(lacking)}; make "
                f"one by `siliforce reference make`, or leave the start or '{name}' out"
            )
    simulated = wanted & FROM_DYNAMICS if material.reference is not None else named & FROM_DYNAMICS
    if simulated and not material.starts:
        raise ConfigError(
            f"{material.name}: no starts for {', '.join(sorted(simulated))}; give a `reference` "
            "that has some, or `structures`, or leave these indicators out"
        )
    for name in ("eos", "pec"):
        if name in named and not getattr(material, name):
            raise ConfigError(
                f"{material.name}: nothing to measure '{name}' on; give a `reference` that has "
                f"it{', or `structures`' * (name == 'eos')}, or leave '{name}' out"
            )
