"""Frames: reading, storing, checking, splitting, batching."""

from siliforce.data.batch import Batch, Targets
from siliforce.data.dataset import Dataset
from siliforce.data.frame import Frame
from siliforce.data.load import load_dataset
from siliforce.data.read import ImportReport, ReadOptions, import_files
from siliforce.data.split import Split, SplitConfig, learning_curve, split_dataset
from siliforce.data.stats import DataStats, compute_stats
from siliforce.data.store import Store

__all__ = [
    "Batch",
    "DataStats",
    "Dataset",
    "Frame",
    "ImportReport",
    "ReadOptions",
    "Split",
    "SplitConfig",
    "Store",
    "Targets",
    "compute_stats",
    "import_files",
    "learning_curve",
    "load_dataset",
    "split_dataset",
]
