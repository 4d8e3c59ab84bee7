"""Neighbour lists and the graph made of them, against brute force."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from ase import Atoms

from siliforce.errors import ConfigError, DataError
from siliforce.graph import Graph, System, Topology, assemble, collate, neighbor_list
from tests.structures import STRUCTURES

CUTOFF = 4.0
EVERYTHING = Topology(triplets="ordered", reverse_edges=True, pairs=True)


def system(atoms: Atoms, cutoff: float = CUTOFF) -> System:
    return System.build(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, cutoff)


def graph(*names: str, topology: Topology = EVERYTHING) -> Graph:
    return collate([system(STRUCTURES[n]()) for n in names], topology, torch.float64)


def brute_force(atoms: Atoms, cutoff: float) -> list[tuple[int, ...]]:
    """(i, j, shift) of every pair, sorted, by going through all images."""
    found = []
    for shift in product(*[range(-4, 5) if p else range(1) for p in atoms.pbc]):
        for i, j in product(range(len(atoms)), repeat=2):
            translation = np.array(shift) @ atoms.cell.array
            distance = np.linalg.norm(atoms.positions[j] - atoms.positions[i] + translation)
            if 0 < distance < cutoff:
                found.append((i, j, *shift))
    return sorted(found)


@pytest.mark.parametrize("name", STRUCTURES)
def test_neighbor_list_is_complete_and_sorted(name: str) -> None:
    atoms = STRUCTURES[name]()
    edges = neighbor_list(atoms.positions, atoms.cell.array, atoms.pbc, CUTOFF)
    columns = np.column_stack([edges.center, edges.neighbor, edges.cell_shifts])
    assert [tuple(row) for row in columns.tolist()] == brute_force(atoms, CUTOFF)


def test_overlapping_atoms_are_named() -> None:
    atoms = Atoms("Si3", positions=[[0, 0, 0], [1, 1, 1], [0, 0, 1e-5]])
    with pytest.raises(DataError, match=r"atoms (0 and 2|2 and 0)"):
        system(atoms)


@pytest.mark.parametrize(
    ("cell", "pbc", "message"),
    [
        (np.zeros((3, 3)), True, "no volume"),
        (np.ones((3, 3)), True, "no volume"),
        (np.full((3, 3), np.nan), False, "NaN"),
    ],
)
def test_bad_cells_are_refused(cell: np.ndarray, pbc: bool, message: str) -> None:
    with pytest.raises(DataError, match=message):
        neighbor_list(np.zeros((1, 3)), cell, np.array([pbc] * 3), CUTOFF)


def test_bad_positions_and_cutoff_are_refused() -> None:
    with pytest.raises(DataError, match="NaN"):
        neighbor_list(np.full((1, 3), np.nan), np.eye(3), np.zeros(3, bool), CUTOFF)
    with pytest.raises(DataError, match="cutoff is -1"):
        neighbor_list(np.zeros((1, 3)), np.eye(3), np.zeros(3, bool), -1.0)


def test_a_slab_without_third_vector_is_the_slab_with_one() -> None:
    atoms = STRUCTURES["mixed_pbc"]()
    without = atoms.cell.array.copy()
    without[2] = 0.0
    a = neighbor_list(atoms.positions, without, atoms.pbc, CUTOFF)
    b = neighbor_list(atoms.positions, atoms.cell.array, atoms.pbc, CUTOFF)
    assert np.array_equal(a.center, b.center)
    assert np.array_equal(a.neighbor, b.neighbor)


def test_edge_vectors_lead_to_images_of_the_neighbor() -> None:
    atoms = STRUCTURES["triclinic"]()
    one = graph("triclinic")
    arrived = atoms.positions[one.center] + one.edge_vectors.numpy()
    fractional = np.linalg.solve(atoms.cell.array.T, (arrived - atoms.positions[one.neighbor]).T)
    np.testing.assert_allclose(fractional, fractional.round(), atol=1e-9)
    assert (one.edge_lengths < CUTOFF).all()


@pytest.mark.parametrize("name", STRUCTURES)
def test_reverse_edges_and_pairs(name: str) -> None:
    one = graph(name)
    reverse, pair = one.reverse_edges, one.edge_pairs
    torch.testing.assert_close(one.edge_vectors[reverse], -one.edge_vectors, rtol=0, atol=1e-12)
    assert torch.equal(one.center[reverse], one.neighbor)
    assert torch.equal(pair[reverse], pair)
    assert 2 * len(one.pair_edges) == one.n_edges
    assert torch.equal(pair[one.pair_edges], torch.arange(len(one.pair_edges)))


@pytest.mark.parametrize("name", STRUCTURES)
def test_triplets_are_all_pairs_of_edges_at_an_atom(name: str) -> None:
    one = graph(name)
    expected = [
        (a, b)
        for a, b in product(range(one.n_edges), repeat=2)
        if a != b and one.center[a] == one.center[b]
    ]
    assert [tuple(t) for t in one.triplets.T.tolist()] == expected
    unordered = graph(name, topology=Topology(triplets="unordered")).triplets
    assert [tuple(t) for t in unordered.T.tolist()] == [(a, b) for a, b in expected if a < b]


@pytest.mark.parametrize("name", STRUCTURES)
def test_closed_triplets_have_a_third_side_within_the_cutoff(name: str) -> None:
    every = graph(name, topology=Topology(triplets="unordered"))
    closed = graph(name, topology=Topology(triplets="unordered", closed_triplets=True))
    vectors = every.edge_vectors[every.triplets]
    short = (vectors[0] - vectors[1]).norm(dim=1) < CUTOFF
    kept = set(map(tuple, closed.triplets.T.tolist()))
    assert set(map(tuple, every.triplets[:, short].T.tolist())) == kept


def test_batch_is_the_systems_side_by_side() -> None:
    names = ("self_images", "isolated", "cluster")
    batch, parts = graph(*names), [graph(n) for n in names]
    assert torch.equal(batch.edge_vectors, torch.cat([p.edge_vectors for p in parts]))
    edges, atoms = 0, 0
    for index, part in enumerate(parts):
        inside = slice(edges, edges + part.n_edges)
        assert torch.equal(batch.center[inside] - atoms, part.center)
        assert torch.equal(batch.neighbor[inside] - atoms, part.neighbor)
        assert torch.equal(batch.reverse_edges[inside] - edges, part.reverse_edges)
        assert (batch.system_index[batch.center[inside]] == index).all()
        edges, atoms = edges + part.n_edges, atoms + part.n_atoms
    first = torch.searchsorted(batch.center, torch.arange(batch.n_atoms + 1))
    assert torch.equal(batch.edge_ptr, first)


def test_max_neighbors_keeps_the_nearest() -> None:
    every = graph("crystal", "cluster")
    capped = graph("crystal", "cluster", topology=Topology(max_neighbors=5))
    for atom in range(every.n_atoms):
        nearest = every.edge_lengths[every.center == atom].sort().values[:5]
        kept = capped.edge_lengths[capped.center == atom].sort().values
        torch.testing.assert_close(kept, nearest)


def test_a_capped_list_has_pairs_but_no_reverse_edges() -> None:
    with pytest.raises(ConfigError, match="no reverse edge"):
        graph("amorphous", topology=Topology(max_neighbors=5, reverse_edges=True))
    capped = graph("amorphous", topology=Topology(max_neighbors=5, pairs=True))
    torch.testing.assert_close(
        capped.edge_lengths[capped.pair_edges][capped.edge_pairs], capped.edge_lengths
    )


def test_moved_recomputes_the_vectors() -> None:
    one = graph("triclinic", "cluster")
    shift = torch.randn(one.n_atoms, 3, dtype=torch.float64)
    moved = one.moved(one.positions + shift)
    expected = one.edge_vectors + shift[one.neighbor] - shift[one.center]
    torch.testing.assert_close(moved.edge_vectors, expected)
    stretched = one.moved(one.positions * 1.1, one.cell * 1.1)
    torch.testing.assert_close(stretched.edge_vectors, one.edge_vectors * 1.1)


def test_assembled_from_arrays_is_what_collate_gives() -> None:
    batch = graph("crystal", "self_images")
    again = assemble(
        numbers=batch.numbers,
        positions=batch.positions,
        sizes=torch.bincount(batch.system_index),
        cell=batch.cell,
        pbc=batch.pbc,
        center=batch.center,
        neighbor=batch.neighbor,
        cell_shifts=batch.cell_shifts,
        topology=EVERYTHING,
        dtype=torch.float64,
    )
    assert torch.equal(again.edge_vectors, batch.edge_vectors)
    assert torch.equal(again.triplets, batch.triplets)
