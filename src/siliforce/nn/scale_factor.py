"""Factors that keep the variance of features constant from layer to layer."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from siliforce.graph import Graph


class ScaleFactor(nn.Module):
    """A constant that multiplies features, chosen on data before training.

    Fitted, it makes the variance of what goes out equal to that of a reference that goes in,
    both averaged over channels: sums over neighbours grow with their number, and products shrink.

    Attributes:
        value: the factor, 1 before it is fitted.

    Reference:
        Gasteiger et al., GemNet (2021), section 6.
    """

    value: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("value", torch.ones(()))
        self.observed: Tensor | None = None

    def forward(self, x: Tensor, reference: Tensor, weights: Tensor | None = None) -> Tensor:
        """`x` times the factor.

        Args:
            x: (n, n_channels).
            reference: what `x` was made of, (n_reference, n_channels').
            weights: how often a row of the reference counts, (n_reference,).
        """
        if self.observed is not None:
            self._observe(x, reference, weights)
        return x * self.value

    def _observe(self, x: Tensor, reference: Tensor, weights: Tensor | None) -> None:
        """Add the two variances, and for the rest of this pass take the factor they give."""
        assert self.observed is not None
        pair = torch.stack([_variance(reference, weights), _variance(x)])
        if bool(torch.isfinite(pair).all() & (pair > 0).all()):
            self.observed += len(x) * pair
            self.value.copy_((pair[0] / pair[1]).sqrt())
        else:
            self.value.fill_(1.0)


@torch.no_grad()
def fit_scale_factors(model: nn.Module, graphs: Iterable[Graph]) -> None:
    """Fit all scale factors of a model in one pass over the data.

    In every graph each factor is first chosen for that graph, in the order of evaluation, so that
    what follows sees features of the right size; the factors kept are those of the variances
    summed over graphs. One graph gives what fitting one factor after the other gives.
    """
    factors = [module for module in model.modules() if isinstance(module, ScaleFactor)]
    for factor in factors:
        factor.observed = torch.zeros(2, dtype=torch.float64, device=factor.value.device)
    for graph in graphs:
        model(graph)
    for factor in factors:
        assert factor.observed is not None
        reference, out = factor.observed
        factor.value.copy_((reference / out).sqrt() if out > 0 else torch.ones(()))
        factor.observed = None


def _variance(x: Tensor, weights: Tensor | None = None) -> Tensor:
    """Unbiased variance over rows, mean over channels, float64."""
    rows = x.detach().double()
    counts = rows.new_ones(len(rows)) if weights is None else weights.to(rows)
    n = counts.sum()
    centered = rows - counts @ rows / n
    return (counts @ centered.square() / (n - 1)).mean()
