"""Protocols: what they list, that they run, that they resume; SAMD23's own at toy length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from ase.build import bulk
from ase.calculators.calculator import kptdensity2monkhorstpack
from ase.io import read, write

from siliforce.errors import ConfigError, DataError
from siliforce.generate import load_protocol, plan, run
from siliforce.generate.engines import make_engine
from siliforce.generate.engines.base import Engine
from siliforce.generate.pipeline import gather
from siliforce.generate.protocols import Protocol
from siliforce.generate.runner import slug
from siliforce.generate.sampling import Stage, sample
from siliforce.jobs import JobFailed

CONFIGS = Path(__file__).parents[2] / "src" / "siliforce" / "configs" / "generate"
PROTOCOLS = sorted(CONFIGS.glob("*.yaml"))


def shortened(path: Path, lj: dict[str, Any]) -> Protocol:
    """A shipped protocol with the same starts and stages, one step per stage,
    unit cells in place of supercells, and Lennard-Jones in place of DFT."""
    content = load_protocol(path).model_dump()
    for stages in content["recipes"].values():
        for stage in stages:
            stage |= {"fs": 0.2, "every_fs": 0.2}
            if stage["temperature"] is not None:
                stage["temperature"] = 100.0
    for start in content["starts"]:
        start["temperatures"] = start["temperatures"][:1] * len(start["temperatures"])
        start["repeat"] = (1, 1, 1)
        start["count"] = min(start["count"], 20)
        if start["random"]:
            start["random"], start["density"] = "Si3N4" if "N" in start["random"] else "Si4", 0.8
    soft = {**lj, "settings": {**lj["settings"], "sigma": 1.0}}  # no random start explodes
    return Protocol(**content | {"engine": soft, "sampler": None, "timestep_fs": 0.2})


@pytest.mark.parametrize("path", PROTOCOLS, ids=lambda path: path.stem)
def test_shipped_protocols_can_be_listed(path: Path) -> None:
    text = plan(load_protocol(path), seconds_per_frame=36.0).table()
    assert "36.0 s per frame" in text


def test_plan_counts_what_the_source_counts() -> None:
    hfo = plan(load_protocol(CONFIGS / "hfo-m-mqa.yaml"), seconds_per_frame=10.0)
    assert (hfo.trajectories, hfo.n_conditions, hfo.frames) == (12, 60, 192_024)
    assert {c.atoms for c in hfo.conditions} == {96}
    assert hfo.hours == pytest.approx(192_024 * 10 / 3600)
    ood = {c.system for c in hfo.conditions if c.split == "ood"}
    assert ood == {"random OOD"}
    sin = load_protocol(CONFIGS / "sin.yaml")
    runs = [t for t in sin.trajectories() if t.start.split == "id"]
    assert len(runs) == 110
    sizes = [c.atoms for c in plan(sin).conditions]
    assert (min(sizes), max(sizes)) == (16, 510)
    assert plan(sin).hours is None


@pytest.mark.parametrize("name", ["hfo-m-mqa", "sin"])
def test_samd23_protocol_runs_at_toy_length(name: str, lj: dict[str, Any], tmp_path: Path) -> None:
    protocol = shortened(CONFIGS / f"{name}.yaml", lj)
    expected = plan(protocol)
    folder = run(protocol, tmp_path)
    frames = [a for path in folder.iterdir() for a in read(path, index=":")]
    assert len(frames) == expected.frames
    assert all(np.isfinite(a.get_forces()).all() for a in frames)
    seen = {(a.info["system"], a.info["stage"]) for a in frames}
    assert seen == {
        (t.system, stage.name) for t in protocol.trajectories() for stage in t.stages if stage.keep
    }
    assert {a.info["split"] for a in frames} == {"id", "ood"}
    assert all(a.info["level"].startswith("lj-") for a in frames)  # with its version


def small(lj: dict[str, Any], **changes: Any) -> Protocol:
    content: dict[str, Any] = {
        "name": "small",
        "engine": lj,
        "sampler": {"engine": "stillinger-weber"},
        "timestep_fs": 1,
        "frames_per_trajectory": 2,
        "recipes": {"heat": [{"name": "heat", "fs": 40, "every_fs": 10}]},
        "starts": [
            {"crystal": "Si", "recipe": "heat", "temperatures": [300, 600], "count": 2},
            {"crystal": "Si", "label": "Si7Ge", "recipe": "heat", "replace_after": {"Si": "Ge"}},
        ],
    }
    return Protocol(**content | changes)


def test_sample_then_label_and_resume(lj: dict[str, Any], tmp_path: Path) -> None:
    folder = run(small(lj), tmp_path)
    silicon = read(folder / "si.extxyz.xz", index=":")
    alloy = read(folder / "si7ge.extxyz.xz", index=":")
    assert (len(silicon), len(alloy)) == (8, 2)
    assert all(
        str(a.symbols.formula.count()) == "{'Si': 7, 'Ge': 1}"
        or a.symbols.formula.count() == {"Si": 7, "Ge": 1}
        for a in alloy
    )
    again = read(run(small(lj), tmp_path) / "si.extxyz.xz", index=":")
    np.testing.assert_array_equal(silicon[3].positions, again[3].positions)


def test_a_trajectory_resumed_is_the_trajectory(tmp_path: Path, monkeypatch) -> None:
    start = small({"engine": "lj"}).starts[0].build(0.0, np.random.default_rng(0))
    stages = [
        Stage(name="melt", temperature=600, fs=40, every_fs=10),
        Stage(name="quench", temperature=(600, 300), fs=40, every_fs=10),
    ]
    engine = make_engine({"engine": "stillinger-weber"})
    whole = read(sample(start, stages, engine, tmp_path / "whole", seed=3), index=":")
    monkeypatch.setattr("siliforce.generate.sampling.CHECKPOINT_SECONDS", 0.0)

    class Breaks(Exception):
        pass

    calls = 0
    original = type(engine).label

    def label(self: Engine, *args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 57:
            raise Breaks
        return original(self, *args)

    monkeypatch.setattr(type(engine), "label", label)
    with pytest.raises(Breaks):
        sample(start, stages, engine, tmp_path / "parts", seed=3)
    with (tmp_path / "parts" / "frames.extxyz").open("a") as file:
        file.write("8\ntorn")  # as a kill in mid-write leaves it
    resumed = read(sample(start, stages, engine, tmp_path / "parts", seed=3), index=":")
    assert len(whole) == len(resumed) == 8
    for a, b in zip(whole, resumed, strict=True):
        np.testing.assert_allclose(a.positions, b.positions, atol=2e-8)


def test_a_runaway_sampler_says_so(tmp_path: Path) -> None:
    start = small({"engine": "lj"}).starts[0].build(0.0, np.random.default_rng(0))
    stages = [Stage(name="melt", temperature=300, fs=400, every_fs=200)]
    hot = make_engine({"engine": "lj", "settings": {"sigma": 3.0, "epsilon": 5.0}})
    with pytest.raises(JobFailed, match=r"ran away|on top"):
        sample(start, stages, hot, tmp_path, timestep=20.0)


def test_an_engine_may_be_a_preset_but_for_some_settings(tmp_path: Path) -> None:
    (tmp_path / "preset.yaml").write_text(
        yaml.safe_dump({"engine": "gpaw", "python": "p", "settings": {"ecut": 600, "maxiter": 9}})
    )
    engine = {"base": "preset.yaml", "settings": {"ecut": 700}}
    path = tmp_path / "p.yaml"
    path.write_text(yaml.safe_dump({"name": "x", "engine": engine, "starts": [{"crystal": "Si"}]}))
    expected = {"engine": "gpaw", "python": "p", "settings": {"ecut": 700, "maxiter": 9}}
    assert load_protocol(path).engine == expected


@pytest.mark.parametrize("name", ["hfo-eos", "sin-eos"])
def test_energy_volume_scans_keep_one_mesh_per_phase(name: str) -> None:
    """A mesh that changes within a scan makes a jump in its energies."""
    protocol = load_protocol(CONFIGS / f"{name}.yaml")
    density = protocol.engine["settings"]["kpts"]["density"]
    meshes: dict[str, set[tuple[int, ...]]] = {}
    for trajectory in protocol.trajectories():
        mesh = kptdensity2monkhorstpack(trajectory.build(), density, even=False)
        meshes.setdefault(trajectory.start.crystal, set()).add(tuple(int(n) for n in mesh))
    assert len(meshes) >= 3
    assert all(len(found) == 1 for found in meshes.values()), meshes


def test_wrong_protocols_say_what_is_wrong(tmp_path: Path, lj: dict[str, Any]) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(
        yaml.safe_dump({"name": "x", "engine": lj, "starts": [{"crystal": "Si", "recipe": "no"}]})
    )
    with pytest.raises(ConfigError, match="wants recipe 'no'"):
        load_protocol(path)
    path.write_text(yaml.safe_dump({"name": "x", "engine": lj, "starts": [{}]}))
    with pytest.raises(ConfigError, match="exactly one of crystal"):
        load_protocol(path)
    path.write_text(yaml.safe_dump({"name": "x", "engine": "gone.yaml", "starts": []}))
    with pytest.raises(ConfigError, match=r"no file .*gone\.yaml"):
        load_protocol(path)


def test_every_system_has_a_file_of_its_own(lj: dict[str, Any], tmp_path: Path) -> None:
    names = ["α-Si", "β-Si", "Hf₃₂O₆₄", "Si (100)", "é"]
    assert [slug(name) for name in names] == ["alpha-si", "beta-si", "hf32o64", "si-100", "e"]
    starts = [{"crystal": "Si", "label": "α-Si", "strains": [0.0, 0.01]}]
    starts += [{"crystal": "Si", "label": "β-Si", "strains": [0.02, 0.03, 0.04]}]
    folder = run(Protocol(name="x", engine=lj, starts=starts), tmp_path)
    sizes = {path.name: len(read(path, ":")) for path in folder.iterdir()}
    assert sizes == {"alpha-si.extxyz.xz": 2, "beta-si.extxyz.xz": 3}
    frames = [a for path in folder.iterdir() for a in read(path, ":")]
    for atoms in frames:
        atoms.info["system"] = "a b" if atoms.info["system"] == "α-Si" else "a/b"
    with pytest.raises(
        DataError, match=r"'a b' and 'a/b' would both be written to 'a-b'|'a/b' and"
    ):
        gather(frames, tmp_path / "other")
    assert not (tmp_path / "other").exists()
    with pytest.raises(ValueError, match=r"'Si 1' and 'si-1' would both"):
        Protocol(
            name="x",
            engine=lj,
            starts=[starts[0] | {"label": "Si 1"}, starts[1] | {"label": "si-1"}],
        )
    with pytest.raises(ValueError, match="makes no file name"):
        Protocol(name="x", engine=lj, starts=[starts[0] | {"label": "++"}])


def test_an_edited_protocol_keeps_its_trajectories_and_gathers_no_other(
    lj: dict[str, Any], tmp_path: Path
) -> None:
    def protocol(first_count: int, **more: Any) -> Protocol:
        first = {"crystal": "Si", "label": "first", "rattle": 0.05, "count": first_count}
        return Protocol(name="x", engine=lj, starts=[first, first | {"label": "second"} | more])

    def frames(edited: Protocol, name: str) -> list[Any]:
        return read(run(edited, tmp_path) / f"{name}.extxyz.xz", ":")

    before = frames(protocol(1), "second")
    after = frames(protocol(2, count=1), "second")
    assert len(before) == len(after) == 1
    np.testing.assert_array_equal(before[0].positions, after[0].positions)
    assert len(frames(protocol(2, count=1), "first")) == 2
    assert len(frames(protocol(1, count=1), "first")) == 1  # the other is still in the run folder
    folder = run(protocol(1, count=1, label="third"), tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == ["first.extxyz.xz", "third.extxyz.xz"]


def test_trajectories_of_one_name_are_told_apart(lj: dict[str, Any]) -> None:
    start = {"crystal": "Si", "rattle": 0.05}
    one, two = Protocol(name="x", engine=lj, starts=[start, start]).trajectories()
    assert (one.name, two.name) == ("Si 0", "Si 1")
    assert not np.allclose(one.build().positions, two.build().positions)


def test_a_file_gives_one_start_for_each_frame(lj: dict[str, Any], tmp_path: Path) -> None:
    def write_file(seed: int) -> None:
        frames = [bulk("Si", a=a, cubic=True) for a in (5.3, 5.4, 5.5)]
        frames[1].rattle(0.01, seed=seed)
        write(tmp_path / "start.xyz", frames, format="extxyz")

    path = tmp_path / "p.yaml"  # not where the tests run
    content = {"name": "x", "engine": lj, "starts": [{"file": "start.xyz", "repeat": [1, 1, 2]}]}
    path.write_text(yaml.safe_dump(content))
    write_file(seed=1)
    folder = run(load_protocol(path), tmp_path / "run")
    found = read(folder / "start.xyz.extxyz.xz", ":")
    assert [a.cell.lengths()[[0, 2]].tolist() for a in found] == [
        pytest.approx([a, 2 * a]) for a in (5.3, 5.4, 5.5)
    ]
    write_file(seed=2)  # the same name, another structure
    again = read(run(load_protocol(path), tmp_path / "run") / "start.xyz.extxyz.xz", ":")
    assert len(again) == 3
    np.testing.assert_array_equal(found[0].positions, again[0].positions)
    assert not np.allclose(found[1].positions, again[1].positions)
