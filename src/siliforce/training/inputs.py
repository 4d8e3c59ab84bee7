"""Training and validation data from whatever the user names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from siliforce.data import Dataset, Split, SplitConfig, load_dataset, split_dataset
from siliforce.errors import DataError
from siliforce.training.options import Options, parse

NOT_STATED = "not stated"
IN_MEMORY = "(in memory)"


class DataConfig(Options):
    """The data section of a configuration.

    `source` is split unless `valid` is given; frames held out for tests are not trained on.
    """

    source: str | list[str]
    valid: str | list[str] | None = None
    split: SplitConfig = SplitConfig()
    level_of_theory: str = NOT_STATED
    licence: str = NOT_STATED


@dataclass(frozen=True)
class TrainingData:
    """What a training reads.

    Attributes:
        train, valid: disjoint.
        split: how they were made, or None where the user gave both.
        config: the data section to record.
    """

    train: Dataset
    valid: Dataset
    split: Split | None
    config: dict[str, Any]


Source = str | Path | Dataset | Split | TrainingData | Sequence[str | Path]


def load_training_data(
    data: Source | DataConfig | Mapping[str, Any],
    valid: Source | None = None,
    split: SplitConfig | None = None,
) -> TrainingData:
    """Read and split.

    Args:
        data: files, stores, a dataset, a split, a configuration, or what this returns.
        valid: frames to validate on; without them `data` is split.
        split: how; by default the configuration's.

    Raises:
        DataError: nothing to train or validate on.
    """
    if isinstance(data, TrainingData):
        return _checked(data)
    if isinstance(data, Mapping):
        data = parse(DataConfig, data, "data")
    config = data if isinstance(data, DataConfig) else _recorded(data, valid)
    split = split or config.split
    if isinstance(data, Split):
        return _checked(TrainingData(data.train, data.valid, data, config.model_dump(mode="json")))
    source = data if isinstance(data, Dataset) else load_dataset(_source(data))
    if len(source) == 0:
        raise DataError(f"{config.source}: no frames to train on")
    record = {**config.model_dump(mode="json"), "split": split.model_dump(mode="json")}
    if valid is None and isinstance(data, DataConfig):
        valid = data.valid
    if valid is None:
        parts = split_dataset(source, split)
        return _checked(TrainingData(parts.train, parts.valid, parts, record))
    held = valid if isinstance(valid, Dataset) else load_dataset(_source(valid))
    return _checked(TrainingData(source, held, None, {**record, "valid": _names(valid)}))


def _checked(data: TrainingData) -> TrainingData:
    for name, part in (("train", data.train), ("validate", data.valid)):
        if len(part) == 0:
            raise DataError(f"no frames to {name} on: give more data, another split, or --valid")
    return data


def _source(data: Any) -> Any:
    return data.source if isinstance(data, DataConfig) else data


def _names(data: Any) -> str | list[str]:
    """For the record; a dataset in memory has no name."""
    if isinstance(data, (str, Path)):
        return str(data)
    if isinstance(data, (Dataset, Split)):
        return IN_MEMORY
    return [str(item) for item in data]


def _recorded(data: Any, valid: Any) -> DataConfig:
    return DataConfig(source=_names(data), valid=None if valid is None else _names(valid))
