"""Protocols: what they list, that they run, that they resume; SAMD23's own at toy length."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from ase.build import bulk
from ase.calculators.calculator import kptdensity2monkhorstpack
from ase.io import read, write

from siliforce.errors import ConfigError, DataError
from siliforce.files import write_atomic
from siliforce.generate import load_protocol, plan, run
from siliforce.generate.engines import make_engine
from siliforce.generate.engines.base import Engine
from siliforce.generate.pipeline import gather, sampling_jobs
from siliforce.generate.protocols import Protocol
from siliforce.generate.runner import slug
from siliforce.generate.sampling import Stage, sample
from siliforce.jobs import JobFailed

CONFIGS = Path(__file__).parents[2] / "src" / "siliforce" / "configs" / "generate"
PROTOCOLS = sorted(CONFIGS.glob("*.yaml"))
HEATED = {"crystal": "Si", "recipe": "heat"}  # 4 frames, 40 steps; see `small`


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
    steps = 4 * 2667 * 3 + 2 * 2667 * 4  # frames 9 and 12 fs apart in steps of 3 fs
    assert hfo.hours == pytest.approx(12 * (steps + 1) * 10 / 3600)
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
    relaxed = sum(stage.name == "relax" for t in protocol.trajectories() for stage in t.stages)
    assert expected.frames - relaxed <= len(frames) <= expected.frames  # relaxing may end at once
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

    class Breaks(KeyboardInterrupt):
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


def breaking(
    monkeypatch: pytest.MonkeyPatch, engine: Engine, broken: Callable[[int], bool]
) -> None:
    """Let an engine fail at those of its calls, counted from 1."""
    original, calls = type(engine).label, itertools.count(1)

    def label(self: Engine, *args: Any, **kwargs: Any) -> Any:
        if self.engine == engine.engine and broken(next(calls)):
            raise JobFailed("the SCF did not converge")
        return original(self, *args, **kwargs)

    monkeypatch.setattr(type(engine), "label", label)


def test_a_failed_step_is_tried_again_where_it_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    protocol = small({"engine": "stillinger-weber"}, sampler=None, starts=[HEATED])
    breaking(monkeypatch, protocol.label_engine(), lambda call: call == 25)
    frames = read(run(protocol, tmp_path) / "si.extxyz.xz", index=":")
    assert len(frames) == 2
    assert not (tmp_path / "sampling" / "failed").exists()
    log = (tmp_path / "sampling" / "log.jsonl").read_text().splitlines()
    assert len(log) == 1  # the step, not the trajectory, was done twice


@pytest.mark.parametrize(
    "sampler",
    [
        pytest.param(None, id="aimd", marks=pytest.mark.full),
        pytest.param({"engine": "stillinger-weber"}, id="sampler"),
    ],
)
def test_frames_before_a_failure_are_kept_and_labelled(
    sampler: dict[str, Any] | None, lj: dict[str, Any], tmp_path: Path, monkeypatch
) -> None:
    engine = lj if sampler else {"engine": "stillinger-weber"}
    protocol = small(engine, sampler=sampler, frames_per_trajectory=None, starts=[HEATED])
    with monkeypatch.context() as patch:
        breaking(patch, protocol.sample_engine(), lambda call: call >= 25)
        frames = read(run(protocol, tmp_path) / "si.extxyz.xz", index=":")
    assert len(frames) == 2  # 10 and 20 of 40 fs
    assert all(np.isfinite(a.get_forces()).all() for a in frames)
    next((tmp_path / "sampling" / "failed").iterdir()).unlink()  # try it again
    more = read(run(protocol, tmp_path) / "si.extxyz.xz", index=":")
    assert len(more) == 4
    np.testing.assert_array_equal(more[0].positions, frames[0].positions)


def test_ab_initio_md_is_thinned_replaced_gated_and_stored_like_everything(tmp_path: Path) -> None:
    stages = [
        {"name": "heat", "fs": 40, "every_fs": 10},
        {"name": "relax", "ensemble": "relax", "fs": 4000, "every_fs": 10},
    ]
    starts = [
        HEATED,
        HEATED | {"label": "pair", "frames": 1},
        {"crystal": "Si", "label": "static", "rattle": 0.05},
    ]
    whole = {"sampler": None, "frames_per_trajectory": None, "recipes": {"heat": stages}}
    protocol = small({"engine": "stillinger-weber"}, **whole, starts=starts)
    folder = run(protocol, tmp_path)
    frames = read(folder / "si.extxyz.xz", index=":")
    relaxed = [a for a in frames if a.info["stage"] == "relax"]
    assert 1 <= len(relaxed) < 400  # it ends where nothing is left to relax
    assert np.linalg.norm(relaxed[-1].get_forces(), axis=1).max() < 0.02
    assert len({a.info["key"] for a in frames}) == len(frames)
    assert len(read(folder / "pair.extxyz.xz", index=":")) == 1
    engine = protocol.label_engine()
    again = engine.label(frames[0], tmp_path, safer=False)
    assert frames[0].get_potential_energy() == pytest.approx(again.energy, abs=1e-6)
    np.testing.assert_allclose(frames[0].get_forces(), again.forces, atol=1e-6)
    computed = (tmp_path / "log.jsonl").read_text().splitlines()
    assert len(computed) == 1  # the static one: the dynamics had labelled the others


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.full)])
def test_a_long_trajectory_says_how_far_it_is(
    workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if workers == 1:
        monkeypatch.setattr("siliforce.generate.sampling.CHECKPOINT_SECONDS", 0.0)
    else:  # what a worker wrote is read by the process that started it
        key = sampling_jobs(small({"engine": "lj"}, starts=[HEATED]))[0].key
        write_atomic(
            tmp_path / "sampling" / "trajectories" / key / "progress.txt", "Si 0: 3/4 segments\n"
        )
    lines: list[str] = []
    protocol = small({"engine": "stillinger-weber"}, starts=[HEATED])
    run(protocol, tmp_path, workers, lambda progress: lines.append(progress.line()))
    assert any("; Si 0: 3/4 segments" in line for line in lines), lines
    assert "segments" not in lines[-1]


@pytest.mark.parametrize("after", [{}, {"Si": "Ge"}])
def test_the_plan_counts_the_calls_of_the_engine(
    after: dict[str, str], lj: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = [
        {"name": "warm", "fs": 6, "every_fs": 3, "keep": False},
        {"name": "heat", "fs": 10, "every_fs": 5},
    ]
    start = HEATED | {"replace_after": after}
    protocol = small(lj, sampler=None, recipes={"heat": stages}, starts=[start])
    calls: list[int] = []
    breaking(monkeypatch, protocol.label_engine(), lambda call: bool(calls.append(call)))
    run(protocol, tmp_path)
    assert plan(protocol).calls == len(calls) == 1 + 16 + 2 * len(after)


def test_an_element_put_in_after_ab_initio_md_is_labelled_anew(
    lj: dict[str, Any], tmp_path: Path
) -> None:
    start = HEATED | {"replace_after": {"Si": "Ge"}}
    frames = read(run(small(lj, sampler=None, starts=[start]), tmp_path) / "si.extxyz.xz", ":")
    assert [a.symbols.formula.count() for a in frames] == [{"Si": 7, "Ge": 1}] * 2
    again = make_engine(lj).label(frames[0], tmp_path, safer=False)
    np.testing.assert_allclose(frames[0].get_forces(), again.forces, atol=1e-6)


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


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ({"crystal": "Si", "vacancies": {"Xx": 1}}, "'Xx' is no chemical element"),
        ({"random": "Foo3"}, "'Foo3' is no chemical formula"),
        ({"random": "Si4", "density": 0}, r"starts\.0\.density: .* greater than 0 \(given: 0\)"),
        ({"crystal": "Si", "strain": 0.1}, "unknown key 'starts.0.strain'; did you mean 'strains'"),
        ({"crystal": "Si", "temperatures": [-300]}, r"greater than or equal to 0 \(given: -300\)"),
    ],
)
def test_wrong_starts_say_what_is_wrong(
    start: dict[str, Any], message: str, lj: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(yaml.safe_dump({"name": "x", "engine": lj, "starts": [start]}))
    with pytest.raises(ConfigError, match=message):
        load_protocol(path)


def test_wrong_engines_and_stages_are_said_with_the_plan(
    lj: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "p.yaml"
    stage = {"name": "a", "ensemble": "npt", "fs": 1, "every_fs": 1}
    content = {"name": "x", "engine": lj, "recipes": {"r": [stage]}, "starts": [{"crystal": "Si"}]}
    for changes, message in (
        ({"engine": {"engine": "gpwa"}}, "did you mean 'gpaw'"),
        ({"sampler": {"engine": "gpwa"}}, "did you mean 'gpaw'"),
        ({"engine": lj | {"stress": False}}, "npt needs stress"),
        ({"recipes": {"r": [stage | {"temperature": -300}]}}, "greater than or equal to 0"),
    ):
        path.write_text(yaml.safe_dump(content | changes))
        with pytest.raises(ConfigError, match=message):
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
