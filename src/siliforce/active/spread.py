"""How far the members of an ensemble disagree on forces, and what they were trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch

from siliforce.active.last_layer import drawn_members
from siliforce.data import Dataset
from siliforce.errors import ConfigError, DataError
from siliforce.indicators.predictions import predict
from siliforce.potential import BEST, Potential
from siliforce.simulation.calculator import members_of
from siliforce.training.sets import recorded_sets

Method = Literal["auto", "ensemble", "last-layer"]
METHODS = ("auto", "ensemble", "last-layer")


@dataclass(frozen=True)
class Answers:
    """Forces that the members give, and the labels where there are any.

    Attributes:
        forces: (n_members, n_atoms, 3), eV/Å.
        reference: (n_atoms, 3), eV/Å; NaN without a label.
        n_atoms: (n_frames,).
    """

    forces: np.ndarray
    reference: np.ndarray
    n_atoms: np.ndarray

    @property
    def frame(self) -> np.ndarray:
        """Frame of every atom, (n_atoms,)."""
        return np.repeat(np.arange(len(self.n_atoms)), self.n_atoms)

    @property
    def spread(self) -> np.ndarray:
        """Standard deviation over the members, RMS over the components, (n_atoms,), eV/Å."""
        return np.sqrt(self.forces.var(axis=0, ddof=1).mean(axis=1))

    @property
    def error(self) -> np.ndarray:
        """Of the members' mean, RMS over the components, (n_atoms,), eV/Å."""
        return np.sqrt(np.square(self.forces.mean(axis=0) - self.reference).mean(axis=1))

    def of(self, rows: Sequence[int] | np.ndarray) -> Answers:
        """The answers on some of the frames, in this order."""
        ends = np.cumsum(self.n_atoms)
        atoms = [np.arange(ends[r] - self.n_atoms[r], ends[r]) for r in rows]
        chosen = np.concatenate(atoms) if atoms else np.zeros(0, dtype=int)
        n_atoms = self.n_atoms[np.asarray(rows, dtype=int)]
        return Answers(self.forces[:, chosen], self.reference[chosen], n_atoms)


def ask(members: Sequence[Potential], data: Dataset) -> Answers:
    """Forces of every member on every frame.

    Raises:
        ConfigError: fewer than two members.
        DataError: elements that the potentials do not know.
    """
    if len(members) < 2:
        raise ConfigError("a spread needs at least two members")
    found = [predict(member, data) for member in members]
    forces = np.stack([p.forces for p in found])
    return Answers(forces, found[0].forces_ref, np.asarray(found[0].n_atoms))


def frame_rms(values: np.ndarray, n_atoms: np.ndarray) -> np.ndarray:
    """Root mean square over the atoms of each frame, (n_frames,)."""
    frame = np.repeat(np.arange(len(n_atoms)), n_atoms)
    return np.sqrt(np.bincount(frame, np.square(values), len(n_atoms)) / n_atoms)


@dataclass(frozen=True)
class Ensemble:
    """Members, where they come from, and the frames they know.

    Attributes:
        members: at least two.
        method: `ensemble` or `last-layer`.
        train: frames that one of them was trained on; None if no run folder says so.
        held: frames that none was trained on.
    """

    members: list[Potential]
    method: str
    train: Dataset | None
    held: Dataset | None


def load_ensemble(
    models: Sequence[str | Path],
    method: Method = "auto",
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> Ensemble:
    """Members from run folders, ensembles' folders or model files.

    Args:
        method: `auto` takes several members as an ensemble and one by its last layer.

    Raises:
        ConfigError: a method that the models do not allow.
        DataError: one model file, of which nobody knows the training frames.
    """
    if method not in METHODS:
        raise ConfigError(f"--method {method}: allowed are {', '.join(METHODS)}")
    sources = [Path(cast(str | Path, s)) for m in models for s in members_of(m)]
    if not sources:
        raise ConfigError("name at least one model")
    if method == "auto":
        method = "ensemble" if len(sources) > 1 else "last-layer"
    if method == "ensemble" and len(sources) < 2:
        raise ConfigError(
            f"{sources[0]} is one model: an ensemble needs several (train --seeds 3), or use "
            "--method last-layer"
        )
    if method == "last-layer" and len(sources) > 1:
        raise ConfigError(f"--method last-layer takes one model, {len(sources)} are named")
    potentials = [Potential.load(source, device) for source in sources]
    train, held = known_frames(sources)
    if method == "last-layer":
        if train is None:
            raise DataError(
                f"{sources[0]} does not say which frames it was trained on (or they have moved): "
                "name its run folder, or several models"
            )
        potentials = drawn_members(potentials[0], train, seed=seed)
    elements = {frozenset(p.species.symbols) for p in potentials}
    if len(elements) > 1:
        raise ConfigError("the models know different elements: no ensemble")
    return Ensemble(potentials, method, train, held)


def known_frames(sources: Sequence[Path]) -> tuple[Dataset | None, Dataset | None]:
    """Frames that some member was trained on, and those held out from all; None if not known."""
    train, held = [], []
    for source in sources:
        folder = source.parent if source.name == BEST else source
        try:
            sets = recorded_sets(folder)
        except DataError:
            continue
        train.append(sets["train"])
        held += [sets[name] for name in ("test", "valid") if name in sets]
    if not train:
        return None, None
    known = _distinct(train)
    seen = set(_digests(known))
    unseen = None
    if held:
        rest = _distinct(held)
        rows = [row for row, digest in enumerate(_digests(rest)) if digest not in seen]
        unseen = rest.subset(rows) if rows else None
    return known, unseen


def _digests(data: Dataset) -> list[bytes]:
    return [bytes(d) for d in data.records["digest"]]


def _distinct(parts: Sequence[Dataset]) -> Dataset:
    """Together, every frame once."""
    joined = Dataset.concatenate(parts)
    first: dict[bytes, int] = {}
    for row, digest in enumerate(_digests(joined)):
        first.setdefault(digest, row)
    return joined.subset(sorted(first.values()))
