"""Training: one trainer, one loss and one checkpoint format for all architectures."""

from siliforce.training.adapt import adapt
from siliforce.training.adapted import AdaptConfig
from siliforce.training.build import ModelChoice
from siliforce.training.inputs import DataConfig
from siliforce.training.loss import LossConfig
from siliforce.training.run import RunResult, train
from siliforce.training.sampler import EdgeBudgetSampler
from siliforce.training.settings import TrainConfig
from siliforce.training.trainer import Trainer

__all__ = [
    "AdaptConfig",
    "DataConfig",
    "EdgeBudgetSampler",
    "LossConfig",
    "ModelChoice",
    "RunResult",
    "TrainConfig",
    "Trainer",
    "adapt",
    "train",
]
