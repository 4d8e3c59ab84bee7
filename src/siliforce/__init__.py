"""Machine-learned force fields for semiconductors: train, compare and trust them."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from siliforce.data import Dataset, load_dataset
    from siliforce.potential import Potential
    from siliforce.simulation.calculator import SiliforceCalculator

__version__ = version("siliforce")
__all__ = ["Dataset", "Potential", "SiliforceCalculator", "__version__", "load_dataset"]

_LAZY = {
    "Dataset": "siliforce.data",
    "Potential": "siliforce.potential",
    "SiliforceCalculator": "siliforce.simulation.calculator",
    "load_dataset": "siliforce.data",
}


def __getattr__(name: str) -> Any:
    """Import on first use, so that the command line starts without PyTorch."""
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'siliforce' has no attribute '{name}'")
