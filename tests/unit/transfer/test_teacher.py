"""A cheap potential as teacher: its labels first, then few frames of the truth."""

import lzma

from ase import Atoms
from ase.io import read, write

from siliforce.data import load_dataset
from siliforce.generate import label, make_engine
from siliforce.training import adapt, train
from tests.unit.training.target import target


def test_cheap_labels_then_few_frames_of_the_truth(tmp_path, capsys):
    """The teacher's energy zero is another one: it is found, said, and fitted."""
    truth = target(10, tmp_path / "truth", new=(), zero=-100.0)
    structures = [frame.to_atoms() for frame in truth]
    write(tmp_path / "frames.extxyz", [Atoms(a) for a in structures])
    engine = make_engine({"engine": "stillinger-weber"})
    label(tmp_path / "frames.extxyz", engine, tmp_path / "run", tmp_path / "cheap.extxyz.xz")
    with lzma.open(tmp_path / "cheap.extxyz.xz", "rt") as file:
        assert len(read(file, ":", format="extxyz")) == 10
    config = {"epochs": 6, "batch_size": 2, "lr": 1e-2}
    train(
        load_dataset(tmp_path / "cheap.extxyz.xz"), "schnet", preset="tiny", config=config,
        out=tmp_path / "teacher", quiet=True,
    )  # fmt: skip
    capsys.readouterr()
    settings = {"epochs": 1, "lr": 1e-6}
    found = adapt(
        tmp_path / "teacher", truth.subset(range(5)), train=settings, out=tmp_path / "pupil"
    )
    said = capsys.readouterr().out
    assert "WARNING: the target's energies have another zero than the source's" in said
    assert found.best["valid_energy_mae_mev"] < 500  # and not 100 eV
    assert found.potential().species.symbols == ("Si",)
