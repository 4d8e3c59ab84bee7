"""`load_dataset`: files and stores alike."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from siliforce.data.dataset import Dataset
from siliforce.data.deepmd import is_deepmd
from siliforce.data.read import ReadOptions, load_frames
from siliforce.data.store import Store
from siliforce.errors import DataError

Source = str | Path | Dataset


def load_dataset(source: Source | Sequence[Source], options: ReadOptions | None = None) -> Dataset:
    """Frames from files in any format, stores, or several of them.

    Files are imported into a store in the cache the first time, and again when they change.

    Args:
        source: file, store, dataset, or a list of them.
        options: keys and units of files.

    Raises:
        DataError: missing or unusable, or not a file siliforce can read.
    """
    parts = [source] if isinstance(source, str | Path | Dataset) else list(source)
    if not parts:
        raise DataError("no data given: name a file or a store")
    datasets = [p if isinstance(p, Dataset) else Dataset([_store(Path(p), options)]) for p in parts]
    if len(datasets) == 1:
        return datasets[0]
    return Dataset.concatenate(datasets)


def _store(path: Path, options: ReadOptions | None) -> Store:
    if Store.is_store(path):
        return Store.open(path)
    if not path.exists():
        raise DataError(f"{path}: no such file or store")
    if path.is_dir() and not is_deepmd(path):
        raise DataError(f"{path}: a folder, but neither a store nor DeePMD data")
    return load_frames(path, options)
