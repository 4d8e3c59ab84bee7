"""The store keeps frames bit for bit, and whole, whatever happens while writing."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from siliforce.data import Dataset, Frame, Store
from siliforce.data import store as store_module
from siliforce.data.neighbor_cache import NeighborCache
from siliforce.errors import DataError
from siliforce.graph.neighbors import neighbor_list
from tests.unit.data.frames import labelled, some_frames, stored


def assert_equal(a: Frame, b: Frame) -> None:
    assert a.digest() == b.digest()
    assert (a.group, a.config_type, a.tags, a.weight, a.source) == (
        b.group,
        b.config_type,
        b.tags,
        b.weight,
        b.source,
    )


@pytest.fixture
def mixed() -> list[Frame]:
    """With and without labels, cell, group."""
    bare = Frame.from_atoms(Atoms("SiO", [[0, 0, 0], [0, 0, 1.6]]), tags={"T": 300.0}, weight=2.0)
    return [*some_frames(3, group="run"), bare, labelled(Atoms("Si2", [[0, 0, 0], [0, 0, 2.4]]))]


def test_frames_come_back_bit_for_bit(tmp_path: Path, mixed: list[Frame]) -> None:
    Store.create(tmp_path / "s").append(mixed)
    again = Store.open(tmp_path / "s")
    assert len(again) == len(mixed)
    for i, frame in enumerate(mixed):
        assert_equal(again[i], frame)
    assert again[3].forces is None
    assert np.isnan(again[3].energy)
    again.verify()


def test_appending_extends(tmp_path: Path, mixed: list[Frame]) -> None:
    store = Store.create(tmp_path / "s")
    store.append(mixed[:2], licence="mine")
    Store.open(tmp_path / "s").append(mixed[2:])
    again = Store.open(tmp_path / "s")
    assert again.facts["licence"] == "mine"
    for i, frame in enumerate(mixed):
        assert_equal(again[i], frame)


@pytest.mark.parametrize("damage", ["extra", "fewer"])
def test_rest_of_a_killed_append_is_ignored(
    tmp_path: Path, mixed: list[Frame], damage: str
) -> None:
    """What lies behind the visible part does not count, and is overwritten."""
    store = Store.create(tmp_path / "s")
    store.append(mixed[:2])
    for name in ("frames.bin", "numbers.bin", "positions.bin", "forces.bin", "texts.jsonl"):
        if damage == "extra" or name == "frames.bin":
            with (tmp_path / "s" / name).open("ab") as file:
                file.write(b"rest of a killed append")
    store = Store.open(tmp_path / "s")
    assert len(store) == 2
    store.append(mixed[2:])
    store.verify()
    assert len(store) == len(mixed)


KILLED = """
import sys
from siliforce.data import Store
from tests.unit.data.frames import some_frames
frames = some_frames(4)
store = Store.open(sys.argv[1])
print("ready", flush=True)
while True:
    store.append(frames)
"""


def test_killed_process_leaves_whole_frames(tmp_path: Path) -> None:
    Store.create(tmp_path / "s")
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path / "s")],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    store = Store.open(tmp_path / "s")
    assert len(store) % 4 == 0
    store.verify()
    store.append(some_frames(4))
    Store.open(tmp_path / "s").verify()


def test_full_disk_keeps_what_was_there(
    tmp_path: Path, mixed: list[Frame], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.create(tmp_path / "s")
    store.append(mixed[:2])
    written = store_module.write_at

    def full(path: Path, start: int, content: bytes) -> None:
        if path.name == "forces.bin":
            written(path, start, content[:40])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written(path, start, content)

    monkeypatch.setattr(store_module, "write_at", full)
    with pytest.raises(OSError, match="No space"):
        store.append(mixed[2:])
    monkeypatch.undo()
    again = Store.open(tmp_path / "s")
    assert len(again) == 2
    again.verify()
    again.append(mixed[2:])
    again.verify()


def test_damage_is_named(tmp_path: Path, mixed: list[Frame]) -> None:
    Store.create(tmp_path / "s").append(mixed)
    path = tmp_path / "s" / "positions.bin"
    content = bytearray(path.read_bytes())
    content[30] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"frame 0 .*damaged"):
        Store.open(tmp_path / "s").verify()
    path.write_bytes(content[:-8])
    with pytest.raises(DataError, match=r"positions\.bin is damaged"):
        Store.open(tmp_path / "s")
    path.unlink()
    with pytest.raises(DataError, match="missing"):
        Store.open(tmp_path / "s")


def test_damaged_texts_and_meta(tmp_path: Path, mixed: list[Frame]) -> None:
    Store.create(tmp_path / "s").append(mixed)
    texts = tmp_path / "s" / "texts.jsonl"
    texts.write_bytes(b"\x00" * texts.stat().st_size)
    with pytest.raises(DataError, match=r"texts\.jsonl is damaged"):
        Store.open(tmp_path / "s")[0]
    (tmp_path / "s" / "meta.json").write_text("{")
    with pytest.raises(DataError, match=r"meta\.json is damaged"):
        Store.open(tmp_path / "s")


def test_other_versions_and_other_folders(tmp_path: Path) -> None:
    Store.create(tmp_path / "s")
    with pytest.raises(DataError, match="exists already"):
        Store.create(tmp_path / "s")
    meta = json.loads((tmp_path / "s" / "meta.json").read_text())
    (tmp_path / "s" / "meta.json").write_text(json.dumps(meta | {"siliforce_store": 99}))
    with pytest.raises(DataError, match="format 99"):
        Store.open(tmp_path / "s")
    with pytest.raises(DataError, match="not a store"):
        Store.open(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions": np.full((8, 3), np.nan)}, "positions hold NaN"),
        ({"forces": np.full((8, 3), np.inf)}, "forces hold NaN"),
        ({"forces": np.zeros((7, 3))}, "shape"),
        ({"energy": np.inf}, "infinite"),
        ({"cell": np.zeros((3, 3))}, "no volume"),
        ({"cell": np.diag([3.0, 3.0, 0.0])}, "no volume"),
        ({"stress": np.full((3, 3), np.nan)}, "stress hold NaN"),
        ({"numbers": np.zeros(8, int)}, "atomic number"),
        ({"numbers": np.zeros(0, int), "positions": np.zeros((0, 3))}, "no atoms"),
    ],
)
def test_unusable_frames_are_refused(tmp_path: Path, change: dict, message: str) -> None:
    store, frames = Store.create(tmp_path / "s"), some_frames(2)
    with pytest.raises(DataError, match=message):
        store.append([frames[0], frames[1].replace(**change)])
    assert len(Store.open(tmp_path / "s")) == 0


def test_neighbor_cache_equals_the_builder(tmp_path: Path, mixed: list[Frame]) -> None:
    dataset = stored(tmp_path / "s", mixed)
    cache = NeighborCache(dataset.stores[0], 4.0)
    for i, frame in enumerate(mixed):
        expected = neighbor_list(frame.positions, frame.cell, frame.pbc, 4.0)
        edges = cache.edges(i)
        np.testing.assert_array_equal(cache.neighbor[edges], expected.neighbor)
        np.testing.assert_array_equal(cache.shift[edges], expected.cell_shifts)
        assert cache.edge_counts[i] == expected.n_edges


def test_neighbor_cache_follows_the_store(tmp_path: Path) -> None:
    frames = some_frames(5)
    store = Store.create(tmp_path / "s")
    store.append(frames[:3])
    NeighborCache(store, 4.0)
    before = (tmp_path / "s" / "neighbors-4" / "neighbor.bin").stat()
    NeighborCache(store, 4.0)  # nothing to do
    assert (tmp_path / "s" / "neighbors-4" / "neighbor.bin").stat() == before
    store.append(frames[3:])
    fresh = NeighborCache(stored(tmp_path / "t", frames).stores[0], 4.0)
    np.testing.assert_array_equal(NeighborCache(store, 4.0).neighbor, fresh.neighbor)


@pytest.mark.parametrize("damage", ["meta", "array"])
def test_damaged_neighbor_cache_is_made_again(tmp_path: Path, damage: str) -> None:
    store = stored(tmp_path / "s", some_frames(3)).stores[0]
    expected = np.array(NeighborCache(store, 4.0).neighbor)
    folder = tmp_path / "s" / "neighbors-4"
    name = "meta.json" if damage == "meta" else "neighbor.bin"
    (folder / name).write_bytes((folder / name).read_bytes()[:-5])
    np.testing.assert_array_equal(NeighborCache(store, 4.0).neighbor, expected)


def test_overlapping_atoms_are_named(tmp_path: Path) -> None:
    frames = some_frames(2)
    doubled = frames[1].positions.copy()
    doubled[3] = doubled[0]
    dataset = stored(tmp_path / "s", [frames[0], frames[1].replace(positions=doubled)])
    with pytest.raises(DataError, match=r"frame:1: atoms \d and \d"):
        dataset.edge_counts(4.0)


def test_datasets_of_several_stores(tmp_path: Path) -> None:
    frames = some_frames(6)
    parts = [stored(tmp_path / str(k), frames[3 * k : 3 * k + 3]) for k in range(2)]
    both = Dataset.concatenate(parts)
    assert [f.digest() for f in both] == [f.digest() for f in frames]
    chosen = both.subset([4, 0]).subset([1, 0])
    assert [f.source for f in chosen] == ["frame:0", "frame:4"]
    assert chosen.hash == both.subset([0, 4]).hash != both.hash
