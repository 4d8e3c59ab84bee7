"""A labelled set in memory that answers like `siliforce.data.Dataset`."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import torch
from ase import Atoms

from siliforce.data.batch import Batch, Targets
from siliforce.graph import System, Topology, collate


class ToyDataset:
    """Frames are `Atoms`; labels stand in `info` and `arrays` as `energy`, `forces`, `stress`."""

    def __init__(self, frames: Sequence[Atoms]) -> None:
        self.frames = list(frames)
        self.hash = "toy"

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> SimpleNamespace:
        atoms = self.frames[index]
        return SimpleNamespace(
            numbers=atoms.numbers,
            positions=atoms.positions,
            cell=atoms.cell.array,
            pbc=atoms.pbc,
            energy=atoms.info.get("energy", np.nan),
            forces=atoms.arrays.get("forces"),
            stress=atoms.info.get("stress"),
        )

    @property
    def n_atoms(self) -> np.ndarray:
        return np.array([len(a) for a in self.frames])

    @property
    def elements(self) -> tuple[int, ...]:
        return tuple(sorted({int(z) for a in self.frames for z in a.numbers}))

    @property
    def groups(self) -> list[str]:
        return [a.info.get("group", "") for a in self.frames]

    @property
    def config_types(self) -> list[str]:
        return [a.info.get("config_type", "") for a in self.frames]

    def tags(self, name: str) -> list[object]:
        """Raises KeyError where no frame has it."""
        return [a.info[name] for a in self.frames]

    def systems(self, cutoff: float) -> list[System]:
        """Every frame with its neighbours."""
        return [
            System.build(a.numbers, a.positions, a.cell.array, a.pbc, cutoff) for a in self.frames
        ]

    def edge_counts(self, cutoff: float) -> np.ndarray:
        """Neighbours of each frame."""
        return np.array([s.edges.n_edges for s in self.systems(cutoff)])

    def batch(
        self, indices: np.ndarray, cutoff: float, topology: Topology, dtype: torch.dtype
    ) -> Batch:
        """Graph and labels of the frames asked for."""
        systems = self.systems(cutoff)
        chosen = [self[i] for i in indices]

        def stacked(name: str, shape: object) -> torch.Tensor:
            parts = []
            for frame in chosen:
                value = getattr(frame, name)
                size = (len(frame.numbers), 3) if shape == "atoms" else shape
                parts.append(np.full(size, np.nan) if value is None else np.asarray(value))
            joined = np.concatenate(parts) if shape == "atoms" else np.stack(parts)
            return torch.from_numpy(joined.astype(float))

        targets = Targets(
            energy=stacked("energy", ()),
            forces=stacked("forces", "atoms"),
            stress=stacked("stress", (3, 3)),
            n_atoms=torch.tensor([len(f.numbers) for f in chosen]),
            weight=torch.ones(len(chosen), dtype=torch.float64),
            frame_index=torch.as_tensor(np.asarray(indices)),
        )
        return Batch(collate([systems[i] for i in indices], topology, dtype), targets)
