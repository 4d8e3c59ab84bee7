"""Adam with one flat gradient, clipping and averaged weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from siliforce.errors import ConfigError, ModelFileError
from siliforce.nn.species_table import SpeciesTable
from siliforce.potential import Potential
from siliforce.training.low_rank import LowRank
from siliforce.training.policy import freeze
from siliforce.training.settings import TrainConfig


class Optimiser:
    """Updates a potential's weights.

    Every parameter's `.grad` is a view into one vector: clearing, clipping and reducing over
    processes are one operation each, whatever the number of parameters.

    Attributes:
        parameters: weights of the potential that are trained.
        variables: what Adam changes: these, or the factors of low-rank updates of them.
        gradient: all gradients of the parameters, (n_parameters,).
    """

    def __init__(self, potential: Potential, config: TrainConfig) -> None:
        self.config, policy = config, config.policy
        factors = {} if policy is None else freeze(potential.model, policy)
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
        self.low_rank: LowRank | None = None
        self.variables, owners = self.parameters, self.parameters
        if policy is not None and policy.rank is not None:
            self.low_rank = LowRank(self.parameters, policy.rank, config.seed)
            self.variables, owners = self.low_rank.variables, self.low_rank.owners
        rates = {id(p): factors.get(n.removeprefix("model."), 1.0) for n, p in named}
        kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
        self.adam = kind(
            _groups(potential, zip(self.variables, owners, strict=True), rates, config),
            lr=config.lr,
            betas=config.betas,
            amsgrad=config.amsgrad,
            fused=potential.device.type in ("cpu", "cuda"),
        )
        self.average = [v.detach().clone() for v in self.variables] if config.ema else []

    @property
    def n_variables(self) -> int:
        """How many numbers are learned."""
        return sum(v.numel() for v in self.variables)

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
            group["lr"] = lr * group["factor"]
        if self.low_rank is not None:
            self.low_rank.pull()
        self.adam.step()
        if self.low_rank is not None:
            self.low_rank.push()
        if self.config.ema:
            decay = min(self.config.ema, (1 + n_steps) / (10 + n_steps))
            torch._foreach_lerp_(self.average, self.variables, 1 - decay)
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
        for variable, average in zip(self.variables, self.average, strict=True):
            kept = variable.clone()
            variable.copy_(average)
            average.copy_(kept)
        if self.low_rank is not None:
            self.low_rank.push()

    def tensors(self) -> dict[str, Tensor]:
        """Moments, averages and low-rank factors by name."""
        result = {f"average.{k}": v for k, v in enumerate(self.average)}
        for k, variable in enumerate(self.variables):
            for name, value in self.adam.state.get(variable, {}).items():
                result[f"adam.{k}.{name}"] = value
        if self.low_rank is not None:
            result |= {f"base.{k}": base for k, base in self.low_rank.bases.items()}
            pairs = enumerate(zip(self.variables, self.low_rank.owners, strict=True))
            result |= {f"factor.{k}": v for k, (v, owner) in pairs if v is not owner}
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
            if kind == "base" and self.low_rank is not None:
                self.low_rank.bases[int(index)].copy_(value)
                continue
            variable = self.variables[int(index)]
            if kind == "factor":
                variable.copy_(value)
                continue
            # Adam's step counter is a float32 scalar, the moments are like the variable.
            dtype = value.dtype if value.dim() == 0 and key[0] == "step" else variable.dtype
            moved = value.detach().clone().to(variable.device, dtype)
            self.adam.state[variable][key[0]] = moved


def _groups(
    potential: Potential,
    variables: Iterable[tuple[Tensor, Tensor]],
    rates: dict[int, float],
    config: TrainConfig,
) -> list[dict[str, object]]:
    """Variables by weight decay and factor on the learning rate; each comes with its parameter."""
    tables = {
        id(p) for m in potential.modules() if isinstance(m, SpeciesTable) for p in m.parameters()
    }
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for variable, owner in variables:
        decays = config.decay == "all" or (owner.dim() >= 2 and id(owner) not in tables)
        key = (config.weight_decay if decays else 0.0, rates[id(owner)])
        groups.setdefault(key, []).append(variable)
    return [
        {"params": chosen, "weight_decay": decay, "factor": factor}
        for (decay, factor), chosen in sorted(groups.items(), key=lambda g: g[0], reverse=True)
    ]
