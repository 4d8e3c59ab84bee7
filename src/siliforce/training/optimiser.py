"""Adam with one flat gradient, clipping and averaged weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from siliforce.errors import ConfigError, ModelFileError
from siliforce.nn.species_table import SpeciesTable
from siliforce.potential import Potential
from siliforce.training.settings import TrainConfig


class Optimiser:
    """Updates a potential's weights.

    Every parameter's `.grad` is a view into one vector: clearing, clipping and reducing over
    processes are one operation each, whatever the number of parameters.

    Attributes:
        gradient: all gradients, (n_parameters,).
    """

    def __init__(self, potential: Potential, config: TrainConfig) -> None:
        self.config = config
        named = [(n, p) for n, p in potential.named_parameters() if p.requires_grad]
        if not named:
            raise ConfigError("the model has no parameters to train")
        self.parameters: list[Tensor] = [p for _, p in named]
        self.gradient = torch.zeros(
            sum(p.numel() for p in self.parameters),
            dtype=self.parameters[0].dtype,
            device=potential.device,
        )
        self._attach()
        kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
        self.adam = kind(
            _decay_groups(potential, named, config),
            lr=config.lr,
            betas=config.betas,
            amsgrad=config.amsgrad,
            fused=potential.device.type in ("cpu", "cuda"),
        )
        self.average = [p.detach().clone() for p in self.parameters] if config.ema else []

    def _attach(self) -> None:
        for parameter, part in zip(
            self.parameters, self.gradient.split([p.numel() for p in self.parameters]), strict=True
        ):
            parameter.grad = part.view_as(parameter)

    def zero(self) -> None:
        """Forget the gradient."""
        self.gradient.zero_()

    @torch.no_grad()
    def step(self, lr: float, n_steps: int) -> Tensor:
        """One update.

        Args:
            n_steps: updates so far; early on, the average follows quickly.

        Returns:
            Norm of the gradient before clipping, a scalar on the device.
        """
        norm = torch.linalg.vector_norm(self.gradient)
        if self.config.clip is not None:
            self.gradient.mul_((self.config.clip / (norm + 1e-12)).clamp(max=1.0))
        for group in self.adam.param_groups:
            group["lr"] = lr
        self.adam.step()
        if self.config.ema:
            decay = min(self.config.ema, (1 + n_steps) / (10 + n_steps))
            torch._foreach_lerp_(self.average, self.parameters, 1 - decay)
        return norm

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Inside, the potential has the averaged weights (if there are any)."""
        if not self.average:
            yield
            return
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for parameter, average in zip(self.parameters, self.average, strict=True):
            kept = parameter.clone()
            parameter.copy_(average)
            average.copy_(kept)

    def tensors(self) -> dict[str, Tensor]:
        """Moments and averages by name."""
        result = {f"average.{k}": v for k, v in enumerate(self.average)}
        for k, parameter in enumerate(self.parameters):
            for name, value in self.adam.state.get(parameter, {}).items():
                result[f"adam.{k}.{name}"] = value
        return result

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take up what `tensors` gave.

        Raises:
            ModelFileError: it belongs to other parameters.
        """
        if sum(name.startswith("average.") for name in tensors) != len(self.average):
            raise ModelFileError("the checkpoint's averaged weights belong to another model")
        self.adam.state.clear()
        for name, value in tensors.items():
            kind, index, *key = name.split(".")
            if kind == "average":
                self.average[int(index)].copy_(value)
                continue
            parameter = self.parameters[int(index)]
            # Adam's step counter is a float32 scalar, the moments are like the parameter.
            dtype = value.dtype if value.dim() == 0 and key[0] == "step" else parameter.dtype
            moved = value.detach().clone().to(parameter.device, dtype)
            self.adam.state[parameter][key[0]] = moved


def _decay_groups(
    potential: Potential, named: list[tuple[str, nn.Parameter]], config: TrainConfig
) -> list[dict[str, object]]:
    """Parameters with and without weight decay."""
    tables = {
        id(p) for m in potential.modules() if isinstance(m, SpeciesTable) for p in m.parameters()
    }

    def decays(parameter: nn.Parameter) -> bool:
        return config.decay == "all" or (parameter.dim() >= 2 and id(parameter) not in tables)

    with_decay = [p for _, p in named if decays(p)]
    without = [p for _, p in named if not decays(p)]
    groups = [(with_decay, config.weight_decay), (without, 0.0)]
    return [{"params": p, "weight_decay": decay} for p, decay in groups if p]
