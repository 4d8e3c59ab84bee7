"""Batches from the store equal graphs built from scratch."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms

from siliforce.data import Dataset, Frame
from siliforce.errors import DataError
from siliforce.graph import System, Topology, collate
from tests.unit.data.frames import labelled, some_frames, stored

ALL = Topology(triplets="ordered", closed_triplets=True, reverse_edges=True, pairs=True)


@pytest.fixture
def frames() -> list[Frame]:
    """Crystals, a molecule, an isolated atom, a sheared cell, labels missing."""
    sheared = Atoms("SiGe", [[0, 0, 0], [1, 1.2, 1.4]], cell=[[3, 0, 0], [1, 3, 0], [0.5, 1, 3]])
    sheared.pbc = (True, True, False)
    others = [labelled(Atoms("Si2", [[0, 0, 0], [0, 0, 2.4]])), Frame.from_atoms(Atoms("Ge"))]
    return [*some_frames(2), *others, Frame.from_atoms(sheared, energy=-1.0), *some_frames(1)]


@pytest.mark.parametrize("topology", [Topology(), ALL, Topology(max_neighbors=5)])
@pytest.mark.parametrize("n_stores", [1, 2])
def test_batch_equals_collate(
    tmp_path: Path, frames: list[Frame], topology: Topology, n_stores: int
) -> None:
    half = len(frames) // n_stores
    parts = [stored(tmp_path / str(k), frames[k * half :][:half]) for k in range(n_stores)]
    dataset = Dataset.concatenate(parts)
    rows = [4, 0, 3, 2, 5, 1]
    batch = dataset.batch(rows, 4.0, topology, torch.float64)
    chosen = [frames[k] for k in rows]
    systems = [System.build(f.numbers, f.positions, f.cell, f.pbc, 4.0) for f in chosen]
    expected = collate(systems, topology, torch.float64)
    for field in fields(expected):
        ours, theirs = (getattr(g, field.name) for g in (batch.graph, expected))
        if theirs is None:
            assert ours is None
        elif theirs.is_floating_point():
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
        else:
            assert torch.equal(ours, theirs), field.name
    counts = [s.edges.n_edges for s in systems]
    assert dataset.edge_counts(4.0)[rows].tolist() == counts


def test_targets(tmp_path: Path, frames: list[Frame]) -> None:
    rows = [3, 1, 4]
    targets = stored(tmp_path / "s", frames).batch(rows, 4.0, Topology()).targets
    np.testing.assert_array_equal(targets.energy.numpy(), [np.nan, frames[1].energy, -1.0])
    assert targets.n_atoms.tolist() == [1, 8, 2]
    assert targets.frame_index.tolist() == rows
    np.testing.assert_array_equal(targets.forces[1:9], frames[1].forces)
    assert torch.isnan(targets.forces[[0, 9, 10]]).all()
    np.testing.assert_array_equal(targets.stress[1], frames[1].stress)
    assert torch.isnan(targets.stress[[0, 2]]).all()


def test_batches_own_their_memory(tmp_path: Path, frames: list[Frame]) -> None:
    """What is written into a batch never reaches the store."""
    dataset = stored(tmp_path / "s", frames)
    batch = dataset.batch([0], 4.0, Topology())
    for tensor in (batch.graph.positions, batch.graph.cell, batch.targets.forces):
        tensor.zero_()
    dataset.stores[0].verify()
    np.testing.assert_array_equal(dataset[0].positions, frames[0].positions)


def test_edge_lengths_and_facts(tmp_path: Path, frames: list[Frame]) -> None:
    tagged = [f.replace(tags={"level": f"PBE {k % 2}"}) for k, f in enumerate(frames)]
    dataset = stored(tmp_path / "s", tagged)
    center, neighbor, lengths = dataset.edge_lengths(2, 4.0)
    assert (center.tolist(), neighbor.tolist()) == ([0, 1], [1, 0])
    np.testing.assert_allclose(lengths, 2.4)
    assert dataset.elements == (14, 29, 32)
    assert dataset.compositions == ["Cu", "Cu", "Si", "Ge", "SiGe", "Cu"]
    assert dataset.facts["level_of_theory"] == "PBE ... (frames differ: 2 variants)"
    assert dataset.subset([0, 2]).facts["level_of_theory"] == "PBE 0"


def test_empty_batches_are_refused(tmp_path: Path, frames: list[Frame]) -> None:
    with pytest.raises(DataError, match="at least one frame"):
        stored(tmp_path / "s", frames).batch([], 4.0, Topology())
