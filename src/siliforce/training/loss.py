"""The loss, written as sums and counts so that parts of a batch add up exactly.

`L = λ_E L_E + λ_F L_F + λ_S L_S`, each term a mean over what is labelled in the whole batch.
Micro-batches and ranks return sums; dividing by the batch's counts makes gradient accumulation
and several processes give the loss of one process up to rounding.

Residuals enter in units of the potential's energy scale (eV), per atom for energies, per Å for
forces, and as virial per atom (stress x volume / n_atoms) for stress, so that the three have
one size whatever the material and the cell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from siliforce.data.batch import Batch
from siliforce.potential import Prediction
from siliforce.training.options import Options


class LateWeights(Options):
    """Weights of the last part of the training, where energies usually gain weight."""

    start: float = Field(0.75, gt=0, lt=1, description="fraction of the budget")
    energy: float = Field(ge=0)
    forces: float = Field(ge=0)
    stress: float = Field(0.0, ge=0)


class LossConfig(Options):
    """Weights and form of the loss."""

    energy: float = Field(1.0, ge=0)
    forces: float = Field(1.0, ge=0)
    stress: float = Field(0.0, ge=0)
    kind: Literal["mae", "mse", "huber"] = "mae"
    norm: Literal["vector", "component"] = Field(
        "vector", description="mae and huber act on vectors' lengths, or on each component"
    )
    pool: Literal["atoms", "structures"] = Field(
        "atoms", description="forces averaged over all atoms, or over each structure first"
    )
    huber_delta: float = Field(0.02, gt=0, description="eV/atom and eV/Å")
    late: LateWeights | None = None

    def weights(self, fraction: float) -> tuple[float, float, float]:
        """λ of energy, forces and stress when `fraction` of the budget is used."""
        late = self.late
        if late is not None and fraction >= late.start:
            return late.energy, late.forces, late.stress
        return self.energy, self.forces, self.stress

    @property
    def uses(self) -> tuple[bool, bool, bool]:
        """Whether energy, forces and stress enter at any time."""
        first, last = self.weights(0.0), self.weights(1.0)
        return first[0] + last[0] > 0, first[1] + last[1] > 0, first[2] + last[2] > 0


@dataclass(frozen=True)
class Residuals:
    """Prediction minus label, zero with zero gradient where a label is missing.

    Attributes:
        energy: per atom, (n_systems,), eV/atom, or None.
        forces: (n_atoms, 3), eV/Å, or None.
        stress: (n_systems, 3, 3), eV/Å³, or None.
    """

    energy: Tensor | None
    forces: Tensor | None
    stress: Tensor | None


def residuals(prediction: Prediction, batch: Batch) -> Residuals:
    """Compare with the labels that are there."""
    targets, masks = batch.targets, label_masks(batch)
    energy = _masked(prediction.energy - targets.energy, masks[0]) / targets.n_atoms
    forces = stress = None
    if prediction.forces is not None:
        forces = _masked(prediction.forces.double() - targets.forces, masks[1])
    if prediction.stress is not None:
        stress = _masked(prediction.stress.double() - targets.stress, masks[2])
    return Residuals(energy, forces, stress)


def label_masks(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Which energies (n_systems,), forces (n_atoms,) and stresses (n_systems,) are labelled."""
    targets = batch.targets
    stress = targets.stress.isfinite().flatten(1).all(dim=1) & batch.graph.pbc.all(dim=1)
    return targets.energy.isfinite(), targets.forces.isfinite().all(dim=1), stress


def label_counts(batch: Batch, pool: str) -> Tensor:
    """What the sums of `Loss` are to be divided by: energy, forces, stress; (3,), float64."""
    energy, forces, stress = label_masks(batch)
    n_forces = forces.sum()
    if pool == "structures":
        index = batch.graph.system_index
        n_forces = (_per_system(forces.double(), index, len(energy)) > 0).sum()
    return torch.stack([energy.sum(), n_forces, stress.sum()]).double()


class Loss:
    """Sums of the penalties of a batch."""

    def __init__(self, config: LossConfig, scale: float) -> None:
        """Remember the form of the loss.

        Args:
            config: the form; weights are applied by the caller.
            scale: the potential's energy scale, eV.
        """
        self.config = config
        self.scale = scale

    def sums(self, residual: Residuals, batch: Batch) -> Tensor:
        """Summed penalties of energy, forces and stress, (3,); weighted by frame."""
        weight, graph = batch.targets.weight, batch.graph
        zero = weight.new_zeros(())
        energy, forces, stress = zero, zero, zero
        if residual.energy is not None:
            energy = (weight * self._penalty(residual.energy[:, None])).sum()
        if residual.forces is not None:
            per_atom = self._penalty(residual.forces)
            if self.config.pool == "structures":
                mask, index = label_masks(batch)[1].double(), graph.system_index
                labelled = _per_system(mask, index, graph.n_systems).clamp(min=1)
                per_atom = per_atom / labelled[index]
            forces = (weight[graph.system_index] * per_atom).sum()
        if residual.stress is not None:
            volume = torch.linalg.det(graph.cell).abs() / batch.targets.n_atoms
            virial = (residual.stress * volume[:, None, None]).flatten(1)
            stress = (weight * self._penalty(virial)).sum()
        return torch.stack([energy, forces, stress])

    def _penalty(self, delta: Tensor) -> Tensor:
        """Penalty of each row of (n, k) residuals, (n,)."""
        x = delta / self.scale
        if self.config.kind == "mse":
            return x.square().mean(dim=1)
        if self.config.norm == "vector":
            # The gradient of the length of a zero vector (a missing label) is zero.
            x = torch.linalg.vector_norm(x, dim=1, keepdim=True)
        if self.config.kind == "mae":
            return x.abs().mean(dim=1)
        limit = self.config.huber_delta / self.scale
        return torch.nn.functional.huber_loss(
            x, torch.zeros_like(x), reduction="none", delta=limit
        ).mean(dim=1)


def _masked(delta: Tensor, mask: Tensor) -> Tensor:
    shape = (-1,) + (1,) * (delta.dim() - 1)
    return torch.where(mask.view(shape), delta, torch.zeros_like(delta))


def _per_system(values: Tensor, index: Tensor, n_systems: int) -> Tensor:
    return values.new_zeros(n_systems).index_add(0, index, values)
