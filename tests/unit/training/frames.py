"""What the training tests share: a dataset in memory, a tiny potential, a trainer.

The dataset has Morse labels and the interface of `siliforce.data.Dataset`, nothing more.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.morse import MorsePotential

from siliforce.data.batch import Batch, Targets
from siliforce.graph import System, Topology, collate
from siliforce.models import get_model
from siliforce.potential import Potential
from siliforce.species import Species
from siliforce.training.console import Console
from siliforce.training.distributed import World
from siliforce.training.settings import TrainConfig
from siliforce.training.trainer import Trainer


@dataclass
class MemoryDataset:
    """Frames with labels; any label may be NaN."""

    atoms: list[Atoms]
    energy: np.ndarray
    forces: list[np.ndarray]
    stress: np.ndarray
    weight: np.ndarray
    _cache: dict[tuple[int, float], System] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.atoms)

    @property
    def n_atoms(self) -> np.ndarray:
        return np.array([len(a) for a in self.atoms])

    @property
    def energies(self) -> np.ndarray:
        return self.energy

    @property
    def elements(self) -> tuple[int, ...]:
        return tuple(sorted({int(z) for a in self.atoms for z in a.numbers}))

    @property
    def hash(self) -> str:
        return hashlib.sha256(b"".join(a.positions.tobytes() for a in self.atoms)).hexdigest()

    def subset(self, indices: list[int] | np.ndarray) -> MemoryDataset:
        k = np.asarray(indices)
        return MemoryDataset(
            [self.atoms[i] for i in k],
            self.energy[k],
            [self.forces[i] for i in k],
            self.stress[k],
            self.weight[k],
        )

    def edge_counts(self, cutoff: float) -> np.ndarray:
        return np.array([self._system(i, cutoff).edges.n_edges for i in range(len(self))])

    def batch(
        self, indices: np.ndarray, cutoff: float, topology: Topology, dtype: torch.dtype
    ) -> Batch:
        graph = collate([self._system(i, cutoff) for i in indices], topology, dtype)
        t = torch.from_numpy
        targets = Targets(
            energy=t(self.energy[indices]),
            forces=t(np.concatenate([self.forces[i] for i in indices])),
            stress=t(self.stress[indices]),
            n_atoms=t(self.n_atoms[indices]),
            weight=t(self.weight[indices]),
            frame_index=t(np.asarray(indices, dtype=np.int64)),
        )
        return Batch(graph, targets)

    def _system(self, i: int, cutoff: float) -> System:
        a = self.atoms[i]
        key = (id(a), cutoff)
        if key not in self._cache:
            self._cache[key] = System.build(a.numbers, a.positions, np.array(a.cell), a.pbc, cutoff)
        return self._cache[key]


def morse_silicon(n: int, seed: int = 0) -> MemoryDataset:
    """Rattled, strained diamond cells of 2 to 8 atoms."""
    rng = np.random.default_rng(seed)
    frames = []
    for k in range(n):
        atoms = bulk("Si", cubic=k % 3 != 0)
        atoms.set_cell(
            atoms.cell @ (np.eye(3) + rng.normal(scale=0.02, size=(3, 3))), scale_atoms=True
        )
        atoms.positions += rng.normal(scale=0.1, size=atoms.positions.shape)
        frames.append(atoms)
    calc = MorsePotential(epsilon=0.8, r0=2.4, rho0=4.0, rcut1=3.4, rcut2=4.0)
    for atoms in frames:
        atoms.calc = calc
    labels = [(a.get_potential_energy(), a.get_forces(), a.get_stress(voigt=False)) for a in frames]
    energy, forces, stress = zip(*labels, strict=True)
    return MemoryDataset(frames, np.array(energy), list(forces), np.array(stress), np.ones(n))


def schnet_potential(data: MemoryDataset, dtype: torch.dtype = torch.float64) -> Potential:
    """A tiny SchNet with seeded weights."""
    cls = get_model("schnet")
    torch.manual_seed(0)
    model = cls(cls.presets["tiny"], len(data.elements), mean_neighbors=20.0)
    energy = data.energy[np.isfinite(data.energy)].sum() / data.n_atoms.sum()
    e0 = [energy] * len(data.elements)
    return Potential(model, Species(data.elements), e0, scale=1.5).set_dtype(dtype)


def make_trainer(
    run_dir: Path,
    n_train: int = 12,
    n_valid: int = 4,
    batch_size: int = 4,
    max_edges: int = 100_000,
    world: World | None = None,
    data: MemoryDataset | None = None,
    console: Console | None = None,
    **options: Any,
) -> Trainer:
    """A trainer on Morse silicon; `options` are those of `TrainConfig`."""
    data = data if data is not None else morse_silicon(n_train + n_valid)
    train = data.subset(np.arange(n_train))
    valid = data.subset(np.arange(n_train, n_train + n_valid))
    defaults: dict[str, Any] = {"epochs": 3, "lr": 5e-3, "dtype": "float64"}
    config = TrainConfig(**(defaults | options))
    run_dir.mkdir(parents=True, exist_ok=True)
    potential = schnet_potential(train, config.torch_dtype)
    return Trainer(
        potential, train, valid, config, run_dir,
        batch_size=batch_size, max_edges=max_edges, world=world, console=console,
    )  # fmt: skip


def weights(potential: Potential) -> torch.Tensor:
    """All parameters in one vector."""
    return torch.cat([p.detach().flatten() for p in potential.parameters()])


class Heard(Console):
    """Collects what is said."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    def __contains__(self, part: str) -> bool:
        return any(part in line for line in self.lines)
