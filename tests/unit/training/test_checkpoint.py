"""Checkpoints survive kills, full disks and damage."""

import errno

import pytest
import torch

from siliforce.errors import ModelFileError
from siliforce.training import checkpoint
from siliforce.training.checkpoint import LAST, NEXT, PREVIOUS, Snapshot


def snapshot(value=1.0):
    tensors = {
        "a": torch.full((3, 2), value, dtype=torch.float64),
        "scalar": torch.tensor(value),
        "empty": torch.zeros(0, 4),
        "bytes": torch.arange(5, dtype=torch.uint8),
        "flags": torch.tensor([True, False]),
    }
    return Snapshot(tensors, {"step": value, "infinite": float("inf")})


def test_round_trip(tmp_path):
    checkpoint.save(tmp_path, snapshot())
    back, complaints = checkpoint.load(tmp_path)
    assert not complaints
    for name, tensor in snapshot().tensors.items():
        assert back.tensors[name].dtype == tensor.dtype
        assert torch.equal(back.tensors[name], tensor)
    assert back.header["step"] == 1.0
    assert back.header["infinite"] == float("inf")


def test_two_are_kept(tmp_path):
    for value in (1.0, 2.0, 3.0):
        checkpoint.save(tmp_path, snapshot(value))
    assert sorted(p.name for p in tmp_path.iterdir()) == [LAST, PREVIOUS]
    assert checkpoint.read(tmp_path / LAST).header["step"] == 3
    assert checkpoint.read(tmp_path / PREVIOUS).header["step"] == 2


def truncate(path):
    path.write_bytes(path.read_bytes()[:-5])


def flip(path):
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(bytes(data))


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncate, flip, empty])
def test_damage_is_noticed_and_the_one_before_is_used(tmp_path, damage):
    checkpoint.save(tmp_path, snapshot(1.0))
    checkpoint.save(tmp_path, snapshot(2.0))
    damage(tmp_path / LAST)
    back, complaints = checkpoint.load(tmp_path)
    assert back.header["step"] == 1
    assert len(complaints) == 1
    assert "damaged" in complaints[0]
    damage(tmp_path / PREVIOUS)
    with pytest.raises(ModelFileError, match="no other checkpoint is left"):
        checkpoint.load(tmp_path)


def test_another_version_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "FORMAT_VERSION", 99)
    checkpoint.save(tmp_path, snapshot())
    monkeypatch.undo()
    with pytest.raises(ModelFileError, match="format version 99"):
        checkpoint.load(tmp_path)


def test_full_disk_leaves_the_old_ones(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, snapshot(1.0))

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(tmp_path, snapshot(2.0))
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == [LAST]
    assert checkpoint.load(tmp_path)[0].header["step"] == 1


@pytest.mark.parametrize("dies_before", [1, 2])
def test_a_kill_between_the_renames_loses_nothing(tmp_path, monkeypatch, dies_before):
    checkpoint.save(tmp_path, snapshot(1.0))
    from pathlib import Path

    real, calls = Path.replace, []

    def replace(self, target):
        if self.name in (LAST, NEXT):
            calls.append(self)
            if len(calls) == dies_before:
                raise KeyboardInterrupt
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(tmp_path, snapshot(2.0))
    monkeypatch.undo()
    assert checkpoint.exists(tmp_path)
    assert checkpoint.load(tmp_path)[0].header["step"] == 2
    checkpoint.save(tmp_path, snapshot(3.0))
    assert checkpoint.load(tmp_path)[0].header["step"] == 3


def test_none_there(tmp_path):
    assert not checkpoint.exists(tmp_path)
    with pytest.raises(ModelFileError, match="no checkpoint"):
        checkpoint.load(tmp_path)
