"""Sources trained jointly: each its own L1 and bias, one network, one trainer."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from siliforce.data import Dataset
from siliforce.errors import ConfigError, DataError
from siliforce.models.bpnn_transfer import TransferBPNN
from siliforce.potential import Potential
from siliforce.species import Species
from siliforce.training import train
from siliforce.training.adapt import adapt
from siliforce.training.joint import SOURCES, JointPotential, sources_of
from tests.cases import graph_of
from tests.unit.training.target import target

SI, SIGE, SISN = (14,), (14, 32), (14, 50)
CONFIG = {"epochs": 2, "joint": True, "batch_size": 3, "dtype": "float64", "device": "cpu"}


@pytest.fixture(scope="module")
def frames(tmp_path_factory) -> Dataset:
    """Pure silicon, and silicon with germanium or tin."""
    root = tmp_path_factory.mktemp("frames")
    pure = target(6, root / "si", new=())
    return Dataset.concatenate([pure, target(6, root / "ge"), target(6, root / "sn", new=("Sn",))])


@pytest.fixture
def joint() -> JointPotential:
    torch.manual_seed(0)
    model = TransferBPNN(TransferBPNN.presets["tiny"], 3)
    potential = Potential(model, Species((14, 32, 50)), [-1.0, -2.0, -3.0]).set_dtype(torch.float64)
    joint = JointPotential(potential, [SI, SIGE, SISN])
    with torch.no_grad():
        for table in model._own():
            table.weight += 0.1 * torch.randn_like(table.weight)
    return joint


def test_rows_are_told_by_the_elements_of_a_frame(joint, frames) -> None:
    assert joint.model.n_species == 5
    assert joint.rows.tolist() == [[0, -1, -1], [1, 2, -1], [3, -1, 4]]
    atoms = [frames[k].to_atoms() for k in (0, 6, 12)]
    species = joint.with_species(graph_of(joint, atoms)).species.reshape(3, 8)
    for k, (host, other) in enumerate([(0, 0), (1, 2), (3, 4)]):
        new = atoms[k].numbers != 14
        assert (species[k][torch.tensor(~new)] == host).all()
        assert (species[k][torch.tensor(new)] == other).all()
    atoms[0].symbols[:2] = ["Ge", "Sn"]
    with pytest.raises(DataError, match="other elements than any of the sources"):
        joint(graph_of(joint, atoms[:1]))


def test_each_source_is_a_potential_of_its_own(joint, frames) -> None:
    atoms = [frames[k].to_atoms() for k in (0, 6, 12)]
    together = joint(graph_of(joint, atoms))
    for k, structure in enumerate(atoms):
        alone = joint.single(k)(graph_of(joint, [structure]))
        torch.testing.assert_close(alone.energy[0], together.energy[k])
        torch.testing.assert_close(alone.forces, together.forces.reshape(3, 8, 3)[k])
        shared, own = joint.model, joint.single(k).model
        for one, other in zip(shared.layers, own.layers, strict=True):
            assert torch.equal(one.weight.weight, other.weight.weight)
    assert torch.equal(
        joint.single().model.slope.weight[0], joint.model.slope.weight[[0, 1, 3]].mean(0)
    )


def test_sources_learn_together_and_a_target_from_them(frames, tmp_path) -> None:
    result = train(
        frames, "bpnn_transfer", preset="tiny", config=CONFIG, out=tmp_path / "joint", quiet=True
    )
    files = sorted((tmp_path / "joint" / SOURCES).iterdir())
    assert [f.stem for f in files] == ["Si", "SiGe", "SiSn"]
    singles = [Potential.load(f).model for f in files]
    for one in singles[1:]:
        for mine, first in zip(one.layers, singles[0].layers, strict=True):
            assert torch.equal(mine.weight.weight, first.weight.weight)
        assert not torch.equal(one.slope.weight[0], singles[0].slope.weight[0])
    merged = result.potential()
    silicon = [merged.species.numbers.index(14)] * 3
    slopes = torch.stack([m.slope.weight[s] for m, s in zip(singles, silicon, strict=True)])
    torch.testing.assert_close(merged.model.slope.weight[silicon[0]], slopes.mean(0))
    foreign = target(6, tmp_path / "h", new=("H",))
    policy = {"epochs": 1, "policy": {"parts": {"input": 1.0}}}
    adapted = adapt(result.run_dir, foreign, train=policy, out=tmp_path / "run", quiet=True)
    kept, old = adapted.potential().model, merged.model
    for one, other in zip(kept.layers, old.layers, strict=True):
        assert torch.equal(one.weight.weight[:3], other.weight.weight)


def test_a_joint_training_can_be_continued(frames, tmp_path) -> None:
    """One epoch, then one more, is as two."""

    def run(epochs: int, name: str, restart: str = "never") -> Potential:
        config = CONFIG | {"max_time": 1e6, "schedule": "constant", "epochs": epochs, "ema": None}
        out = tmp_path / name
        return train(frames, "bpnn_transfer", preset="tiny", config=config, out=out,
                     restart=restart, quiet=True).potential()  # fmt: skip

    first = run(2, "a")
    again = run(2, "a", "auto")
    for one, other in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_what_cannot_be_trained_jointly(frames, tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"SchNet has no layer .* --model bpnn_transfer has"):
        train(frames, "schnet", preset="tiny", config=CONFIG, out=tmp_path / "a", quiet=True)
    alone = frames.subset(np.arange(6))
    assert sources_of(frames) == [SI, SIGE, SISN]
    with pytest.raises(DataError, match="two or more different sets of elements"):
        train(alone, "bpnn_transfer", preset="tiny", config=CONFIG, out=tmp_path / "b", quiet=True)
