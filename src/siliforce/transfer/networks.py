"""Many small tanh networks at once, each fitted to its own samples until it no longer improves.

With a hundred parameters the Gauss-Newton matrix is small: Levenberg and Marquardt's method
reaches in some tens of steps what takes gradient descent many thousands, and there is no learning
rate to choose.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

GAIN = 1e-4
"""A network has converged when `PATIENCE` steps together lower its loss by less than this part."""
PATIENCE = 10
DAMPING = 1e-3
SINGULAR = 1e-12


def n_parameters(sizes: Sequence[int]) -> int:
    """Weights and biases of a network with these widths, input and output included."""
    return sum((n_in + 1) * n_out for n_in, n_out in pairwise(sizes))


def random_parameters(sizes: Sequence[int], n: int, generator: torch.Generator) -> Tensor:
    """Starting points of n networks, (n, n_parameters), float64."""
    parts = []
    for n_in, n_out in pairwise(sizes):
        weight = torch.randn(n, n_in * n_out, generator=generator, dtype=torch.float64)
        parts += [weight / math.sqrt(n_in), weight.new_zeros(n, n_out)]
    return torch.cat(parts, dim=1)


def hidden(parameters: Tensor, x: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """Input and answers of every hidden layer, each (n, n_samples, width).

    Args:
        parameters: (n, n_parameters).
        x: (n, n_samples, sizes[0]).
    """
    layers = [x]
    for weight, bias in _layers(parameters, sizes)[:-1]:
        layers.append(torch.tanh(torch.baddbmm(bias, layers[-1], weight)))
    return layers


def predict(parameters: Tensor, x: Tensor, sizes: Sequence[int]) -> Tensor:
    """Answers, (n, n_samples); shapes as in `hidden`."""
    weight, bias = _layers(parameters, sizes)[-1]
    return torch.baddbmm(bias, hidden(parameters, x, sizes)[-1], weight).squeeze(2)


def _layers(parameters: Tensor, sizes: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
    """Weight (n, n_in, n_out) and bias (n, 1, n_out) of every layer."""
    layers, at = [], 0
    for n_in, n_out in pairwise(sizes):
        weight = parameters[:, at : at + n_in * n_out].unflatten(1, (n_in, n_out))
        at += n_in * n_out
        layers.append((weight, parameters[:, None, at : at + n_out]))
        at += n_out
    return layers


def jacobian(parameters: Tensor, x: Tensor, sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Answers (n, n_samples) and their derivatives (n, n_samples, n_parameters)."""
    values = hidden(parameters, x, sizes)
    layers = _layers(parameters, sizes)
    weight, bias = layers[-1]
    answer = torch.baddbmm(bias, values[-1], weight).squeeze(2)
    slope, parts = x.new_ones(*x.shape[:2], 1), []
    for (weight, _), value in zip(reversed(layers), reversed(values), strict=True):
        parts.append(torch.cat([(value[..., None] * slope[..., None, :]).flatten(2), slope], 2))
        slope = (slope @ weight.mT) * (1 - value.square())
    return answer, torch.cat(parts[::-1], dim=2)


@dataclass(frozen=True)
class Fit:
    """Fitted networks.

    Attributes:
        parameters: (n, n_parameters).
        loss: with the weight decay, (n,).
        converged: whether no step improved any more before the limit, (n,).
    """

    parameters: Tensor
    loss: Tensor
    converged: Tensor


def fit(
    start: Tensor,
    x: Tensor,
    y: Tensor,
    decay: Tensor,
    sizes: Sequence[int],
    max_steps: int = 500,
) -> Fit:
    """Least squares with weight decay.

    Minimises `mean (f(x) - y)² + decay |θ|²` for each network on its own.

    Args:
        start: (n, n_parameters).
        x: (n, n_samples, sizes[0]).
        y: (n, n_samples).
        decay: (n,).
        sizes: widths, input and output included.
    """
    best = start.clone()
    samples = x, y, decay
    converged = torch.zeros(len(start), dtype=torch.bool)
    active = torch.arange(len(start))
    theta, damping = start.clone(), start.new_full((len(start),), DAMPING)
    loss = _loss(theta, x, y, decay, sizes)
    marker = loss.clone()
    for step in range(1, max_steps + 1):
        trial = theta + _step(theta, x, y, decay, damping, sizes)
        trial_loss = _loss(trial, x, y, decay, sizes)
        better = trial_loss < loss
        theta = torch.where(better[:, None], trial, theta)
        loss = torch.where(better, trial_loss, loss)
        damping = torch.where(better, damping / 3, damping * 4).clamp(1e-10, 1e10)
        if step % PATIENCE == 0:
            done = marker - loss <= GAIN * marker
            best[active], converged[active] = theta, done
            if done.all():
                break
            keep = ~done
            active, theta, damping, loss = active[keep], theta[keep], damping[keep], loss[keep]
            x, y, decay = x[keep], y[keep], decay[keep]
            marker = loss.clone()
    else:
        best[active] = theta
    return Fit(best, _loss(best, *samples, sizes), converged)


def _loss(theta: Tensor, x: Tensor, y: Tensor, decay: Tensor, sizes: Sequence[int]) -> Tensor:
    error = (predict(theta, x, sizes) - y).square().mean(1)
    return error + decay * theta.square().sum(1)


def _step(
    theta: Tensor,
    x: Tensor,
    y: Tensor,
    decay: Tensor,
    damping: Tensor,
    sizes: Sequence[int],
) -> Tensor:
    """The damped Gauss-Newton step, (n, n_parameters)."""
    answer, slopes = jacobian(theta, x, sizes)
    matrix = slopes.mT @ slopes / x.shape[1]
    gradient = (slopes.mT @ (answer - y)[..., None]).squeeze(2) / x.shape[1]
    gradient = gradient + decay[:, None] * theta
    scale = damping * matrix.diagonal(dim1=1, dim2=2).mean(1) + decay + SINGULAR
    matrix.diagonal(dim1=1, dim2=2).add_(scale[:, None])
    factor, info = torch.linalg.cholesky_ex(matrix)
    solved = torch.cholesky_solve(-gradient[..., None], factor).squeeze(2)
    return torch.where((info == 0)[:, None], solved, torch.zeros_like(solved))
