"""The paper's low-dimensional demonstration: from water to hydrogen sulphide.

A network of two hidden layers of 8 learns the energy of H2O. For H2S the features are moved to
where the source had them, `D' = D - mean_target + mean_source` (domain transfer), a hidden layer
of 4 is put after the two, and it and its output alone are trained (model transfer); all else stays
frozen. The control is the first network, trained on H2S from scratch.

Both are tuned alike: the weight decay is chosen by cross-validation for every number of samples,
each final network is the better of two starts, and all are trained until they no longer improve.

Transfer Learning of Potential Energy Surfaces for Efficient Atomistic Modeling of Doping and
Alloy, IEEE Electron Device Letters (2020).
"""

from __future__ import annotations

import lzma
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor

from siliforce.data import load_dataset
from siliforce.data.catalog import SETS
from siliforce.errors import ConfigError
from siliforce.training.options import Options
from siliforce.transfer import networks

SOURCE, TARGET = "h2o", "h2s"
N_ATOMS = 3
HIDDEN, ADDED = (8, 8), (4,)
"""Widths of the source's hidden layers and of the one that transfer adds."""

N_FEATURES = 3
CONTROL, TRANSFER, UNMOVED = "scratch", "transfer", "transfer without moved features"


class DemoConfig(Options):
    """The demonstration."""

    sizes: tuple[int, ...] = Field((5, 10, 25, 50, 100, 250, 500, 1000), description="H2S samples")
    n_source: int = Field(1000, ge=10, description="H2O samples")
    n_test: int = Field(100, ge=10, description="H2S frames, the last of the set, never trained on")
    n_draws: int = Field(20, ge=2, description="of the samples, each with its own starting weights")
    decays: tuple[float, ...] = Field(
        (1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2), description="weight decays to choose from"
    )
    n_starts: int = Field(2, ge=1, description="starting weights of each final network")
    n_tuned: int = Field(3, ge=1, description="draws that the weight decay is chosen on")
    n_folds: int = Field(3, ge=2, description="of the cross-validation")
    max_steps: int = Field(500, ge=1)
    seed: int = Field(0, ge=0)

    @field_validator("sizes")
    @classmethod
    def _rising(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        """Two samples have no deviation in each fold, and a curve has every size once."""
        if not value or min(value) < 3:
            raise ValueError("numbers of samples, each at least 3")
        return tuple(sorted(set(value)))


@dataclass(frozen=True)
class Molecules:
    """A-B-A molecules.

    Attributes:
        features: (n, N_FEATURES), the same when the two outer atoms are exchanged.
        energies: (n,), eV.
    """

    features: Tensor
    energies: Tensor

    def __getitem__(self, rows: slice) -> Molecules:
        return Molecules(self.features[rows], self.energies[rows])

    def __len__(self) -> int:
        return len(self.energies)


def features(positions: np.ndarray) -> np.ndarray:
    """Mean bond length [Å], squared half difference of the bonds [Å²], cosine of the angle.

    Args:
        positions: the middle atom first, (n, 3, 3), Å.
    """
    bonds = positions[:, 1:] - positions[:, :1]
    lengths = np.linalg.norm(bonds, axis=2)
    cosine = (bonds[:, 0] * bonds[:, 1]).sum(1) / lengths.prod(1)
    difference = 0.5 * (lengths[:, 0] - lengths[:, 1])
    return np.stack([lengths.mean(1), difference**2, cosine], axis=1)


def load_molecules(name: str) -> Molecules:
    """`h2o` or `h2s` of the embedded set, in its order: the first n are a sample of size n."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.extxyz"
        packed = SETS / "h2o-h2s" / f"{name}.extxyz.xz"
        path.write_bytes(lzma.decompress(packed.read_bytes()))
        data = load_dataset(path)
        positions = np.stack([frame.positions for frame in data])
        energies = np.array(data.energies)
    return Molecules(torch.from_numpy(features(positions)), torch.from_numpy(energies))


@dataclass(frozen=True)
class Scale:
    """What networks are fed with and asked for: centred, in units of the deviation."""

    center: Tensor
    width: Tensor

    @classmethod
    def of(cls, values: Tensor) -> Scale:
        """Mean and deviation over the samples, (..., n_samples, k)."""
        width = values.std(-2, keepdim=True)
        return cls(values.mean(-2, keepdim=True), torch.where(width > 0, width, 1.0))

    def apply(self, values: Tensor) -> Tensor:
        return (values - self.center) / self.width

    def undo(self, values: Tensor) -> Tensor:
        return values * self.width + self.center


@dataclass(frozen=True)
class Source:
    """The trained network of the source.

    Attributes:
        parameters: (1, n_parameters).
        scale: of its features.
        error: on source frames that it was not trained on, eV/atom.
        decay: the weight decay that was chosen.
    """

    parameters: Tensor
    scale: Scale
    error: float
    decay: float

    def frozen(self, moved: Tensor) -> Tensor:
        """Answers of its last hidden layer, (n, n_samples, HIDDEN[-1]), to features in its place.

        Args:
            moved: features that the domain transfer has moved, (n, n_samples, N_FEATURES).
        """
        sizes = (N_FEATURES, *HIDDEN, 1)
        parameters = self.parameters.expand(len(moved), -1)
        return networks.hidden(parameters, self.scale.apply(moved), sizes)[-1]


def translate(target: Tensor, mean_target: Tensor, mean_source: Tensor) -> Tensor:
    """Domain transfer, `D' = D - mean_target + mean_source`."""
    return target - mean_target + mean_source


Inputs = Callable[[Tensor, Tensor], Tensor]
"""Features of the training samples and features to be evaluated, to inputs of what is trained."""


def scratch_inputs(train: Tensor, x: Tensor) -> Tensor:
    """The control sees features in units of its own samples."""
    return Scale.of(train).apply(x)


def transfer_inputs(source: Source, moved: bool = True) -> Inputs:
    """Transfer trains on what the frozen layers make of the features."""

    def inputs(train: Tensor, x: Tensor) -> Tensor:
        if moved:
            x = translate(x, train.mean(-2, keepdim=True), source.scale.center)
        return source.frozen(x)

    return inputs


def train_source(molecules: Molecules, config: DemoConfig) -> Source:
    """Fit the source: a network from scratch, on all samples but the last tenth."""
    n = min(len(molecules) * 9 // 10, config.n_source)
    learner = Learner(scratch_inputs, (N_FEATURES, *HIDDEN, 1), config)
    x, y = molecules.features[None, :n], molecules.energies[None, :n]
    decay = learner.tune(x, y)
    parameters, _ = learner.train(x, y, x.new_tensor([decay]), max(config.n_starts, 4))
    held = molecules[n:]
    found = learner.answer(parameters, x, y, held.features[None])
    error = float((found[0] - held.energies).square().mean().sqrt()) / N_ATOMS
    return Source(parameters, Scale.of(molecules.features[:n]), error, decay)


class Learner:
    """One way to learn: what networks are fed with, and their widths."""

    def __init__(self, inputs: Inputs, sizes: Sequence[int], config: DemoConfig) -> None:
        self.inputs, self.sizes, self.config = inputs, tuple(sizes), config

    def curve(
        self, pool: Molecules, test: Molecules
    ) -> tuple[dict[int, list[float]], list[dict[str, float]]]:
        """Errors on the test set [eV/atom] of every size's draws, and how they were reached."""
        errors: dict[int, list[float]] = {}
        notes: list[dict[str, float]] = []
        for size in self.config.sizes:
            rng = np.random.default_rng([self.config.seed, size])
            draws = range(self.config.n_draws)
            rows = np.stack([rng.permutation(len(pool))[:size] for _ in draws])
            x, y = pool.features[rows], pool.energies[rows]
            decay = self.tune(x[: self.config.n_tuned], y[: self.config.n_tuned])
            parameters, converged = self.train(
                x, y, x.new_full((len(x),), decay), self.config.n_starts
            )
            held = test.features.expand(len(x), -1, -1)
            wrong = self.answer(parameters, x, y, held) - test.energies
            errors[size] = (wrong.square().mean(1).sqrt() / N_ATOMS).tolist()
            notes.append({"samples": size, "decay": decay, "converged": converged})
        return errors, notes

    def tune(self, x: Tensor, y: Tensor) -> float:
        """The weight decay of least cross-validated error over the draws.

        Args:
            x, y: samples of each draw, (n_draws, n, N_FEATURES) and (n_draws, n).
        """
        choices = torch.tensor(self.config.decays, dtype=torch.float64)
        decays = choices.repeat(len(x))
        all_x, all_y = (t.repeat_interleave(len(choices), 0) for t in (x, y))
        n_folds = min(self.config.n_folds, x.shape[1])
        fold = torch.arange(x.shape[1]) % n_folds
        wrong = torch.zeros_like(choices)
        for k in range(n_folds):
            train, held = fold != k, fold == k
            seen, known = all_x[:, train], all_y[:, train]
            parameters, _ = self.train(seen, known, decays, 1)
            answer = self.answer(parameters, seen, known, all_x[:, held])
            error = (answer - all_y[:, held]).square().mean(1).sqrt()
            wrong += error.reshape(len(x), -1).mean(0)
        return float(choices[wrong.argmin()])

    def train(self, x: Tensor, y: Tensor, decay: Tensor, n_starts: int) -> tuple[Tensor, float]:
        """Fit a network to each draw.

        Args:
            x, y: as in `tune`.
            decay: of each draw, (n_draws,).
            n_starts: starting weights of each.

        Returns:
            The better of its starts, (n_draws, n_parameters), and the part of the fits that
            converged.
        """
        n_draws = len(x)
        inputs, labels = self.inputs(x, x), Scale.of(y[..., None]).apply(y[..., None]).squeeze(2)
        generator = torch.Generator().manual_seed(self.config.seed)
        start = networks.random_parameters(self.sizes, n_starts * n_draws, generator)
        several = (n_starts, *[1] * (inputs.dim() - 1))
        found = networks.fit(
            start,
            inputs.repeat(several),
            labels.repeat(n_starts, 1),
            decay.repeat(n_starts),
            self.sizes,
            self.config.max_steps,
        )
        losses = found.loss.reshape(n_starts, n_draws)
        best = losses.argmin(0) * n_draws + torch.arange(n_draws)
        return found.parameters[best], float(found.converged.double().mean())

    def answer(self, parameters: Tensor, x: Tensor, y: Tensor, held: Tensor) -> Tensor:
        """Energies of other frames, (n_draws, n_held), eV; x and y are the training samples."""
        answer = networks.predict(parameters, self.inputs(x, held), self.sizes)
        return Scale.of(y[..., None]).undo(answer[..., None]).squeeze(2)


def check(config: DemoConfig, n_target: int) -> None:
    """Refuse more samples than there are.

    Raises:
        ConfigError: naming what fits.
    """
    room = n_target - config.n_test
    if max(config.sizes) > room:
        raise ConfigError(
            f"sizes go up to {max(config.sizes)} H2S samples, but with n_test = {config.n_test} of "
            f"{n_target} frames {room} are left to train on"
        )
