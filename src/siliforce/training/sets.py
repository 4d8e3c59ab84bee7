"""The sets a run folder was trained, validated and is to be tested on."""

from __future__ import annotations

from pathlib import Path

import yaml

from siliforce.data import Dataset, Split, load_dataset
from siliforce.errors import DataError
from siliforce.training.inputs import DataConfig
from siliforce.training.options import parse
from siliforce.training.record import CONFIG, SPLIT


def recorded_sets(run_dir: str | Path) -> dict[str, Dataset]:
    """Datasets by split name: `train`, `valid`, `test`, `ood:<name>`; empty ones left out.

    Raises:
        DataError: not a run folder, or its data have moved or changed.
    """
    folder = Path(run_dir)
    try:
        content = yaml.safe_load((folder / CONFIG).read_text())
        config = parse(DataConfig, content["data"], "data")
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder}: not a run folder ({error}); train with --out {folder}"
        ) from error
    dataset = load_dataset(config.source)
    if config.valid is not None:
        return {"train": dataset, "valid": load_dataset(config.valid)}
    split = Split.load(folder / SPLIT, dataset)
    sets = {"train": split.train, "valid": split.valid, "test": split.test}
    sets |= {f"ood:{name}": part for name, part in split.ood.items()}
    return {name: part for name, part in sets.items() if len(part)}
