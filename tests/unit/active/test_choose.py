"""Which frames are chosen: uncertain ones, no copies, none where the error is small enough."""

import numpy as np
import pytest
from ase.build import bulk
from ase.io import read

from siliforce.active.choose import choose, pick, sound
from siliforce.data import Frame, load_dataset
from siliforce.errors import ConfigError, DataError
from siliforce.training import train
from tests.cases import CASES, build_potential
from tests.run_folders import store_of
from tests.unit.training.target import target

SCHNET = next(c for c in CASES if c.model == "schnet")


def test_the_most_uncertain_come_first_and_copies_never():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(10, 4))
    errors = np.linspace(1, 2, 10)
    assert pick(errors, features, None, 1) == [9]
    copied = np.concatenate([features, features[9:]])
    rows = pick(np.append(errors, 2.1), copied, None, 11)
    assert rows[0] == 10
    assert 9 not in rows
    assert len(rows) == 10
    known = pick(errors, features, features[[9, 8]], 3)
    assert not {8, 9} & set(known)


def test_a_near_copy_gives_way_to_a_frame_of_another_kind():
    features = np.array([[0.0, 0.0], [0.01, 0.0], [1.0, 0.0], [0.0, 1.0]])
    errors = np.array([1.0, 0.99, 0.5, 0.4])
    assert pick(errors, features, None, 3) == [0, 2, 3]


def test_atoms_that_overlap_are_not_labelled():
    good = bulk("Si", cubic=True)
    bad = good.copy()
    bad.positions[1] = bad.positions[0] + [0.3, 0, 0]
    assert sound(good)
    assert not sound(bad)


@pytest.fixture
def ready(tmp_path):
    """Two models, held-out frames, and a pool without labels with one broken and one double."""
    files = []
    for k in range(2):
        files.append(tmp_path / f"{k}.safetensors")
        build_potential(SCHNET, seed=k).save(files[-1])
    held = target(4, tmp_path / "held", new=())
    frames = [Frame.from_atoms(f.to_atoms()) for f in target(6, tmp_path / "p", new=(), seed=7)]
    broken = frames[0].positions.copy()
    broken[1] = broken[0] + [0.4, 0, 0]
    pool = [*frames, frames[2], frames[0].replace(positions=broken)]
    return store_of(pool, tmp_path / "pool"), files, held


def test_from_a_pool_to_a_file(ready, tmp_path):
    pool, files, held = ready
    found = choose(pool, files, 20, calibrate_on=held, below=1e-6)
    assert found.stop is False
    assert len(found.frames) == 6
    assert found.result.provenance["n_overlapping"] == 1
    assert "the rest copy them" in found.result.provenance["sentences"][-1]
    path = found.write(tmp_path / "next.extxyz")
    back = read(path, ":")
    assert [a.info["predicted_force_error"] for a in back] == pytest.approx(
        [row["error"] / 1e3 for row in found.result.tables["chosen"]], abs=1e-5
    )
    assert all(a.calc is None or "forces" not in a.calc.results for a in back)
    assert len(load_dataset(path)) == 6
    few = choose(pool, files, 2, calibrate_on=held)
    assert [r["row"] for r in few.result.tables["chosen"]] == [
        r["row"] for r in found.result.tables["chosen"][:2]
    ]
    assert few.stop is None


def test_frames_that_are_labelled_are_not_proposed_whatever_they_were_used_for(ready, tmp_path):
    """Held-out frames of the run, and those named for the calibration, are labelled as well."""
    pool, files, held = ready
    mixed = store_of([*pool, *held], tmp_path / "mixed")
    found = choose(mixed, files, 20, calibrate_on=held)
    assert {row["row"] for row in found.result.tables["chosen"]} <= set(range(len(pool)))
    run = {"epochs": 1, "batch_size": 2}
    target(8, tmp_path / "si", new=(), seed=3)
    own = str(tmp_path / "si")
    train(own, "schnet", preset="tiny", config=run, out=tmp_path / "run", quiet=True)
    again = choose(own, tmp_path / "run", 5, calibrate_on=held)
    assert again.frames == []
    assert "no frames are chosen" in again.result.provenance["sentences"][-1]


def test_where_the_error_is_small_enough_nothing_is_chosen(ready):
    pool, files, held = ready
    found = choose(pool, files, 3, calibrate_on=held, below=1e6)
    assert found.stop is True
    assert found.frames == []
    assert found.result.provenance["sentences"][-1] == "No frame is chosen."


def test_bad_input(ready):
    pool, files, held = ready
    with pytest.raises(DataError, match="name some with forces, by --calibrate"):
        choose(pool, files, 3)
    with pytest.raises(DataError, match="they are the same model"):
        choose(pool, [files[0], files[0]], 3, calibrate_on=held)
    with pytest.raises(DataError, match="held-out frames with forces"):
        choose(pool, files, 3, calibrate_on=pool.subset([0]))
    with pytest.raises(ConfigError, match="choose at least one"):
        choose(pool, files, 0, calibrate_on=held)
    with pytest.raises(DataError, match="atoms overlap"):
        choose(pool.subset([7]), files, 1, calibrate_on=held)
