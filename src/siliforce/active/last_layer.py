"""An ensemble from one potential: its last layer, drawn from the posterior given its training set.

The last layer is what enters energies and forces linearly: tensors of the readout, taken from the
output backwards as long as the answer stays linear in all of them together. That is tried out, so
that any architecture will do, also models that predict forces directly. With J the derivatives of
all training forces with respect to these weights, their posterior (Laplace's approximation, exact
for a linear layer) is a normal distribution with precision `(J^T J + ridge) / noise²`. Where
training frames say nothing, draws differ and so do their forces.

J^T J is estimated from products of J^T with random signs, two derivatives each whatever the size.

Reference: Bigi, Chong, Ceriotti & Grasselli, Mach. Learn.: Sci. Technol. 5, 045018 (2024), where
the features of the last layer are used in this way.
"""

from __future__ import annotations

import math
from copy import deepcopy

import numpy as np
import torch
from torch import Tensor

from siliforce.data import Dataset
from siliforce.errors import DataError
from siliforce.graph import Graph
from siliforce.potential import Potential

N_MEMBERS = 16
PROBES = 4
"""Random signs per weight of the last layer, spread over the training frames ..."""
MOST_PROBES = 12
"""... and so many at most for one of them."""
RIDGE = 1e-3
"""Of each weight's own precision: directions that were hardly ever tried stay finite."""
FLOOR = 1e-6
"""Of the mean precision: weights that no training frame tried, such as those of a new element."""
MAX_FRAMES = 300
"""Training frames that are looked at, evenly spaced."""
STEP = 0.1
"""By which weights are moved to see whether the answer is linear in them."""
LINEAR = 1e-7
"""Relative deviation from a straight line that counts as rounding."""


def last_layer(potential: Potential, graph: Graph) -> list[str]:
    """Names of the model's parameters in which forces (and energies) are linear, all together.

    Args:
        potential: in double precision.
        graph: of some frame, in double precision.
    """
    names = potential.model.parts().get("readout", ())
    tensors = dict(potential.model.named_parameters())
    found: list[str] = []
    here = _answer(potential, graph)
    rng = torch.Generator().manual_seed(0)
    moves = {n: STEP * torch.randn(tensors[n].shape, generator=rng).to(tensors[n]) for n in names}
    for name in reversed(names):
        up = _moved(potential, graph, {n: moves[n] for n in (*found, name)})
        down = _moved(potential, graph, {n: -moves[n] for n in (*found, name)})
        alone = _moved(potential, graph, {name: moves[name]}) - here
        size = (up - down).abs().max()
        acts = alone[graph.n_systems :].abs().max() > LINEAR * here.abs().max()
        if acts and (up + down - 2 * here).abs().max() <= LINEAR * size:
            found.append(name)
    return found


def drawn_members(
    potential: Potential,
    train: Dataset,
    n_members: int = N_MEMBERS,
    seed: int = 0,
) -> list[Potential]:
    """Copies of a potential with last layers drawn from the posterior; their mean is its own.

    Args:
        potential: of any architecture.
        train: the frames it was trained on.
        n_members: at least 2.

    Raises:
        DataError: no training frames, or a readout in which the forces are not linear.
    """
    if len(train) == 0:
        raise DataError("the last layer's uncertainty needs the training frames")
    exact = deepcopy(potential).set_dtype(torch.float64).to("cpu").eval()
    rows = np.unique(np.linspace(0, len(train) - 1, min(len(train), MAX_FRAMES)).astype(int))
    names = last_layer(exact, _graph(exact, train, int(rows[0])))
    if not names:
        raise DataError(
            f"{potential.model.title} has no readout in which its forces are linear: name several "
            "models, or the folder of an ensemble (train --seeds 3)"
        )
    precision, noise = _precision(exact, train, rows, names, seed)
    draws = _drawn(precision, noise, n_members, seed)
    return [_changed(potential, names, draw) for draw in draws]


def _drawn(precision: Tensor, noise: float, n: int, seed: int) -> Tensor:
    """Changes of the weights from their posterior, of mean zero, (n, n_weights)."""
    diagonal = precision.diagonal()
    ridge = RIDGE * diagonal + FLOOR * diagonal.mean()
    factor = torch.linalg.cholesky(precision + torch.diag(ridge))
    rng = torch.Generator().manual_seed(seed)
    normal = torch.randn(len(diagonal), n, generator=rng, dtype=torch.float64)
    draws = noise * torch.linalg.solve_triangular(factor.T, normal, upper=True)
    return (draws - draws.mean(dim=1, keepdim=True)).T


def _graph(potential: Potential, data: Dataset, row: int) -> Graph:
    return data.batch([row], potential.cutoff, potential.model.needs, torch.float64).graph


def _answer(potential: Potential, graph: Graph) -> Tensor:
    """Energies and forces as one vector."""
    found = potential(graph)
    assert found.forces is not None
    return torch.cat([found.energy, found.forces.reshape(-1)]).detach()


def _moved(potential: Potential, graph: Graph, moves: dict[str, Tensor]) -> Tensor:
    """The answer with some weights moved; they are put back."""
    tensors = dict(potential.model.named_parameters())
    kept = {name: tensors[name].detach().clone() for name in moves}
    with torch.no_grad():
        for name, move in moves.items():
            tensors[name].add_(move)
    try:
        return _answer(potential, graph)
    finally:
        with torch.no_grad():
            for name, value in kept.items():
                tensors[name].copy_(value)


def _precision(
    potential: Potential,
    data: Dataset,
    rows: np.ndarray,
    names: list[str],
    seed: int,
) -> tuple[Tensor, float]:
    """J^T J of the last layer, and the RMS force error on the training frames, eV/Å."""
    tensors = dict(potential.model.named_parameters())
    layer = [tensors[name] for name in names]
    wanted = PROBES * sum(tensor.numel() for tensor in layer)
    probes = min(math.ceil(wanted / len(rows)), MOST_PROBES)
    rng = torch.Generator().manual_seed(seed)
    total, squares, count = torch.zeros((), dtype=torch.float64), 0.0, 0
    for row in rows:
        batch = data.batch([int(row)], potential.cutoff, potential.model.needs, torch.float64)
        forces = potential(batch.graph, create_graph=True).forces
        assert forces is not None
        signs = torch.randint(2, (probes, *forces.shape), generator=rng).double() * 2 - 1
        products = []
        for k, sign in enumerate(signs):
            pulled = torch.autograd.grad((forces * sign).sum(), layer, retain_graph=k < probes - 1)
            products.append(torch.cat([g.reshape(-1) for g in pulled]))
        rows_of_frame = torch.stack(products)
        total = total + rows_of_frame.T @ rows_of_frame / probes
        error = (forces.detach() - batch.targets.forces).numpy()
        squares += float(np.nansum(error**2))
        count += int(np.isfinite(error).sum())
    return total, (squares / count) ** 0.5 if count and squares else 1.0


def _changed(potential: Potential, names: list[str], draw: Tensor) -> Potential:
    member = deepcopy(potential)
    tensors = dict(member.model.named_parameters())
    start = 0
    with torch.no_grad():
        for name in names:
            tensor = tensors[name]
            part = draw[start : (start := start + tensor.numel())]
            tensor.add_(part.reshape(tensor.shape).to(tensor))
    return member
