"""Splits keep trajectories whole, name what is out of distribution, and can be had again."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from siliforce.data import Dataset, Split, SplitConfig, Store, learning_curve, split_dataset
from siliforce.data.split import write_split
from siliforce.errors import DataError
from tests.unit.data.frames import some_frames, stored


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """40 frames: 8 runs of 5, four temperatures."""
    frames = [
        f.replace(
            group=f"run {k // 5}", config_type="ab"[k % 2], tags={"temperature": 300.0 * (k % 4)}
        )
        for k, f in enumerate(some_frames(40))
    ]
    return stored(tmp_path / "s", frames)


def rows(part: Dataset) -> set[int]:
    return {int(s.split(":")[1]) for s in part.sources}


def without_groups(dataset: Dataset, path: Path, name: Callable[[int], str]) -> Dataset:
    return stored(path, [f.replace(group=name(k)) for k, f in enumerate(dataset)])


def test_trajectories_stay_together(dataset: Dataset) -> None:
    split = split_dataset(dataset, SplitConfig(valid=0.2, test=0.2))
    parts = [rows(p) for p in (split.train, split.valid, split.test)]
    assert set.union(*parts) == set(range(40))
    assert sum(map(len, parts)) == 40
    groups = [{k // 5 for k in part} for part in parts]
    assert sum(map(len, groups)) == 8
    assert [len(p) for p in parts[1:]] == [10, 10]
    assert split.method == "by group: 8 groups stay together"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (lambda k: "", "name no trajectories"),
        (lambda k: f"frame {k}", "every frame is a group of its own"),
        (lambda k: "a" if k else "b", "only 2 groups"),
    ],
)
def test_groups_that_cannot_be_used(
    dataset: Dataset, tmp_path: Path, name: Callable[[int], str], reason: str
) -> None:
    """A split by them would be a random split, or impossible: it says so."""
    other = without_groups(dataset, tmp_path / "o", name)
    split = split_dataset(other)
    assert split.method.startswith("random, since")
    assert reason in split.method
    assert len(split.valid) == 4
    if reason != "only 2 groups":
        with pytest.raises(DataError, match=reason):
            split_dataset(other, SplitConfig(method="group"))


def test_split_by_any_label(dataset: Dataset) -> None:
    split = split_dataset(dataset, SplitConfig(method="group", by="temperature", valid=0.25))
    assert len({k % 4 for k in rows(split.valid)}) == 1
    assert len(split.valid) == 10
    with pytest.raises(DataError, match=r"no frame has the tag 'phase'; there are .*temperature"):
        split_dataset(dataset, SplitConfig(method="group", by="phase"))


def test_out_of_distribution_sets(dataset: Dataset) -> None:
    config = SplitConfig(
        ood={"hot": {"temperature": [900.0]}, "b": {"config_type": ["b"], "temperature": [300.0]}}
    )
    split = split_dataset(dataset, config)
    assert rows(split.ood["hot"]) == {k for k in range(40) if k % 4 == 3}
    assert rows(split.ood["b"]) == {k for k in range(40) if k % 4 == 1}
    assert all(k % 4 not in (1, 3) for k in rows(split.train) | rows(split.valid))
    with pytest.raises(DataError, match=r"no frame has temperature = 1\.0; there are"):
        split_dataset(dataset, SplitConfig(ood={"x": {"temperature": [1.0]}}))


def test_splits_are_reproducible_and_hashed(dataset: Dataset, tmp_path: Path) -> None:
    config = SplitConfig(method="random", test=0.1, seed=3)
    split = split_dataset(dataset, config)
    assert split_dataset(dataset, config).hash == split.hash
    other = split_dataset(dataset, config.model_copy(update={"seed": 4}))
    assert other.hash != split.hash
    again = Split.load(split.save(tmp_path / "split.json"), dataset)
    assert again.hash == split.hash
    assert rows(again.valid) == rows(split.valid)
    assert again.method == "random"


def test_recorded_splits_of_other_data_are_refused(dataset: Dataset, tmp_path: Path) -> None:
    path = split_dataset(dataset).save(tmp_path / "split.json")
    with pytest.raises(DataError, match="made for data"):
        Split.load(path, dataset.subset(range(39)))
    path.write_text("{")
    with pytest.raises(DataError, match="not a split, or damaged"):
        Split.load(path, dataset)


def test_learning_curves_are_nested(dataset: Dataset) -> None:
    parts = learning_curve(dataset, seed=1)
    sets = [rows(part) for part in parts.values()]
    assert [len(s) for s in sets] == [8, 16, 24, 32, 40]
    assert all(a < b for a, b in pairwise(sets))


def test_nothing_to_train_on(dataset: Dataset) -> None:
    everything = {"all": {"config_type": ["a", "b"]}}
    with pytest.raises(DataError, match="nothing left to train on"):
        split_dataset(dataset, SplitConfig(ood=everything))


def test_written_parts(dataset: Dataset, tmp_path: Path) -> None:
    answer = write_split(dataset, tmp_path / "o", test=0.1, ood=["hot:temperature=900"], by="group")
    assert set(answer["parts"]) == {"train", "valid", "test", "ood-hot"}
    for name, part in answer["parts"].items():
        assert len(Store.open(tmp_path / "o" / name)) == part["frames"]
    assert sum(part["frames"] for part in answer["parts"].values()) == 40
    recorded = Split.load(tmp_path / "o" / "split.json", dataset)
    assert recorded.hash == answer["hash"]
    assert np.isclose(len(recorded.ood["hot"]), 10)
    json.dumps(answer)
    for wrong in ("hot", "hot:temperature", ":temperature=900"):
        with pytest.raises(DataError, match="is not of the form"):
            write_split(dataset, tmp_path / "p", ood=[wrong])
    with pytest.raises(DataError, match="split: method"):
        write_split(dataset, tmp_path / "p", method="magic")
