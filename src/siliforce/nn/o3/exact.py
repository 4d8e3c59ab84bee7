"""Constants that follow a module's precision without being rounded on the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class ExactModule(nn.Module):
    """A module whose constants are cast from float64 masters whenever its dtype changes.

    An ordinary buffer made in float32 stays rounded when the module is used in float64.
    """

    def __init__(self) -> None:
        super().__init__()
        self._masters: dict[str, Tensor] = {}

    def register_constant(self, name: str, value: Tensor) -> None:
        """Add a float64 constant; it is not part of the state dict."""
        self._masters[name] = value.double()
        self.register_buffer(name, value.to(torch.get_default_dtype()), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        module = super()._apply(fn, recurse)
        for name, master in self._masters.items():
            self._buffers[name] = master.to(self._buffers[name])
        return module
