"""Energy, forces and stress as one compiled graph, differentiable once more for training."""

from __future__ import annotations

from collections.abc import Callable

import torch

from siliforce.data.batch import Batch
from siliforce.graph import Graph
from siliforce.potential import Potential, Prediction

Predict = Callable[..., Prediction]
"""(graph, create_graph) -> prediction."""


def compiled(
    predict: Predict, potential: Potential, batch: Batch, say: Callable[[str], None]
) -> Predict:
    """`predict` through torch.compile, or `predict` itself where that does not work.

    Forces are traced as operations of the same graph as the energy, so that the gradient of a
    loss on forces is an ordinary backward pass, which compilers know how to make.

    Args:
        predict: to be compiled.
        potential: what it evaluates.
        batch: to compile with and to compare on; on the potential's device.
        say: told in one line if it does not work.
    """
    faster = _Compiled(predict)
    try:
        difference = _difference(faster, predict, potential, batch)
    except Exception as error:
        # Whatever a compiler stumbles over (none installed, an operation it cannot do).
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        say(f"torch.compile does not work here ({reason[:150]}); training goes on without it")
        return predict
    limit = 1e-3 if potential.dtype == torch.float32 else 1e-8
    if not difference < limit:
        say(f"torch.compile changes gradients by {difference:.1g}; training goes on without it")
        return predict
    return faster


class _Compiled:
    """Gives the graph its leaf outside of the compiled region, as the compiler demands."""

    def __init__(self, predict: Predict) -> None:
        self.compiled = torch.compile(predict, dynamic=True, fullgraph=True)

    def __call__(self, graph: Graph, create_graph: bool) -> Prediction:
        leaf = graph.edge_vectors.detach().requires_grad_()
        with torch._dynamo.config.patch(trace_autograd_ops=True):
            return self.compiled(graph.replace(edge_vectors=leaf), create_graph=create_graph)


def _difference(a: Predict, b: Predict, potential: Potential, batch: Batch) -> float:
    """Largest difference of the gradients of a loss, relative to the largest component."""
    parameters = [p for p in potential.parameters() if p.requires_grad]
    gradients = []
    for predict in (a, b):
        prediction = predict(batch.graph, create_graph=True)
        loss = prediction.energy.square().mean()
        if prediction.forces is not None:
            loss = loss + prediction.forces.square().mean()
        if prediction.stress is not None:
            loss = loss + prediction.stress.nan_to_num().square().mean()
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        gradients.append(torch.cat([g.flatten() for g in found if g is not None]))
    scale = gradients[1].abs().max().clamp(min=1e-12)
    return float((gradients[0] - gradients[1]).abs().max() / scale)
