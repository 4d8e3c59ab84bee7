"""fairchem-core 1.10.0's GemNet-dT: the environment of `gemnet_t.py`."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from .gemnet_t import build as build_either


def build(
    data: dict[str, Tensor],
) -> tuple[nn.Module, Callable[[bool], tuple[Tensor, Tensor]]]:
    """The package's model with direct forces and `evaluate(training) -> energy, forces`."""
    return build_either(data, direct=True)
