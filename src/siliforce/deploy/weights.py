"""What mappings from other packages share: every weight is used, or named in an error."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from siliforce.errors import ModelFileError


class Weights:
    """Another package's tensors, from which entries are taken until only constants remain."""

    def __init__(self, state: Mapping[str, Tensor], prefix: str = "") -> None:
        self.prefix = prefix
        self.rest = dict(state)

    def take(self, name: str) -> Tensor:
        """Remove and return; `name` without the prefix.

        Raises:
            ModelFileError: there is none.
        """
        key = self.prefix + name
        if key not in self.rest:
            raise ModelFileError(f"the weights lack '{key}'; the configuration is of another model")
        return self.rest.pop(key)

    def finish(self, constant: Callable[[str], bool] = lambda _: False) -> None:
        """Refuse entries that nobody took.

        Raises:
            ModelFileError: naming those that are neither empty nor `constant`.
        """
        unknown = [k for k, v in self.rest.items() if v.numel() and not constant(k)]
        if unknown:
            raise ModelFileError(f"unknown weights, nothing is imported: {', '.join(unknown)}")
