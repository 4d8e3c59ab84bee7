"""Protocols: which structures, heated how, labelled by what; written in YAML.

    name: hfo-mini
    engine: engines/gpaw-hfo2.yaml      # labels; a file, {base: file, settings}, or the settings
    sampler: {engine: nep, ...}         # moves the atoms; without it the engine does (ab-initio MD)
    recipes:                            # named lists of stages
      melt-quench: [{name: melt, temperature: 5000, fs: 2000, every_fs: 100}, ...]
    starts:                             # what they are applied to
      - {crystal: m-HfO2, recipe: melt-quench, count: 2}
      - {random: Hf4O8, density: 9.0, recipe: melt-quench, split: ood}

Every start is expanded over the frames of its file, strains, temperatures and `count` seeds: one
trajectory each.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import yaml
from ase import Atoms
from ase.data import atomic_numbers
from ase.symbols import string2symbols
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    ValidationError,
    model_validator,
)

from siliforce.errors import ConfigError, DataError
from siliforce.generate.alloys import alloyed
from siliforce.generate.crystals import crystal
from siliforce.generate.engines import Engine, explain, make_engine
from siliforce.generate.engines.potential import NO_STRESS
from siliforce.generate.frames import frame_key, read_frames
from siliforce.generate.runner import file_names
from siliforce.generate.sampling import Stage
from siliforce.generate.structures import (
    bent_molecule,
    cluster,
    random_packing,
    rattled,
    slab,
    strained,
    substituted,
    wire,
    with_interstitial,
    with_vacancies,
)


def _element(symbol: str) -> str:
    if not atomic_numbers.get(symbol):
        raise ValueError(f"'{symbol}' is no chemical element")
    return symbol


def _formula(text: str) -> str:
    try:
        symbols = string2symbols(text)
    except Exception as error:  # ASE raises what its parser happens to raise
        raise ValueError(f"'{text}' is no chemical formula") from error
    return text if all(map(_element, symbols)) else ""


Element = Annotated[str, AfterValidator(_element)]
Formula = Annotated[str, AfterValidator(_formula)]
BASES = ("crystal", "random", "molecule", "file")


class Molecule(BaseModel):
    """A-B-A molecules over a range of bond lengths [Å] and angles [°].

    Attributes:
        symbols: the middle atom first.
        bond: mean and largest deviation.
        angle: mean and largest deviation.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    symbols: tuple[str, str, str]
    bond: tuple[float, float]
    angle: tuple[float, float]


class Slab(BaseModel):
    """A surface; see `structures.slab`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    miller: tuple[int, int, int]
    layers: int = 1
    vacuum: float = 6.0
    repeat: tuple[int, int] = (1, 1)


class Start(BaseModel):
    """One kind of starting structure and what happens to it, in the order of the attributes.

    Attributes:
        crystal: name in `crystals.CRYSTALS`, or an element or compound of `CUBIC`.
        random: formula placed at random at `density` [g/cm³].
        file: frames of a file, one start each; beside the protocol, if the path is not absolute.
        repeat: supercell.
        alloy: old element to counts of the new ones, e.g. `{Si: {Ge: 16}}`.
        quasirandom: put them as in a special quasirandom structure; see `alloys.alloyed`.
        strains: linear strains; one trajectory for each.
        shear: size of a further random strain tensor.
        vacancies: atoms taken away, by element.
        interstitial: element added.
        substitute: old element to new, one atom each, before the sampler runs.
        replace_after: the same, on every sampled frame: the sampler never sees the new element.
        rattle: width of random displacements [Å].
        temperatures: one trajectory for each [K].
        count: trajectories with different seeds for each strain and temperature.
        recipe: its stages; None keeps the structure itself as the only frame.
        frames: kept of each of its trajectories, in place of the protocol's number.
        split: whether its frames are for training and testing, or out of distribution.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    label: str = ""
    crystal: str | None = None
    random: Formula | None = None
    molecule: Molecule | None = None
    file: str | None = None
    density: float = Field(default=3.0, gt=0)
    repeat: tuple[int, int, int] = (1, 1, 1)
    alloy: dict[Element, dict[Element, NonNegativeInt]] = Field(default_factory=dict)
    quasirandom: bool = False
    strains: list[float] = Field(default_factory=lambda: [0.0])
    shear: float = 0.0
    slab: Slab | None = None
    wire: float | None = None
    cluster: float | None = None
    vacancies: dict[Element, NonNegativeInt] = Field(default_factory=dict)
    interstitial: Element | None = None
    substitute: dict[Element, Element] = Field(default_factory=dict)
    replace_after: dict[Element, Element] = Field(default_factory=dict)
    rattle: float = 0.0
    temperatures: list[NonNegativeFloat] = Field(default_factory=lambda: [300.0])
    count: int = Field(default=1, ge=1)
    recipe: str | None = None
    frames: int | None = Field(default=None, ge=1)
    split: Literal["id", "ood"] = "id"

    @model_validator(mode="after")
    def one_base(self) -> Start:
        """Exactly one base structure."""
        given = [name for name in BASES if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(BASES)} (given: {given or 'none'})")
        return self

    @property
    def name(self) -> str:
        """Its label, or its base."""
        if self.label:
            return self.label
        if self.molecule:
            return "".join(self.molecule.symbols)
        return str(self.crystal or self.random or Path(str(self.file)).name)

    @property
    def n_bases(self) -> int:
        """How many structures it starts from: the frames of its file, else one."""
        return 1 if self.file is None else len(_frames_of(self.file))

    def build(self, strain: float, rng: np.random.Generator, frame: int = 0) -> Atoms:
        """The structure of one trajectory.

        Args:
            frame: of the file.
        """
        atoms = self._base(rng, frame)
        for old, counts in self.alloy.items():
            atoms = alloyed(atoms, old, counts, rng, self.quasirandom)
        atoms = strained(atoms, strain)
        if self.shear:
            tensor = rng.uniform(-self.shear, self.shear, (3, 3))
            atoms = strained(atoms, (tensor + tensor.T) / 2)
        if self.slab:
            atoms = slab(atoms, **self.slab.model_dump())
        if self.wire is not None:
            atoms = wire(atoms, self.wire)
        if self.cluster is not None:
            atoms = cluster(atoms, self.cluster)
        atoms = with_vacancies(atoms, self.vacancies, rng)
        if self.interstitial:
            atoms = with_interstitial(atoms, self.interstitial, rng)
        for old, new in self.substitute.items():
            atoms = substituted(atoms, old, new, rng)
        return rattled(atoms, self.rattle, rng) if self.rattle else atoms

    def content(self, frame: int = 0) -> dict[str, Any]:
        """Everything that changes the structure: the settings, and the file's frame itself."""
        content = self.model_dump(mode="json")
        if self.file is not None:
            content["file"] = frame_key(_frames_of(self.file)[frame], {})
        return content

    def _base(self, rng: np.random.Generator, frame: int) -> Atoms:
        if self.crystal:
            return crystal(self.crystal, self.repeat)
        if self.random:
            return random_packing(self.random, self.density, rng)
        if self.molecule:
            return bent_molecule(
                self.molecule.symbols, self.molecule.bond, self.molecule.angle, rng
            )
        return _frames_of(str(self.file))[frame].repeat(self.repeat)


def _frames_of(path: str) -> list[Atoms]:
    """Frames of a start's file, read again only if it changed."""
    stamp = Path(path).stat().st_mtime_ns if Path(path).is_file() else 0
    return _frames_at(path, stamp)


@cache
def _frames_at(path: str, stamp: int) -> list[Atoms]:
    return read_frames(path)


@dataclass(frozen=True)
class Trajectory:
    """One start with one strain, temperature and seed, and its stages.

    Attributes:
        number: in the order of the protocol.
        name: unlike that of any other trajectory of the protocol; it makes the random numbers, so
            that a trajectory stays what it is when others come and go.
        frame: of the start's file.
    """

    number: int
    name: str
    system: str
    start: Start
    strain: float
    temperature: float
    stages: tuple[Stage, ...]
    seed: int
    frame: int = 0

    @property
    def n_frames(self) -> int:
        """Kept frames."""
        return sum(s.n_segments for s in self.stages if s.keep) if self.stages else 1

    @property
    def conditions(self) -> list[str]:
        """Names of what it is counted as."""
        if not self.stages:
            return ["static"]
        return list(dict.fromkeys(s.condition or s.name for s in self.stages))

    def build(self) -> Atoms:
        """Its starting structure."""
        atoms = self.start.build(self.strain, self.rng(0), self.frame)
        known = {k: v for k, v in atoms.info.items() if k in ("r1", "r2", "angle")}
        atoms.info = known | {
            "system": self.system,
            "trajectory": self.name,
            "split": self.start.split,
        }
        if len(self.start.strains) > 1 or self.strain:
            atoms.info["strain"] = self.strain
        return atoms

    def rng(self, purpose: int) -> np.random.Generator:
        """Random numbers of this trajectory for one purpose."""
        return np.random.default_rng([self.seed, purpose, *self.name.encode()])


class Protocol(BaseModel):
    """A protocol.

    Attributes:
        engine: labels the frames.
        sampler: moves the atoms; None lets `engine` do it, and keeps its labels.
        timestep_fs: of the dynamics.
        frames_per_trajectory: keep so many, evenly spaced; None keeps all.
        seed: changes every random number of the protocol.
        system: groups frames in the result (`name` where a start has no label).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    description: str = ""
    engine: dict[str, Any]
    sampler: dict[str, Any] | None = None
    timestep_fs: float = Field(default=1.0, gt=0)
    frames_per_trajectory: int | None = Field(default=None, ge=1)
    seed: int = 0
    recipes: dict[str, list[Stage]] = Field(default_factory=dict)
    starts: list[Start]

    @model_validator(mode="after")
    def consistent(self) -> Protocol:
        """Engines exist, every start names a recipe that exists, and `npt` has a stress."""
        self.label_engine()
        sampler = self.sample_engine()
        stress = sampler.stress and sampler.engine not in NO_STRESS
        for name, stages in self.recipes.items():
            if not stress and any(stage.ensemble == "npt" for stage in stages):
                raise ValueError(
                    f"recipe '{name}': npt needs stress, which '{sampler.engine}' does not give; "
                    "set stress: true, or take nvt"
                )
        for start in self.starts:
            if start.recipe is not None and start.recipe not in self.recipes:
                known = ", ".join(self.recipes) or "none"
                raise ValueError(
                    f"start '{start.name}' wants recipe '{start.recipe}'; known: {known}"
                )
        return self

    @model_validator(mode="after")
    def one_file_each(self) -> Protocol:
        """No two systems are written to the same file."""
        try:
            file_names(start.name for start in self.starts)
        except DataError as error:
            raise ValueError(str(error)) from error
        return self

    def wanted(self, trajectory: Trajectory) -> int | None:
        """How many frames of a trajectory are labelled; None is all of them."""
        return trajectory.start.frames or self.frames_per_trajectory

    def label_engine(self) -> Engine:
        """The engine of the labels."""
        return make_engine(self.engine)

    def sample_engine(self) -> Engine:
        """The engine that moves the atoms."""
        return make_engine(self.sampler or self.engine)

    def trajectories(self) -> Iterator[Trajectory]:
        """Every start expanded over the frames of its file, strains, temperatures and seeds."""
        number = 0
        repeats: Counter[str] = Counter()  # goes on where several starts have the same name
        for start in self.starts:
            stages = tuple(self.recipes[start.recipe]) if start.recipe else ()
            bases = range(start.n_bases)
            grid = itertools.product(bases, start.strains, start.temperatures, range(start.count))
            for frame, strain, temperature, _ in grid:
                parts = [start.name]
                if len(bases) > 1:
                    parts.append(f"frame{frame}")
                if len(start.strains) > 1 or strain:
                    parts.append(f"strain{strain:+g}")
                if len(start.temperatures) > 1:
                    parts.append(f"{temperature:g}K")
                case = " ".join(parts)
                yield Trajectory(
                    number=number,
                    name=f"{case} {repeats[case]}",
                    system=start.name,
                    start=start,
                    strain=strain,
                    temperature=temperature,
                    stages=stages,
                    seed=self.seed,
                    frame=frame,
                )
                number += 1
                repeats[case] += 1


def load_protocol(path: str | Path) -> Protocol:
    """Protocol from a YAML file; `engine`, `sampler` and `file` may name files beside it.

    With `{base: FILE, settings: {...}}` they are those of the file but for some settings.

    Raises:
        ConfigError: no such file, or something in it does not fit.
    """
    path = Path(path)
    content = _yaml(path)
    for role in ("engine", "sampler"):
        told = content.get(role)
        if isinstance(told, str):
            content[role] = _yaml(path.parent / told)
        elif isinstance(told, dict) and "base" in told:
            base = _yaml(path.parent / told["base"])
            changes = {key: value for key, value in told.items() if key != "base"}
            settings = base.get("settings", {}) | changes.get("settings", {})
            content[role] = base | changes | {"settings": settings}
    for start in content.get("starts") or []:
        if isinstance(start, dict) and isinstance(start.get("file"), str):
            start["file"] = str(path.parent.resolve() / start["file"])
    try:
        return Protocol(**content)
    except ValidationError as error:
        raise ConfigError(
            f"{path}: {explain(error, Protocol, Start, Stage, Slab, Molecule)}"
        ) from error


def load_engine(path: str | Path) -> Engine:
    """Engine from a YAML file of its settings.

    Raises:
        ConfigError: no such file, or something in it does not fit.
    """
    return make_engine(_yaml(Path(path)))


def _yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"no file '{path}'")
    content = yaml.safe_load(path.read_text())
    if not isinstance(content, dict):
        raise ConfigError(f"'{path}' does not hold a mapping of settings")
    return content
