"""Splits: by trajectory, at random, by composition or by tag; hashed, recorded, reproducible."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from siliforce.data.dataset import Dataset
from siliforce.data.store import Store
from siliforce.errors import DataError
from siliforce.files import write_atomic

FRACTIONS = (0.2, 0.4, 0.6, 0.8, 1.0)
"""Of the nested learning-curve subsets."""


class SplitConfig(BaseModel):
    """How frames are divided.

    `auto` keeps frames of one trajectory together where the data name them, and draws at random
    where they do not, or where every frame is a group of its own. `group` insists, and with `by`
    keeps together what shares a config_type, a composition or any tag.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Literal["auto", "group", "random"] = "auto"
    by: str = "group"
    valid: float = Field(0.1, ge=0, lt=1, description="fraction of the frames")
    test: float = Field(0.0, ge=0, lt=1)
    ood: dict[str, dict[str, list[str | float]]] = Field(
        default_factory=dict,
        description="name -> {tag: values}: frames set aside as out of distribution; the tags "
        "`config_type`, `group` and `composition` always exist",
    )
    seed: int = 0


@dataclass(frozen=True)
class Split:
    """Disjoint parts of a dataset.

    Attributes:
        train, valid, test: in distribution.
        ood: by name.
        method: what `auto` chose, and why.
        config: how it was asked for.
        data_hash: of the dataset that was split.
    """

    train: Dataset
    valid: Dataset
    test: Dataset
    ood: dict[str, Dataset]
    method: str
    config: SplitConfig
    data_hash: str
    rows: dict[str, list[int]] = field(repr=False)

    @property
    def hash(self) -> str:
        """16 hexadecimal digits that name the data and the division."""
        content = json.dumps([self.data_hash, self.rows], sort_keys=True)
        return hashlib.blake2b(content.encode(), digest_size=8).hexdigest()

    def save(self, path: str | Path) -> Path:
        """Record it; atomic."""
        content: dict[str, Any] = {
            "hash": self.hash,
            "data_hash": self.data_hash,
            "method": self.method,
            "config": self.config.model_dump(mode="json"),
            "rows": self.rows,
        }
        return write_atomic(path, json.dumps(content))

    @classmethod
    def load(cls, path: str | Path, dataset: Dataset) -> Split:
        """Apply a recorded split to the same data.

        Raises:
            DataError: the file is damaged, or was made for other data.
        """
        try:
            content = json.loads(Path(path).read_text())
            rows, config = content["rows"], SplitConfig.model_validate(content["config"])
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"{path}: not a split, or damaged ({error})") from error
        if content["data_hash"] != dataset.hash:
            raise DataError(
                f"{path}: made for data {content['data_hash']}, these are {dataset.hash}; "
                "split again"
            )
        return _made(dataset, rows, content["method"], config)


def split_dataset(dataset: Dataset, config: SplitConfig | None = None) -> Split:
    """Divide a dataset.

    Raises:
        DataError: a tag or value that no frame has, too few groups, or nothing left to train on.
    """
    config = config or SplitConfig()
    rng = np.random.default_rng(config.seed)
    remaining = np.arange(len(dataset))
    rows: dict[str, list[int]] = {}
    for name, conditions in config.ood.items():
        held = np.flatnonzero(_matching(dataset, conditions))
        rows[f"ood:{name}"] = np.intersect1d(remaining, held).tolist()
        remaining = np.setdiff1d(remaining, held)
    units, method = _units(dataset, remaining, config)
    order = rng.permutation(len(units))
    for name, fraction in (("test", config.test), ("valid", config.valid)):
        taken, order = _take(units, order, fraction * len(remaining))
        rows[name] = sorted(taken)
    rows["train"] = sorted(int(i) for k in order for i in units[k])
    if not rows["train"]:
        raise DataError(f"{len(dataset)} frames in {len(units)} groups: nothing left to train on")
    return _made(dataset, rows, method, config)


def learning_curve(
    dataset: Dataset, seed: int = 0, fractions: Sequence[float] = FRACTIONS
) -> dict[float, Dataset]:
    """Nested subsets at 20, 40, 60, 80 and 100 %: each contains the smaller ones."""
    order = np.random.default_rng(seed).permutation(len(dataset))
    return {f: dataset.subset(np.sort(order[: max(1, round(f * len(dataset)))])) for f in fractions}


def meaningful_groups(groups: Sequence[str], at_least: int = 3) -> str:
    """Why groups cannot be used to split; empty if they can."""
    distinct = set(groups)
    if distinct <= {""}:
        return "the frames name no trajectories"
    if len(distinct) == len(groups):
        return "every frame is a group of its own"
    if len(distinct) < at_least:
        return f"only {len(distinct)} groups"
    return ""


def labels_of(dataset: Dataset, tag: str) -> list[Any]:
    """Values of a tag, where `config_type`, `group` and `composition` are tags too.

    Raises:
        DataError: no frame has the tag.
    """
    if tag == "config_type":
        return dataset.config_types
    if tag == "group":
        return dataset.groups
    if tag == "composition":
        return dataset.compositions
    try:
        return dataset.tags(tag)
    except KeyError:
        known = ["config_type", "group", "composition", *dataset.tag_names]
        raise DataError(f"no frame has the tag '{tag}'; there are {', '.join(known)}") from None


def _matching(dataset: Dataset, conditions: dict[str, list[str | float]]) -> np.ndarray:
    """Frames that meet all conditions, (n_frames,)."""
    mask = np.ones(len(dataset), dtype=bool)
    for tag, values in conditions.items():
        labels = labels_of(dataset, tag)
        known = sorted({str(v) for v in labels})
        missing = [v for v in values if v not in labels]
        if missing:
            raise DataError(f"no frame has {tag} = {missing[0]}; there are {', '.join(known[:20])}")
        mask &= np.array([v in values for v in labels])
    return mask


def _units(dataset: Dataset, rows: np.ndarray, config: SplitConfig) -> tuple[list[list[int]], str]:
    """Sets of rows that stay together, and the method in words."""
    if config.method == "random":
        return [[int(i)] for i in rows], "random"
    groups = ["" if v is None else str(v) for v in labels_of(dataset, config.by)]
    insist = config.method == "group"
    problem = meaningful_groups([groups[i] for i in rows], at_least=2 if insist else 3)
    if problem and insist:
        raise DataError(
            f"cannot split by {config.by}: {problem}; use the method 'random', or name the run of "
            "each frame (info key 'group', or --group-key)"
        )
    if problem:
        return [[int(i)] for i in rows], f"random, since {problem}"
    units: dict[str, list[int]] = {}
    for i in rows:
        # Frames without a name are not known to belong together.
        units.setdefault(groups[i] or f"\0{i}", []).append(int(i))
    return list(units.values()), f"by {config.by}: {len(units)} groups stay together"


def _take(units: list[list[int]], order: np.ndarray, wanted: float) -> tuple[list[int], np.ndarray]:
    """Whole units until about `wanted` rows are taken (at least one unit if any is wanted)."""
    taken: list[int] = []
    used = 0
    for k in order[:-1]:
        size = len(units[k])
        if wanted <= 0 or (taken and len(taken) + size / 2 > wanted):
            break
        taken += units[k]
        used += 1
    return taken, order[used:]


def _made(dataset: Dataset, rows: dict[str, list[int]], method: str, config: SplitConfig) -> Split:
    parts = {name: dataset.subset(np.array(r, dtype=np.int64)) for name, r in rows.items()}
    ood = {n.removeprefix("ood:"): d for n, d in parts.items() if n.startswith("ood:")}
    return Split(
        parts["train"], parts["valid"], parts["test"], ood, method, config, dataset.hash, rows
    )


def write_split(
    dataset: Dataset,
    out: str | Path,
    method: str = "auto",
    valid: float = 0.1,
    test: float = 0.1,
    ood: Sequence[str] = (),
    seed: int = 0,
    by: str = "group",
) -> dict[str, Any]:
    """Divide a dataset and write each part as a store, besides `split.json`.

    Args:
        out: folder; must not hold parts yet.
        ood: `NAME:TAG=VALUE[,VALUE]`, several tags separated by `;`.

    Returns:
        Method, hash, and path and frames of every part.

    Raises:
        DataError: what `split_dataset` raises, a condition that cannot be read, or parts exist.
    """
    try:
        config = SplitConfig.model_validate(
            {"method": method, "by": by, "valid": valid, "test": test, "seed": seed}
            | {"ood": dict(_condition(text) for text in ood)}
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(f"split: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    split, folder = split_dataset(dataset, config), Path(out)
    parts = {"train": split.train, "valid": split.valid, "test": split.test}
    parts |= {f"ood-{name}": part for name, part in split.ood.items()}
    facts = {k: v for k, v in dataset.facts.items() if k in ("level_of_theory", "licence")}
    answer: dict[str, Any] = {"method": split.method, "hash": split.hash, "parts": {}}
    for name, part in parts.items():
        if len(part):
            Store.create(folder / name).append(part, **facts, split=split.hash)
            answer["parts"][name] = {"frames": len(part), "path": str(folder / name)}
    split.save(folder / "split.json")
    return answer


def _condition(text: str) -> tuple[str, dict[str, list[str | float]]]:
    """`hot:temperature=1200,1800` as name and conditions."""
    name, _, conditions = text.partition(":")
    pairs = [part.partition("=") for part in conditions.split(";")]
    if not name or not all(tag and values for tag, _, values in pairs):
        raise DataError(f"'{text}' is not of the form NAME:TAG=VALUE[,VALUE]")
    return name, {tag: [_value(v) for v in values.split(",")] for tag, _, values in pairs}


def _value(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text
